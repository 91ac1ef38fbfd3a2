"""The page on which one draws: its script computes what Python computes."""

import base64
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from experiments.digits.page import _TEMPLATE, drawing_page
from experiments.digits.pictures import fit_digit
from jaxrnn import RNNModel
from jaxrnn.data.convert import as_sequences

NAMES = list("0123456789")
SHUFFLED = np.random.RandomState(0).permutation(784)  # as in as_sequences


def scripts(html: str) -> list[str]:
    return re.findall(r"<script[^>]*>\n(.*?)</script>", html, re.DOTALL)


class Script:
    """The part of a page that needs no browser, in a JavaScript engine."""

    def __init__(self, html: str) -> None:
        engine = pytest.importorskip("py_mini_racer", reason="mini-racer runs the page's script")
        self.engine = engine.MiniRacer()
        network = scripts(html)[0]
        weights = re.search(r'"weights": "(.*?)"', network)[1]  # type: ignore[index]
        text = base64.b64decode(weights).decode("latin-1")  # as atob decodes it
        self.engine.eval(f"const atob = () => {json.dumps(text)}")
        self.engine.eval(network)

    def __call__(self, expression: str) -> Any:
        return json.loads(self.engine.eval(f"JSON.stringify({expression})"))

    def beliefs(self, image: np.ndarray) -> np.ndarray:
        return np.array(self(f"beliefs({image.ravel().tolist()})"))

    def fit(self, ink: np.ndarray) -> np.ndarray | None:
        height, width = ink.shape
        pixels = self(f"fitDigit({ink.ravel().tolist()}, {height}, {width})")
        return pixels and np.array(list(pixels.values())).reshape(28, 28)


def network(time: int = 28, **options: Any) -> tuple[RNNModel, Any]:
    """A network with random weights, its biases too."""
    model = RNNModel(**{"hidden": 6, **options})
    inputs = jnp.zeros((1, time, 784 // time))
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]
    draw = np.random.default_rng(0).normal
    return model, jax.tree.map(lambda leaf: draw(0, 0.3, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def script() -> Script:
    return Script(drawing_page(*network(), (28, 28), NAMES))


@pytest.mark.parametrize(
    ("cell", "activation", "time", "order"),
    [
        *(("simple", "tanh", 28, None), ("simple", "relu", 784, SHUFFLED)),
        *(("gru", "tanh", 28, None), ("gru", "relu", 28, None), ("lstm", "tanh", 28, None)),
    ],
)
def test_script_computes_the_probabilities_of_the_network(digits, cell, activation, time, order):
    model, params = network(time, cell=cell, activation=activation, layers=2)
    script = Script(drawing_page(model, params, (time, 784 // time), NAMES, order))
    images = np.asarray(digits.inputs[:10])
    inputs = as_sequences(images, time, permute=order is not None) / np.float32(255)
    apply = jax.jit(lambda x: model.apply({"params": params}, x, every_step=True))
    expected = jax.nn.softmax(apply(inputs))
    assert np.ptp(np.asarray(expected), axis=0).max() > 1e-3  # else all images are alike
    for image, beliefs in zip(images, expected, strict=True):
        np.testing.assert_allclose(script.beliefs(image), beliefs, rtol=0, atol=1e-4)


def inks() -> list[np.ndarray]:
    """Blobs of many sizes and places, a dot, and lines of one pixel."""
    random = np.random.default_rng(1)
    drawn = []
    for number in range(17):
        ink = np.zeros(random.integers(5, 90, 2))
        height, width = (int(random.integers(1, size + 1)) for size in ink.shape)
        top, left = (random.integers(0, n + 1) for n in np.subtract(ink.shape, (height, width)))
        blob = random.random((height, width)) * (random.random((height, width)) < 0.1 + number / 18)
        ink[top : top + height, left : left + width] = blob
        ink[top, left] = 0.7
        drawn.append(ink)
    dot, line, column = np.zeros((3, 40, 60))
    dot[3, 50] = 1
    line[20, 10:45] = random.random(35)
    column[1:39, 0] = random.random(38)
    return [*drawn, dot, line, column]


def test_script_fits_ink_exactly_as_python(script):
    assert len(inks()) == 20
    for ink in inks():
        np.testing.assert_array_equal(script.fit(ink), fit_digit(ink))
    assert script.fit(np.zeros((9, 5))) is None


def test_script_rounds_halves_to_even(script):
    halves = [0, 0.5, 1.5, 2.5, 126.5, 127.5, 3.4, 3.6]
    assert script(f"{halves}.map(round)") == [round(half) for half in halves]


def test_script_is_short():
    parts = scripts(_TEMPLATE.read_text(encoding="utf-8"))
    assert len(parts) == 2
    assert sum(len(part.splitlines()) for part in parts) < 200


def test_web_page_loads_nothing():
    html = drawing_page(*network(), (28, 28), NAMES)
    assert "default-src 'none'" in html
    assert re.findall(r"""(?:src|href)=["']?([^"' >]*)""", html) == ["data:,"]
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp", html)


def test_class_names_cannot_end_the_script():
    names = ['</script><script>alert("1")</script>', "<!--", "&amp;", "é\u2028", "\\", *"56789"]
    html = drawing_page(*network(), (28, 28), names)
    assert html.count("</script>") == 2
    assert "<!--" not in html
    assert Script(html)("data.names") == names


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"bidirectional": True}, "a bidirectional network"),
        ({"pooling": "mean"}, "pooling 'mean'"),
        ({"layer_norm": True}, "layer_norm"),
        ({"dtype": "bfloat16"}, "dtype bfloat16"),
        ({"skip": True}, "skip"),
        ({"embedding": 3}, "embedding"),
        ({"cell": "mgu"}, "cell mgu, only simple, gru, lstm"),
        ({"cell": nn.SimpleCell(5)}, "cell SimpleCell"),
    ],
)
def test_networks_that_the_web_page_cannot_compute(options, what):
    with pytest.raises(ValueError, match=f"can't compute.*{what}"):
        drawing_page(RNNModel(**options), {}, (28, 28), NAMES)


@pytest.mark.parametrize(
    ("time", "order", "options", "about"),
    [
        (28, None, {}, "An Elman network of 6 units (280 parameters) reads your drawing row by"),
        (784, None, {"cell": "gru", "layers": 2}, "A GRU network of 2 layers of 6 units"),
        (784, SHUFFLED, {"cell": "lstm"}, "in a fixed, shuffled order"),
    ],
)
def test_web_page_describes_the_network(time, order, options, about):
    assert about in drawing_page(*network(time, **options), (time, 784 // time), NAMES, order)
