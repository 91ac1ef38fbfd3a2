"""Data that has changed since a run was trained on it: named and refused, or a warning."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxrnn
from experiments.language import PRESETS as LANGUAGE
from jaxrnn import Datasets, Experiment, RNNConfig, Source, Split, TrainerConfig
from jaxrnn.runs import RuntimeConfig
from jaxrnn.runs.prepare import check_same_data
from tests.shared import mnist_rnn

RUN = [
    *("keras", "--name", "data/pets", "--train", "train", "--validation", "None", "--test"),
    *("train", "--batch-size", "6", "--hidden", "4", "--workdir", "run"),
]


def draw(folder, *, shape=(6, 5), count=6, seed=0):
    """Random pictures in a directory of a class."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(f"{folder}/{index}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two classes of pictures in ``data/pets``, and a run of an epoch on them in ``run``."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        draw("data/pets/cat", seed=1)
        draw("data/pets/dog", seed=2)
        mnist_rnn(*RUN, "--epochs", "1")
    return folder


@pytest.fixture(autouse=True)
def folder(trained, tmp_path, monkeypatch):
    """Each test starts in a copy of both."""
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "copy"))


def rename_class():
    Path("data/pets/cat").rename("data/pets/zebra")


def add_class():
    draw("data/pets/fox", seed=3)


def swap_classes():
    Path("data/pets/cat").rename("cat")
    Path("data/pets/dog").rename("data/pets/cat")
    Path("cat").rename("data/pets/dog")


def other_size():
    draw("data/pets/cat", shape=(6, 7))
    draw("data/pets/dog", shape=(6, 7))


def in_color():
    draw("data/pets/cat", shape=(6, 5, 3))
    draw("data/pets/dog", shape=(6, 5, 3))


def one_pixel():
    pixels = np.array(Image.open("data/pets/dog/5.png"))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save("data/pets/dog/5.png")


def more_examples():
    draw("data/pets/dog", seed=2, count=7)


def other_order():
    Path("data/pets/dog/0.png").rename("data/pets/dog/9.png")


@pytest.mark.parametrize(
    ("change", "there", "here"),
    [
        (rename_class, "['cat', 'dog']", "['dog', 'zebra']"),
        (add_class, "['cat', 'dog']", "['cat', 'dog', 'fox']"),
        (other_size, "[6, 5]", "[6, 7]"),
        (in_color, "[6, 5]", "[6, 15]"),
    ],
)
def test_other_classes_or_shapes_are_refused(change, there, here, refuse):
    change()
    for words in (["evaluate", "run"], ["resume", "run", "--epochs", "2"], [*RUN, "--epochs", "2"]):
        err = refuse(*words, *["--other-data"] * (words[0] == "resume"))
        assert there in err
        assert here in err


@pytest.mark.parametrize("change", [swap_classes, one_pixel, more_examples, other_order])
def test_other_examples_are_a_warning_or_refused(change, refuse, caplog, capsys):
    change()
    mnist_rnn("evaluate", "run")
    (message,) = caplog.messages
    assert "train" in message
    assert "test_accuracy" in capsys.readouterr().out
    for words in (["resume", "run"], RUN):
        err = refuse(*words, "--epochs", "2")
        assert "--other-data" in err
        assert "train" in err


def test_option_that_allows_other_examples(refuse, caplog):
    more_examples()
    mnist_rnn("resume", "run", "--epochs", "2", "--other-data")
    caplog.clear()
    mnist_rnn("evaluate", "run")
    mnist_rnn("resume", "run", "--epochs", "3")
    assert not caplog.messages
    one_pixel()  # the option was for that time
    assert "--other-data" in refuse("resume", "run", "--epochs", "4")


def test_same_content_is_the_same_data(caplog):
    """In another file format, touched, and streamed or not."""
    for path in Path("data/pets").glob("*/*.png"):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    mnist_rnn("evaluate", "run")
    mnist_rnn("resume", "run", "--epochs", "2", "--stream")
    mnist_rnn("resume", "run", "--epochs", "3", "--no-stream")
    assert len(jaxrnn.load_run("run").history) == 3
    assert not caplog.messages


