"""Train a recurrent network to name MNIST digits, read row by row.

    python -m experiments.mnist_rnn [tf1|keras] [--options]

keras (the default): 5 epochs on the first 48,000 training images, about 0.96 test accuracy.

tf1: 100 epochs on the last 55,000 training images, about 0.98 at best.

Each preset is the protocol of one published notebook; every option changes one part of it.
"""

import contextlib
import dataclasses
import difflib
import functools
import itertools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NoReturn

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
import platformdirs
import tyro
from flax.training.train_state import TrainState
from tqdm import tqdm

import jaxrnn
from jaxrnn import History, Split
from jaxrnn.history import write_atomically
from jaxrnn.models import CELLS
from jaxrnn.parallel import batch_mesh, replicate, use_cpu_cores


@dataclasses.dataclass(frozen=True)
class Config:
    """One run, fully described."""

    preset: tyro.conf.Suppress[str]

    epochs: int
    """Passes over the training split."""
    batch_size: int = 150
    """Examples in each optimizer step."""
    learning_rate: float = 1e-3
    """Of Adam."""
    epsilon: float = 1e-7
    """Of Adam; added to the root of its second moment before the bias is corrected."""

    hidden: int = 150
    """Recurrent units in each layer."""
    cell: str = "simple"
    """Recurrent cell: simple (the Elman network), gru, lstm or mgu."""
    layers: int = 1
    """Recurrent layers, one on top of the other."""
    bidirectional: bool = False
    """Read each image from both ends."""
    initializers: Literal["keras", "tf1"] = "keras"
    """Initial weights: those of Keras's SimpleRNN or of TF1's BasicRNNCell."""

    dataset: str = "mnist"
    """mnist (bundled), fashion_mnist, kmnist, or any tfds dataset of labelled images."""
    train_split: str = "train[:48000]"
    """Trained on; a tfds split string, such as train[:80%]."""
    validation_split: str | None = None
    """Evaluated after every epoch; None for none."""
    test_split: str = "test"
    """Evaluated at the end."""
    test_every_epoch: bool = False
    """Evaluate the test split after every epoch too."""
    drop_remainder: bool = False
    """Train on whole batches only, leaving out what does not fill one."""
    train_curve: Literal["epoch", "last_batch"] = "epoch"
    """Training curve: mean over the epoch's steps, or its last batch after its own update."""

    seed: int = 0
    """Of initial weights and data order; the same seed on the same devices is the same run."""
    devices: int | None = None
    """How many share each batch; None for as many as divide it (on a CPU: of its cores)."""
    recurrence: Literal["fast", "flax"] = "fast"
    """Hand-written gradient, or flax.linen.RNN for comparison."""
    data_dir: Path | None = None
    """Where prepared datasets are kept; None for tfds's own place, ~/tensorflow_datasets."""
    archives: Path | None = None
    """Folder with the four archives of mnist, fashion_mnist or kmnist, instead of a download."""
    workdir: Path | None = None
    """Where the run leaves its files; None for runs/mnist_rnn/PRESET-DATE-TIME."""


# One published notebook each, with one difference: TF1's next_batch carries the 100 examples that
# do not fill a batch over into the next epoch, and here each epoch leaves out 100 others.
PRESETS = {
    "tf1": Config(
        preset="tf1",
        epochs=100,
        epsilon=1e-8,
        initializers="tf1",
        train_split="train[5000:]",
        test_every_epoch=True,
        drop_remainder=True,
        train_curve="last_batch",
    ),
    "keras": Config(preset="keras", epochs=5, validation_split="train[48000:]"),
}
DEFAULT_PRESET = "keras"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; anything wrong with the input is one line on stderr and status 2."""
    config = parse(sys.argv[1:] if arguments is None else arguments)
    clock = jaxrnn.Clock()
    try:
        check(config)
        use_cpu_cores(config.devices)
        keep_compiled_programs()
        batch_mesh(config.batch_size, config.devices)
        with clock("preparation"):
            splits = load_splits(config)
        if config.batch_size > len(splits["train"]):
            raise ValueError(
                f"--batch-size {config.batch_size} is larger than the training split "
                f"{config.train_split!r} of {len(splits['train'])} examples"
            )
        with clock("training"):
            state = initial_state(config, splits["train"])
        workdir = make_workdir(config)
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))
    except jax.errors.JaxRuntimeError as error:
        fail(f"a network of this size does not fit in memory: {error}")
    results = run(config, state, splits, workdir, clock)
    print(f"test accuracy {results['test_accuracy']:.4f}; everything is in {workdir}")


def parse(arguments: Sequence[str]) -> Config:
    """The preset named first (``keras`` if none is), with the options that follow it."""
    arguments = list(arguments)
    named = bool(arguments) and not arguments[0].startswith("-")
    preset = arguments.pop(0) if named else DEFAULT_PRESET
    if preset not in PRESETS:
        close = difflib.get_close_matches(preset, PRESETS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        fail(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}{hint}")
    return tyro.cli(
        Config,
        default=PRESETS[preset],
        args=arguments,
        prog=f"python -m experiments.mnist_rnn {preset if named else '[tf1|keras]'}",
        description=__doc__,
    )


def fail(message: str) -> NoReturn:
    """End with exit status 2 and one line that says what was wrong."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def check(config: Config) -> None:
    """Raise ``ValueError`` for what is wrong before any data is read or any folder is made."""
    for name in ("epochs", "batch_size", "hidden", "layers"):
        if getattr(config, name) < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} must be at least 1; got {getattr(config, name)}")
    for name in ("learning_rate", "epsilon"):
        value = getattr(config, name)
        if not 0 < value <= float(np.finfo(np.float32).max):  # what the step can hold
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} must be a positive finite number, like 1e-3; got {value}")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"--seed must be between 0 and 4294967295; got {config.seed}")
    if config.devices is not None and config.devices < 1:
        raise ValueError(f"--devices must be at least 1; got {config.devices}")
    if config.cell not in CELLS:
        raise ValueError(f"--cell must be one of {', '.join(CELLS)}; got {config.cell!r}")
    if config.workdir is not None:
        check_workdir(config.workdir)


