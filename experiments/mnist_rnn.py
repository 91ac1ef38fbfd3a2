"""Train a recurrent network to name MNIST digits, read row by row.

    python -m experiments.mnist_rnn [tf1|keras] [--options]
    python -m experiments.mnist_rnn evaluate WORKDIR

keras (the default): 5 epochs on the first 48,000 training images, about 0.96 test accuracy.

tf1: 100 epochs on the last 55,000 training images, about 0.98 at best.

Each preset is the protocol of one published notebook; every option changes one part of it. A run
that was stopped goes on when it is started again with its work dir, and ends with the same bits.
"""

import contextlib
import dataclasses
import difflib
import importlib
import itertools
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NoReturn

import flax
import jax
import jaxlib
import numpy as np
import optax
import platformdirs
import tyro
from flax.training.train_state import TrainState
from tqdm import tqdm

import jaxrnn
from experiments.interruption import Interruption, interruption
from jaxrnn import History, Split
from jaxrnn.checkpoints import describe_run, read_json
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


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Print the test metrics of a stored run."""

    workdir: tyro.conf.Positional[Path]
    """The folder of the run."""
    data_dir: Path | None = None
    """Where prepared datasets are kept; None for tfds's own place, ~/tensorflow_datasets."""
    archives: Path | None = None
    """Folder with the four archives of mnist, fashion_mnist or kmnist, instead of a download."""


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
# What says where a run finds things, and on how many devices it runs; all else makes it another.
PLACES = ("workdir", "data_dir", "archives", "devices")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; anything wrong with the input is one line on stderr and status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["evaluate"]:
            evaluate_run(arguments[1:])
        else:
            train(parse(arguments))
    except KeyboardInterrupt:  # before training, or after it
        fail("interrupted", status=130)


def train(config: Config) -> None:
    """Start the run that the configuration describes, or go on with it."""
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
        workdir = config.workdir or unused_folder(config.preset)
        description = describe_run(
            to_json(config), make_model(config, splits["train"]), optimizer_options(config),
            splits["train"].inputs,
        )  # fmt: skip
        checkpoints = jaxrnn.Checkpoints(workdir / "checkpoints", description)
        _, key = jax.random.split(jax.random.key(config.seed))
        restored = checkpoints.restore(lambda _: state)
        state, history, key = restored or (state, History(), key)
        make_workdir(config, workdir)
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))
    except jax.errors.JaxRuntimeError as error:
        fail(f"a network of this size does not fit in memory: {error}")

    again = f"to go on: {command_line(config, workdir)}"
    try:
        with only_process_in(workdir), interruption() as interrupted, checkpoints:
            results = run(
                config, state, history, key, splits, workdir, checkpoints, interrupted, clock
            )
    except jaxrnn.NonFiniteLossError as error:
        rate = config.learning_rate
        fail(
            f"{error}; what came before is kept in {workdir}; try a --learning-rate below {rate}", 1
        )
    except OSError as error:
        fail(f"{error}; what was saved before is kept; {again}", 1)
    if results is None:
        print(f"stopped; everything so far is in {workdir}\n{again}")
        raise SystemExit(interrupted.exit_status)
    print(f"test accuracy {results['test_accuracy']:.4f}; everything is in {workdir}")


def evaluate_run(arguments: Sequence[str]) -> None:
    """Print the test metrics of a stored run, which are those of its ``results.json``."""
    options = tyro.cli(Evaluation, args=arguments, prog="python -m experiments.mnist_rnn evaluate")
    try:
        use_cpu_cores()
        keep_compiled_programs()
        stored = jaxrnn.load_run(options.workdir)
        config = from_json(stored.config)
        test = jaxrnn.load(
            config.dataset,
            split=config.test_split,
            data_dir=options.data_dir,
            archives=options.archives,
        )
        mesh = batch_mesh(config.batch_size, config.devices)
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))
    metrics = jax.device_get(jaxrnn.evaluate(*replicate((stored.state, test), mesh), mesh=mesh))
    print(f"after epoch {len(stored.history)}:")
    print(f"test_loss {float(metrics.loss)}")
    print(f"test_accuracy {float(metrics.accuracy)}")


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


