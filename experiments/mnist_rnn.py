"""Train a recurrent network to name MNIST digits, read row by row.

    python -m experiments.mnist_rnn [fast|record|tf1|keras] [--options]
    python -m experiments.mnist_rnn evaluate WORKDIR

fast (the default): 3 epochs on all 60,000 training images, about 0.985 test accuracy.

record: 60 epochs, about 0.993; the most that this network of 28,360 parameters was seen to reach.

tf1, keras: the protocols of two published notebooks. tf1 is 100 epochs on the last 55,000 training
images, about 0.98 at best; keras 5 epochs on the first 48,000, about 0.96.

Every option changes one part of a preset. A run that was stopped goes on when it is started again
with its work dir, and ends with the same bits.
"""

import signal

if __name__ == "__main__":
    # Until training takes signals over, there is nothing to save: end at once, and in silence.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import dataclasses
import difflib
import importlib
import io
import itertools
import json
import math
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
import platformdirs
import tyro
from flax.training.train_state import TrainState
from scipy.special import stdtrit
from tqdm import tqdm

import jaxrnn
from experiments.interruption import Interruption, interruption
from jaxrnn import History, Split
from jaxrnn.checkpoints import describe_run, read_json
from jaxrnn.history import write_atomically
from jaxrnn.models import CELLS
from jaxrnn.parallel import batch_mesh, distribute, replicate, use_cpu_cores


@dataclasses.dataclass(frozen=True)
class Config:
    """One run, fully described."""

    preset: tyro.conf.Suppress[str]

    epochs: int
    """Passes over the training split."""
    batch_size: int = 150
    """Examples in each optimizer step."""
    optimizer: Literal["adam", "muon"] = "adam"
    """Muon is for the recurrent kernels; all else is Adam's."""
    learning_rate: float = 1e-3
    """Of Adam, at its highest."""
    muon_learning_rate: float = 5e-3
    """Of Muon, at its highest."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rates fall, to 0 at the end."""
    warmup: float = 0.0
    """Share of all steps in which they rise from 0."""
    clip_norm: float | None = None
    """Gradients with a larger global norm are scaled down to it."""
    weight_decay: float = 0.0
    """Decoupled, times the learning rate."""
    average: float = 0.0
    """Decay of a moving average of the weights, which is what is evaluated; 0 for none."""
    label_smoothing: float = 0.0
    """Share of each label that is given to all classes alike."""
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
    initializers: Literal["keras", "tf1", "identity"] = "keras"
    """Initial weights: Keras's SimpleRNN's, TF1's BasicRNNCell's, or an identity to recur with."""
    recurrent_gain: float = 1.0
    """What the initial recurrent weights are multiplied by."""

    shift: float = 0.0
    """Training images are moved by up to so many pixels, at random."""
    rotation: float = 0.0
    """Turned, degrees."""
    zoom: float = 0.0
    """Stretched or shrunk, as the logarithm of the scale."""
    shear: float = 0.0
    """Slanted, columns a row."""
    elastic: float = 0.0
    """Bent, pixels of standard deviation."""

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
    seeds: int = 1
    """Networks to train at once, of this seed and those that follow it."""
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