def check_workdir(workdir: Path) -> None:
    """Raise ``ValueError`` for a work dir that cannot be made or holds a run already."""
    try:
        if workdir.exists() and not workdir.is_dir():
            raise ValueError(f"--workdir {workdir} is a file; name a folder")
        if (workdir / "config.json").exists():
            raise ValueError(f"--workdir {workdir} holds a run already; name a new folder")
        ancestor = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    except OSError as error:  # a name that is too long, a folder that may not be searched
        raise ValueError(f"--workdir {workdir} cannot be used: {error.strerror}") from error
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise ValueError(f"--workdir {workdir} cannot be written: {ancestor} does not allow it")


def keep_compiled_programs() -> None:
    """Keep what is compiled in the user's cache folder, unless JAX was told another place."""
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        folder = platformdirs.user_cache_dir("jaxrnn")
        jax.config.update("jax_compilation_cache_dir", f"{folder}/compiled")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def load_splits(config: Config) -> dict[str, Split]:
    """The splits that the run needs, by role: train, test and, where wanted, validation."""
    names = {
        "train": config.train_split,
        "validation": config.validation_split,
        "test": config.test_split,
    }
    return {
        role: jaxrnn.load(
            config.dataset, split=name, data_dir=config.data_dir, archives=config.archives
        )
        for role, name in names.items()
        if name is not None
    }


def make_model(config: Config, classes: int) -> jaxrnn.RNNClassifier:
    """The network that the configuration describes."""
    return jaxrnn.RNNClassifier(
        hidden=config.hidden,
        classes=classes,
        cell=config.cell,
        layers=config.layers,
        bidirectional=config.bidirectional,
        initializers=config.initializers,
        recurrence=config.recurrence,
    )


@functools.lru_cache  # what is compiled is compiled for one optimizer object
def make_optimizer(learning_rate: float, epsilon: float) -> optax.GradientTransformation:
    r"""Adam as TensorFlow and Keras have it, whose ε is added before the bias is corrected.

    .. math:: \theta \leftarrow \theta - \eta\,
        \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \frac{m_t}{\sqrt{v_t} + \epsilon}

    That is optax's Adam with an ε of :math:`\epsilon / \sqrt{1 - \beta_2^t}` at step t.

    Source: D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization" (2015), the end of
    section 2, where the two orders of computation are given.
    """

    def corrected_epsilon(count: jax.Array) -> jax.Array:
        return epsilon / jnp.sqrt(1 - 0.999 ** (count + 1.0))

    adam = optax.inject_hyperparams(optax.adam)
    return adam(learning_rate, b1=0.9, b2=0.999, eps=corrected_epsilon)


def initial_state(config: Config, train: Split) -> TrainState:
    """The state before the first step: initial weights follow from the seed alone."""
    init_key, _ = jax.random.split(jax.random.key(config.seed))
    model = make_model(config, classes=len(train.class_names))
    optimizer = make_optimizer(config.learning_rate, config.epsilon)
    return jaxrnn.create_train_state(init_key, model, optimizer, train.inputs)