def fail(message: str, status: int = 2) -> NoReturn:
    """End with one line that says what was wrong; status 2 is for what the user gave."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(status)


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
        check_workdir(config, config.workdir)


def check_workdir(config: Config, workdir: Path) -> None:
    """Raise ``ValueError`` for a work dir that cannot be made, or holds a run that cannot go on."""
    try:
        if workdir.exists() and not workdir.is_dir():
            raise ValueError(f"--workdir {workdir} is a file; name a folder")
        if (workdir / "config.json").exists():
            check_resumption(config, workdir)
        elif (workdir / "checkpoints").exists():
            raise ValueError(f"--workdir {workdir} holds checkpoints but no config.json")
        ancestor = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    except OSError as error:  # a name that is too long, a folder that may not be searched
        raise ValueError(f"--workdir {workdir} cannot be used: {error.strerror}") from error
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise ValueError(f"--workdir {workdir} cannot be written: {ancestor} does not allow it")


def check_resumption(config: Config, workdir: Path) -> None:
    """Raise ``ValueError`` unless the run in a work dir is this one, and not at its end."""
    stored, wanted = read_json(workdir / "config.json"), to_json(config)
    differing = [
        f"{name} ({stored.get(name, 'not there')!r} there, {wanted.get(name, 'unknown')!r} here)"
        for name in {**wanted, **stored}
        if name not in PLACES
        and stored.get(name) != wanted.get(name)
        and not (name == "epochs" and is_more(config.epochs, stored.get(name)))
    ]
    if differing:
        raise ValueError(
            f"--workdir {workdir} holds a run of another configuration: {', '.join(differing)}; "
            "name a new folder, or the same options"
        )
    if (workdir / "results.json").exists():
        epochs = read_json(workdir / "results.json").get("epochs")
        if not is_more(config.epochs, epochs):
            raise ValueError(
                f"--workdir {workdir} holds a finished run of {epochs} epochs; raise --epochs to "
                "go on with it, or name a new folder"
            )


def is_more(epochs: int, stored: object) -> bool:
    """Whether ``epochs`` goes beyond a number that a file holds."""
    return isinstance(stored, int) and epochs > stored


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


def make_model(config: Config, train: Split) -> jaxrnn.RNNClassifier:
    """The network that the configuration describes."""
    return jaxrnn.RNNClassifier(
        hidden=config.hidden,
        classes=len(train.class_names),
        cell=config.cell,
        layers=config.layers,
        bidirectional=config.bidirectional,
        initializers=config.initializers,
        recurrence=config.recurrence,
    )


def optimizer_options(config: Config) -> dict[str, Any]:
    """The arguments of :func:`jaxrnn.make_optimizer`."""
    return {"learning_rate": config.learning_rate, "epsilon": config.epsilon}


def initial_state(config: Config, train: Split) -> TrainState:
    """The state before the first step: initial weights follow from the seed alone."""
    init_key, _ = jax.random.split(jax.random.key(config.seed))
    optimizer = jaxrnn.make_optimizer(**optimizer_options(config))
    return jaxrnn.create_train_state(init_key, make_model(config, train), optimizer, train.inputs)


def make_workdir(config: Config, workdir: Path) -> None:
    """Make the folder of the run and write ``config.json``; leave nothing where that fails."""
    made = [path for path in (workdir, *workdir.parents) if not path.exists()]
    try:
        # Only a folder that was named may be there already.
        workdir.mkdir(parents=True, exist_ok=config.workdir is not None)
        for path in workdir.glob(".*.*-*"):  # of a process that was killed while it wrote
            if path.name[1:].rpartition("-")[0] in ("config.json", "history.csv", "results.json"):
                path.unlink()
        write_json(workdir / "config.json", to_json(config))
    except OSError as error:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise OSError(f"--workdir {workdir} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def only_process_in(workdir: Path) -> Iterator[None]:
    """Hold the work dir against other processes.

    Raises:
      BlockingIOError: one of them is at work in it.
    """
    folder = os.open(workdir, os.O_RDONLY)
    try:
        with contextlib.suppress(ImportError):  # of fcntl, which only Unix has
            import fcntl

            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(f"another process is at work in {workdir}") from error
        yield
    finally:
        os.close(folder)


def command_line(config: Config, workdir: Path) -> str:
    """What to type to go on with a run."""
    words = ["python", "-m", "experiments.mnist_rnn", config.preset]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        flag = field.name.replace("_", "-")
        if field.name in ("preset", "workdir") or value == getattr(
            PRESETS[config.preset], field.name
        ):
            continue
        words += (
            [f"--{flag}" if value else f"--no-{flag}"]
            if isinstance(value, bool)
            else [
                f"--{flag}",
                str(value),
            ]
        )
    return shlex.join([*words, "--workdir", str(workdir)])


def unused_folder(preset: str) -> Path:
    """``runs/mnist_rnn/PRESET-DATE-TIME``, with a number where that is another run's."""
    stem = Path("runs", "mnist_rnn", f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}")
    numbered = (stem.with_name(f"{stem.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([stem], numbered) if not path.exists())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file of indented JSON, atomically."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def to_json(config: Config) -> dict[str, Any]:
    """The configuration as ``config.json`` has it: a path is its text."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(config).items()
    }


def from_json(stored: Mapping[str, Any]) -> Config:
    """The configuration that :func:`to_json` made text of; its places are left out.

    Raises:
      ValueError: it is none, or has a value that no command line could give.
    """
    try:
        config = Config(**{name: stored[name] for name in stored if name not in PLACES})
        config = dataclasses.replace(config, devices=stored["devices"])
        check(config)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"the stored configuration is damaged: {error}") from error
    return config


def run(
    config: Config,
    state: TrainState,
    history: History,
    key: jax.Array,
    splits: dict[str, Split],
    workdir: Path,
    checkpoints: jaxrnn.Checkpoints,
    interrupted: Interruption,
    clock: jaxrnn.Clock,
) -> dict[str, Any] | None:
    """Train, evaluate and draw.

    Returns:
      What ``results.json`` holds, or None where a signal came before the last epoch.
    """
    train, test = splits["train"], splits["test"]
    mesh = batch_mesh(config.batch_size, config.devices)
    devices = describe_devices(mesh.devices.flat)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(
        f"{config.preset}: {parameters:,} parameters, {len(train):,} training examples of "
        f"{config.dataset}, on {len(devices)} × {devices[0]}; files in {workdir}"
    )
    if len(history):
        print(f"going on after epoch {len(history)}")
        history.to_csv(workdir / "history.csv")
    test_on_devices = replicate(test, mesh)
    with ThreadPoolExecutor() as pool:  # in the shadow of the training step's compilation
        if not config.test_every_epoch:  # else fit compiles it
            on_devices = replicate(state, mesh), test_on_devices
            pool.submit(jaxrnn.evaluate.lower(*on_devices, mesh=mesh).compile)
        pool.submit(importlib.import_module, "orbax.checkpoint")
        samples = pool.submit(lambda: jaxrnn.plot_samples(train).savefig(workdir / "samples.png"))
        state, history = jaxrnn.fit(
            state,
            train,
            key=key,
            history=history,
            epochs=config.epochs,
            batch_size=config.batch_size,
            validation=splits.get("validation"),
            test=test_on_devices if config.test_every_epoch else None,
            drop_remainder=config.drop_remainder,
            train_curve=config.train_curve,
            on_epoch=print_like_tf1_notebook if config.preset == "tf1" else None,
            stop=lambda history: interrupted.received is not None,
            checkpoints=checkpoints,
            workdir=workdir,
            progress=True,
            clock=clock,
            devices=config.devices,
        )
    samples.result()
    if len(history) < config.epochs:
        return None
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
        "epochs": len(history),
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