# tf1 and keras are one published notebook each, with one difference: TF1's next_batch carries the
# 100 examples that do not fill a batch over into the next epoch, and here each epoch leaves out 100
# others. fast and record were chosen on the last 10,000 training images, never on the test set.
PRESETS = {
    "fast": Config(
        preset="fast",
        epochs=3,
        optimizer="muon",
        learning_rate=6e-3,
        muon_learning_rate=5e-3,
        schedule="linear",
        warmup=0.1,
        clip_norm=1.0,
        epsilon=1e-8,
        shift=1.0,
        train_split="train",
    ),
    "record": Config(
        preset="record",
        epochs=60,
        optimizer="muon",
        learning_rate=6e-3,
        muon_learning_rate=3e-3,
        schedule="linear",
        warmup=0.1,
        clip_norm=1.0,
        epsilon=1e-8,
        average=0.999,
        label_smoothing=0.05,
        shift=2.0,
        rotation=12.0,
        zoom=0.12,
        shear=0.12,
        elastic=0.8,
        train_split="train",
    ),
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
DEFAULT_PRESET = "fast"
# What says where a run finds things, and on how many devices it runs; all else makes it another.
PLACES = ("workdir", "data_dir", "archives", "devices")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; anything wrong with the input is one line on stderr and status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["evaluate"]:
        evaluate_run(arguments[1:])
    else:
        train(parse(arguments))


def train(config: Config) -> None:
    """Start the run that the configuration describes, or go on with it."""
    clock = jaxrnn.Clock()
    with contextlib.ExitStack() as held:
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
            workdir = held.enter_context(open_workdir(config))
            checkpoints = jaxrnn.Checkpoints(
                workdir / "checkpoints", describe(config, splits["train"], state)
            )
            state, history, key = restore(config, workdir, checkpoints, state)
            write_json(workdir / "config.json", to_json(config))
        except (ValueError, OSError, ImportError) as error:
            fail(str(error))
        except jax.errors.JaxRuntimeError as error:
            fail(f"a network of this size does not fit in memory: {error}")

        again = f"to go on: {command_line(config, workdir)}"
        try:
            with interruption() as interrupted, checkpoints:
                results = run(
                    config, state, history, key, splits, workdir, checkpoints, interrupted, clock
                )
        except jaxrnn.NonFiniteLossError as error:
            fail(
                f"{error}; what came before is kept in {workdir}; in another folder, try a "
                f"--learning-rate below {config.learning_rate}, or --clip-norm 1",
                status=1,
            )
        except OSError as error:
            kept = f"what was saved before is kept; {again}" if checkpoints.epochs else ""
            fail(f"{error}; {kept}", interrupted.exit_status or 1)
    if results is None:
        print(f"stopped; everything so far is in {workdir}\n{again}")
        raise SystemExit(interrupted.exit_status)
    if config.seeds > 1:
        for member in results["members"]:
            print(f"seed {member['seed']}: test accuracy {member['test_accuracy']:.4f}")
        low, high = results["test_accuracy_interval"]
        print(
            f"deviation {results['test_accuracy_deviation']:.4f}, "
            f"95 % interval of the mean {low:.4f} to {high:.4f}"
        )
    print(f"test accuracy {results['test_accuracy']:.4f}; everything is in {workdir}")


def evaluate_run(arguments: Sequence[str]) -> None:
    """Print the test metrics of a stored run, which are those of its ``results.json``."""
    options = tyro.cli(Evaluation, args=arguments, prog="python -m experiments.mnist_rnn evaluate")
    try:
        if not (options.workdir / "config.json").exists():
            raise FileNotFoundError(f"{options.workdir} holds no run")
        config = from_json(read_json(options.workdir / "config.json"))
        use_cpu_cores(config.devices)
        keep_compiled_programs()
        stored = jaxrnn.load_run(options.workdir)
        test = jaxrnn.load(
            config.dataset,
            split=config.test_split,
            data_dir=options.data_dir,
            archives=options.archives,
        )
        many = config.seeds > 1
        mesh = batch_mesh(stored.key.size if many else config.batch_size, config.devices)
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))
    state = (distribute if many else replicate)(jaxrnn.averaged(stored.state), mesh)
    evaluate = jaxrnn.evaluate_each if many else jaxrnn.evaluate
    metrics = jax.device_get(evaluate(state, replicate(test, mesh), mesh=mesh))
    print(f"after epoch {len(mean(stored.history))}:")
    for name, values in (("test_loss", metrics.loss), ("test_accuracy", metrics.accuracy)):
        print(name, *np.atleast_1d(values)[: config.seeds].tolist())


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
    for name in ("epochs", "batch_size", "hidden", "layers", "seeds"):
        if getattr(config, name) < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} must be at least 1; got {getattr(config, name)}")
    for name in ("warmup", "average", "label_smoothing"):
        if not 0 <= getattr(config, name) < 1:
            flag = name.replace("_", "-")
            raise ValueError(
                f"--{flag} must be at least 0 and below 1; got {getattr(config, name)}"
            )
    for name in ("weight_decay", "shift", "rotation", "zoom", "shear", "elastic"):
        if not 0 <= getattr(config, name) < math.inf:
            flag = name.replace("_", "-")
            raise ValueError(
                f"--{flag} must be 0 or a positive number; got {getattr(config, name)}"
            )
    for name in ("learning_rate", "muon_learning_rate", "epsilon", "clip_norm", "recurrent_gain"):
        value = getattr(config, name)
        if value is None and name == "clip_norm":
            continue
        if not 0 < value <= float(np.finfo(np.float32).max):  # what the step can hold
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} must be a positive finite number, like 1e-3; got {value}")
    if not 0 <= config.seed < 2**32 - 2 * config.seeds:
        raise ValueError(f"--seed must be between 0 and 4294967295; got {config.seed}")
    if config.average and config.train_curve == "last_batch":
        raise ValueError("--train-curve last_batch is of the weights themselves; use --average 0")
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
    try:
        check_configuration(config, read_json(workdir / "config.json"))
    except ValueError as error:
        raise ValueError(f"--workdir {workdir}: {error}") from error
    if (workdir / "results.json").exists():
        epochs = read_json(workdir / "results.json").get("epochs")
        if not is_more(config.epochs, epochs):
            raise ValueError(
                f"--workdir {workdir} holds a finished run of {epochs} epochs; "
                + ("raise --epochs to go on with it, or " if may_grow(config) else "")
                + "name a new folder"
            )