def make_workdir(config: Config) -> Path:
    """Make the folder of the run and write ``config.json``; leave nothing where that fails."""
    workdir = config.workdir or unused_folder(config.preset)
    made = [path for path in (workdir, *workdir.parents) if not path.exists()]
    try:
        # Only a folder that was named may be there already.
        workdir.mkdir(parents=True, exist_ok=config.workdir is not None)
        write_json(workdir / "config.json", dataclasses.asdict(config))
    except OSError as error:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise OSError(f"--workdir {workdir} cannot be written: {error.strerror}") from error
    return workdir


def unused_folder(preset: str) -> Path:
    """``runs/mnist_rnn/PRESET-DATE-TIME``, with a number where that is another run's."""
    stem = Path("runs", "mnist_rnn", f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}")
    numbered = (stem.with_name(f"{stem.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([stem], numbered) if not path.exists())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file of indented JSON, atomically."""
    write_atomically(path, json.dumps(content, indent=2, default=str, allow_nan=False) + "\n")


def run(
    config: Config,
    state: TrainState,
    splits: dict[str, Split],
    workdir: Path,
    clock: jaxrnn.Clock,
) -> dict[str, Any]:
    """Train, evaluate and draw; returns what ``results.json`` holds."""
    train, test = splits["train"], splits["test"]
    mesh = batch_mesh(config.batch_size, config.devices)
    devices = describe_devices(mesh.devices.flat)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(
        f"{config.preset}: {parameters:,} parameters, {len(train):,} training examples of "
        f"{config.dataset}, on {len(devices)} × {devices[0]}; files in {workdir}"
    )
    _, data_key = jax.random.split(jax.random.key(config.seed))
    test_on_devices = replicate(test, mesh)
    with ThreadPoolExecutor() as pool:  # in the shadow of the training step's compilation
        if not config.test_every_epoch:  # else fit compiles it
            on_devices = replicate(state, mesh), test_on_devices
            pool.submit(jaxrnn.evaluate.lower(*on_devices, mesh=mesh).compile)
        samples = pool.submit(lambda: jaxrnn.plot_samples(train).savefig(workdir / "samples.png"))
        state, history = jaxrnn.fit(
            state,
            train,
            key=data_key,
            epochs=config.epochs,
            batch_size=config.batch_size,
            validation=splits.get("validation"),
            test=test_on_devices if config.test_every_epoch else None,
            drop_remainder=config.drop_remainder,
            train_curve=config.train_curve,
            on_epoch=print_like_tf1_notebook if config.preset == "tf1" else None,
            workdir=workdir,
            progress=True,
            clock=clock,
            devices=config.devices,
        )
    samples.result()
    with clock("evaluation"):
        metrics = jax.device_get(jaxrnn.evaluate(state, test_on_devices, mesh=mesh))
    if config.preset == "keras":
        print("accuracy: ", float(metrics.accuracy))  # as its notebook does
    jaxrnn.plot_history(history).savefig(workdir / "curves.png")

    measured = {
        **{k: v for k, v in history.rows[-1].items() if k.startswith(("train_", "validation_"))},
        "test_loss": float(metrics.loss),
        "test_accuracy": float(metrics.accuracy),
        **best(history, float(metrics.accuracy)),
    }
    results = {
        "preset": config.preset,
        "seed": config.seed,
        "parameters": parameters,
        # JSON has no NaN: a loss that left the finite numbers is null.
        **{name: value if math.isfinite(value) else None for name, value in measured.items()},
        "seconds": clock.seconds,
        "versions": {
            "jaxrnn": jaxrnn.__version__,
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.version.__version__,
            "flax": flax.__version__,
            "optax": optax.__version__,
        },
        "devices": devices,
    }
    write_json(workdir / "results.json", results)
    return results


def print_like_tf1_notebook(state: TrainState, history: History) -> None:
    """A line every tenth epoch."""
    row = history.rows[-1]
    if row["epoch"] % 10 == 0 and "test_accuracy" in row:
        train, test = row["train_accuracy"], row["test_accuracy"]
        tqdm.write(f"{row['epoch']} Train Accuracy: {train:0.4f}, Test Accuracy: {test:0.4f}")


def best(history: History, final_test_accuracy: float) -> dict[str, float]:
    """The best test accuracy and its epoch; the last epoch where no other one was tested."""
    if not history.measured("test_accuracy"):
        return {"best_test_accuracy": final_test_accuracy, "best_epoch": len(history)}
    row = history.best("test_accuracy")
    return {"best_test_accuracy": row["test_accuracy"], "best_epoch": row["epoch"]}


def describe_devices(devices: Iterable[jax.Device]) -> list[str]:
    """Each device's platform and, where that says more, its kind."""
    return [" ".join(dict.fromkeys((device.platform, device.device_kind))) for device in devices]


if __name__ == "__main__":
    main()