def test_other_alphabet_is_refused(refuse, caplog):
    def main(*words):
        jaxrnn.main(LANGUAGE, default="lstm", arguments=words)

    def write(characters):
        text = "".join(np.random.default_rng(0).choice([*characters], 3000))
        Path("text").write_text(text, encoding="utf-8")

    write("abc\n")
    options = ["--text", "text", "--hidden", "4", "--rows", "4", "--batch-size", "4"]
    options += ["--schedule", "constant", "--warmup", "0", "--epochs", "1"]
    main(*options, "--workdir", "run/text")
    write("cba\n")
    main("evaluate", "run/text")
    assert caplog.text.count("train (different examples or order)") == 1
    write("abd\n")
    for words in (["evaluate", "run/text"], ["resume", "run/text", "--epochs", "2"]):
        err = refuse(*words, run=main)
        assert r"['\n', 'a', 'b', 'c']" in err
        assert r"['\n', 'a', 'b', 'd']" in err


@dataclass(frozen=True)
class Reader:
    """What a page of one's own may stream."""

    split: Split

    def __len__(self):
        return len(self.split)

    def read(self, indices):
        return self.split.read(indices)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A data group of one's own."""

    wrap: bool = False

    def build(self):
        held = Split(NUMBERS["inputs"], NUMBERS["labels"])
        return Datasets(Reader(held) if self.wrap else held, {"held_out": held}, outputs=2)


NUMBERS = {}


@pytest.mark.parametrize("wrap", [False, True])
def test_data_of_a_page(wrap, monkeypatch, caplog):
    """Arrays are compared; of what reads by itself, the number of examples."""
    inputs = np.random.default_rng(0).normal(size=(12, 3, 2)).astype(np.float32)
    monkeypatch.setitem(NUMBERS, "inputs", inputs)
    monkeypatch.setitem(NUMBERS, "labels", np.arange(12) % 2)
    runtime = RuntimeConfig(workdir="run/own", stream=wrap)

    def run(epochs, **options):
        trainer = TrainerConfig(epochs=epochs, batch_size=4)
        data, model = Numbers(wrap=wrap), RNNConfig(hidden=4)
        jaxrnn.run(
            Experiment(data=data, model=model, trainer=trainer, runtime=replace(runtime, **options))
        )

    run(1)
    run(2)
    NUMBERS["inputs"] = np.concatenate([inputs, inputs[:4]])
    NUMBERS["labels"] = np.arange(16) % 2
    with pytest.raises(ValueError, match=r"train.*--other-data"):
        run(3)
    run(3, other_data=True)


def test_digests_follow_content_alone(tmp_path):
    source = Source("data/pets", split="train")
    assert source.digest == source.load().digest
    assert source.digest == Source("data/pets", split="train[:4]+train[4:]").digest
    assert source.digest != Source("data/pets", split="train[4:]").digest
    before = Source("data/pets", split="train[:5]").digest
    one_pixel()
    assert Source("data/pets", split="train[:5]").digest == before
    assert Source("data/pets", split="train").digest != source.digest
    split = source.load()
    assert split.replace().digest == Split(split.inputs, split.labels).digest
    assert split.replace(labels=1 - split.labels).digest != split.replace().digest
    tree = jaxrnn.data.splits.jax.tree.structure
    assert tree(split) == tree(split.replace())


def test_of_long_lists_the_difference_is_named():
    letters = [f"letter {number:03}" for number in range(300)]
    for there, here, message in (
        (letters, [*letters, "é"], "classes ([] there, ['é'] here)"),
        (letters, letters[::-1], "letter 003', 'letter 004', 'letter … there, ['letter 299', "),
        (letters[:150], letters[50:], "['letter 000', 'letter 001', "),
    ):
        about = {"input_shape": [3, 2], "outputs": 9, "channels": 1, "pixels": False, "splits": {}}
        with pytest.raises(ValueError, match="has changed since training") as raised:
            check_same_data({**about, "class_names": there}, {**about, "class_names": here})
        assert message in str(raised.value)
        assert len(str(raised.value)) < 300