def check_configuration(config: Config, stored: Mapping[str, Any]) -> None:
    """Raise ``ValueError``, with what differs, unless a stored configuration is of this run."""
    wanted = to_json(config)
    # What older versions did not have was as it is by default.
    stored = {**to_json(PRESETS["keras"]), **{"preset": None}, **stored}
    differing = [
        f"{name} ({stored[name]!r} there, {wanted.get(name, 'unknown')!r} here)"
        for name in {**wanted, **stored}
        if name not in PLACES
        and stored[name] != wanted.get(name)
        and not (name == "epochs" and may_grow(config) and is_more(config.epochs, stored[name]))
    ]
    if differing:
        raise ValueError(
            f"it holds a run of another configuration: {', '.join(differing)}; name a new folder, "
            "or the same options"
        )


def may_grow(config: Config) -> bool:
    """A learning rate that falls to 0 at the last epoch falls otherwise where there are more."""
    return config.schedule == "constant" and not config.warmup


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
        recurrent_gain=config.recurrent_gain,
        recurrence=config.recurrence,
    )


def optimizer_options(config: Config, train: Split) -> dict[str, Any]:
    """The arguments of :func:`jaxrnn.make_optimizer`."""
    batches = len(train) / config.batch_size
    steps = config.epochs * (math.floor if config.drop_remainder else math.ceil)(batches)
    scheduled = config.schedule != "constant" or config.warmup > 0
    return {
        "optimizer": config.optimizer,
        "learning_rate": config.learning_rate,
        "muon_learning_rate": config.muon_learning_rate,
        "schedule": config.schedule,
        "warmup": config.warmup,
        "steps": steps if scheduled else None,
        "clip_norm": config.clip_norm,
        "weight_decay": config.weight_decay,
        "average": config.average,
        "epsilon": config.epsilon,
    }


def member_seeds(config: Config) -> list[int]:
    """The seed of each network; there are as many on each device, the last for no other reason."""
    devices = min(config.seeds, config.devices or len(jax.devices()))
    return [config.seed + index for index in range(-(-config.seeds // devices) * devices)]


def initial_state(config: Config, train: Split) -> TrainState:
    """The state before the first step, of one network or of all: it follows from the seeds."""
    model = make_model(config, train)
    optimizer = jaxrnn.make_optimizer(**optimizer_options(config, train))
    states = [
        jaxrnn.create_train_state(
            jax.random.split(jax.random.key(seed))[0], model, optimizer, train.inputs
        )
        for seed in member_seeds(config)
    ]
    return (
        jax.tree.map(lambda *leaves: np.stack(leaves), *states) if config.seeds > 1 else states[0]
    )


def data_key(config: Config) -> jax.Array:
    """Root of the data order, one key for each network if there are several."""
    keys = [jax.random.split(jax.random.key(seed))[1] for seed in member_seeds(config)]
    return jnp.stack(keys) if config.seeds > 1 else keys[0]


def describe(config: Config, train: Split, state: TrainState) -> dict[str, Any]:
    """What every checkpoint says of the run, for :func:`jaxrnn.load_run`."""
    return describe_run(
        to_json(config),
        make_model(config, train),
        optimizer_options(config, train),
        train.inputs,
        members=np.shape(state.step),
    )


@contextlib.contextmanager
def open_workdir(config: Config) -> Iterator[Path]:
    """Make the folder of the run, or take the one that is there, and hold it.

    Where what is done inside for the first time fails, nothing is left behind.
    """
    workdir = config.workdir or unused_folder(config.preset)
    made = [path for path in (workdir, *workdir.parents) if not path.exists()]
    try:
        # Only a folder that was named may be there already.
        workdir.mkdir(parents=True, exist_ok=config.workdir is not None)
        with only_process_in(workdir):
            check_workdir(config, workdir)  # again: another process may have been at work in it
            for path in workdir.glob(".*-*"):  # of a process that was killed while it wrote
                if re.fullmatch(r"\.[\w-]+\.(json|csv|png)-\d+", path.name):
                    path.unlink()
            yield workdir
    except OSError as error:
        raise OSError(f"--workdir {workdir} cannot be used: {error.strerror or error}") from error
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # it is empty only if nothing came of the run
                path.rmdir()


def restore(
    config: Config, workdir: Path, checkpoints: jaxrnn.Checkpoints, state: TrainState
) -> tuple[TrainState, Any, jax.Array]:
    """State, history and root key of the last checkpoint; of the start, where there is none.

    Raises:
      ValueError: every checkpoint is damaged, or of another configuration; or there is none,
        though the run was further than its second epoch.
    """

    def template(description: Mapping[str, Any]) -> TrainState:
        # How many epochs were wanted when it was written does not matter.
        check_configuration(config, {**description["config"], "epochs": config.epochs})
        return state

    restored = checkpoints.restore(template)
    if restored is not None:
        return restored
    curves = workdir / "history.csv"
    # The second epoch may be recorded before the first is on disk; the third is not.
    further = curves.exists() and len(History.from_csv(curves)) > 2
    if further or (workdir / "results.json").exists():
        raise ValueError(f"--workdir {workdir} holds a run without its checkpoints; name a new one")
    return state, None, data_key(config)


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
                raise BlockingIOError(error.errno, "another process is at work in it") from error
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


def save(figure: Any, path: Path) -> None:
    """Write a picture, atomically."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())


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
    hints = get_type_hints(Config)
    wrong = [name for name in stored if name not in hints or not fits(stored[name], hints[name])]
    if wrong:
        raise ValueError(f"the stored configuration is damaged: {', '.join(wrong)}")
    kept = {name: value for name, value in stored.items() if name not in PLACES[:-1]}
    if not {"preset", "epochs"} <= kept.keys():
        raise ValueError("the stored configuration is damaged: it lacks preset or epochs")
    config = Config(**kept)
    check(config)
    return config


def fits(value: object, hint: Any) -> bool:
    """Whether a value of JSON is of an option's type."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is UnionType:
        return any(fits(value, one) for one in get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    kinds: Any = {float: (int, float), Path: str}.get(hint, hint)
    return isinstance(value, kinds)


def run(
    config: Config,
    state: TrainState,
    history: Any,
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
    many = config.seeds > 1
    train, test = splits["train"], splits["test"]
    mesh = batch_mesh(key.size if many else config.batch_size, config.devices)
    evaluate = jaxrnn.evaluate_each if many else jaxrnn.evaluate
    devices = describe_devices(mesh.devices.flat)
    sizes = [math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(state.params)]
    parameters = sum(sizes) // max(1, key.size)
    networks = f"{config.seeds} networks of " if many else ""
    print(
        f"{config.preset}: {networks}{parameters:,} parameters, {len(train):,} training examples "
        f"of {config.dataset}, on {len(devices)} × {devices[0]}; files in {workdir}"
    )
    if history:
        print(f"going on after epoch {len(mean(history))}")
        mean(history).to_csv(workdir / "history.csv")
    state = (distribute if many else replicate)(state, mesh)
    test_on_devices = replicate(test, mesh)
    with ThreadPoolExecutor() as pool:  # in the shadow of the training step's compilation
        if not config.test_every_epoch:  # else fit compiles it
            on_devices = jaxrnn.averaged(state), test_on_devices
            pool.submit(evaluate.lower(*on_devices, mesh=mesh).compile)
        pool.submit(importlib.import_module, "orbax.checkpoint")
        samples = pool.submit(lambda: save(jaxrnn.plot_samples(train), workdir / "samples.png"))
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
            augment=jaxrnn.random_warp(
                shift=config.shift,
                rotation=config.rotation,
                zoom=config.zoom,
                shear=config.shear,
                elastic=config.elastic,
            ),
            label_smoothing=config.label_smoothing,
            on_epoch=print_like_tf1_notebook if config.preset == "tf1" else None,
            stop=lambda history: interrupted.received is not None,
            checkpoints=checkpoints,
            workdir=workdir,
            progress=True,
            clock=clock,
            devices=config.devices,
        )
    samples.result()
    histories = history[: config.seeds] if many else (history,)
    if len(histories[0]) < config.epochs:
        return None
    with clock("evaluation"):
        metrics = jax.device_get(evaluate(jaxrnn.averaged(state), test_on_devices, mesh=mesh))
    losses, accuracies = (
        np.atleast_1d(value)[: config.seeds].tolist() for value in (metrics.loss, metrics.accuracy)
    )
    if config.preset == "keras" and not many:
        print("accuracy: ", accuracies[0])  # as its notebook does
    save(jaxrnn.plot_history(histories), workdir / "curves.png")

    members = [
        {
            "seed": seed,
            **{k: v for k, v in one.rows[-1].items() if k.startswith(("train_", "validation_"))},
            "test_loss": loss,
            "test_accuracy": accuracy,
            **best(one, accuracy),
        }
        for seed, one, loss, accuracy in zip(
            member_seeds(config), histories, losses, accuracies, strict=False
        )
    ]
    if many:
        for member, one in zip(members, histories, strict=True):
            one.to_csv(workdir / f"history-{member['seed']}.csv")
    results = {
        "preset": config.preset,
        "seed": config.seed,
        "epochs": len(histories[0]),
        "parameters": parameters,
        **(summarize(members) if many else members[0]),
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


def mean(history: Any) -> History:
    """The history, or the mean of several."""
    return history if isinstance(history, History) else jaxrnn.mean_history(history)


def summarize(members: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, deviation and the 95 % interval of the mean (Student's t) over several networks."""
    accuracies = np.array([member["test_accuracy"] for member in members])
    deviation = accuracies.std(ddof=1)
    half = stdtrit(len(members) - 1, 0.975) * deviation / math.sqrt(len(members))
    return {
        "members": members,
        "test_loss": float(np.mean([member["test_loss"] for member in members])),
        "test_accuracy": float(accuracies.mean()),
        "test_accuracy_deviation": float(deviation),
        "test_accuracy_interval": [
            float(accuracies.mean() - half),
            float(accuracies.mean() + half),
        ],
    }


def print_like_tf1_notebook(state: TrainState, history: Any) -> None:
    """A line every tenth epoch."""
    row = mean(history).rows[-1]
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
