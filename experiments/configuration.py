"""Config: what a run is, from the command line and back from a file; the presets."""

import dataclasses
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import tyro

from jaxrnn.models import CELLS


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
    """Of Adam; added to the root of its second moment before the bias is corrected (after it,
    where Muon is used)."""

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
    stream: bool = False
    """Read the training split from disk while training, for data larger than memory."""
    steps_per_epoch: int | None = None
    """Of a stream: steps after which to evaluate and to save; None for a whole pass."""
    workers: int = 0
    """Of a stream: processes that read; 0 for threads."""
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
    """How many share each batch; None for as many as divide it (on a CPU: of its cores). Of each
    process, if there are several."""
    distributed: bool = False
    """Share the work among processes, which JAX finds (SLURM, Open MPI, Kubernetes, TPU pods)."""
    coordinator: str | None = None
    """Of several processes: where the first one can be reached, host:port."""
    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """Which this one is, from 0."""
    heartbeat: int = 100
    """Seconds of silence after which a process counts as gone, and the others end."""
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
# others.
#
# fast and record were chosen on the last 10,000 training images, never on the test set, which was
# used once, for the README. What each step brings on those images, after 15 epochs on the 50,000
# others, mean ± deviation of seeds 0 to 3; each row has what the rows above it have:
#
#     Adam, 1e-3                                             0.9771 ± 0.0031
#     Adam, 3e-3, rising for a tenth, then falling; clipped  0.9830 ± 0.0009
#     Muon for the recurrent kernel, 3e-3 (Adam 6e-3)        0.9865 ± 0.0006
#     shifted by up to 2 pixels                              0.9893 ± 0.0007
#     turned, stretched and slanted                          0.9908 ± 0.0008
#     bent                                                   0.9899 ± 0.0002
#     labels smoothed                                        0.9900 ± 0.0009
#     weights averaged: record, but for its 60 epochs        0.9903 ± 0.0006
#
# python -m experiments.mnist_rnn record --seeds 4 --epochs 15 --train-split train[:50000]
# --test-split train[50000:], and for the first row --optimizer adam --learning-rate 1e-3 --schedule
# constant --warmup 0 --clip-norm None --shift 0 --rotation 0 --zoom 0 --shear 0 --elastic 0
# --label-smoothing 0 --average 0. The last three steps do not pay in 15 epochs. They were kept for
# what single runs of 30 and 60 epochs showed: 0.9894 with shifts and smoothing, 0.9897 with the
# average, 0.9925 with affine warps, 0.9926 bent; 0.9919 without smoothing; 0.9924 and 0.9898 with a
# Muon of 2e-3 and 1e-2; 0.9927 after 80 epochs; batches of 75 and 300 about the same.
#
# fast in the same way, six seeds, three epochs: 0.9830 ± 0.0007 with Muon's usual five iterations,
# 0.9835 with four on a rescaled matrix, which it has; 0.9825 with three of either kind. Two epochs
# gave 0.980 to 0.982 in single runs.
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


# Where and how this process finds what it needs; a stored run is not asked for it.
PLACES = ("workdir", "data_dir", "archives", "distributed", "coordinator", "processes", "process")
# With these it is the same run, too, to float rounding; all else makes it another.
MEANS = ("devices", "heartbeat", "stream", "workers")


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
    if not 0 <= config.seed <= 2**32 - config.seeds:
        raise ValueError(f"--seed must be between 0 and {2**32 - config.seeds}; got {config.seed}")
    if config.average and config.train_curve == "last_batch":
        raise ValueError("--train-curve last_batch is of the weights themselves; use --average 0")
    for name in ("steps_per_epoch", "processes"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1; got {value}")
    if config.workers < 0 or config.heartbeat < 1:
        raise ValueError(
            "--workers must be at least 0 and --heartbeat at least 1; "
            f"got {config.workers} and {config.heartbeat}"
        )
    if not config.stream and (config.workers or config.steps_per_epoch):
        raise ValueError("--workers and --steps-per-epoch are of a stream; use --stream")
    if config.stream and config.seeds > 1:
        raise ValueError("--stream trains one network; use --seeds 1")
    told = (config.coordinator, config.processes, config.process)
    if not config.distributed and told != (None, None, None):
        raise ValueError("--coordinator, --processes and --process need --distributed")
    if None in told and told != (None, None, None):
        raise ValueError("--coordinator, --processes and --process are given together, or none")
    if config.process is not None and not 0 <= config.process < (config.processes or 0):
        raise ValueError(
            f"--process must be between 0 and {(config.processes or 0) - 1}; got {config.process}"
        )
    if config.coordinator is not None and not re.fullmatch(r"\S+:\d{1,5}", config.coordinator):
        raise ValueError(f"--coordinator must be host:port; got {config.coordinator!r}")
    if config.devices is not None and config.devices < 1:
        raise ValueError(f"--devices must be at least 1; got {config.devices}")
    if config.cell not in CELLS:
        raise ValueError(f"--cell must be one of {', '.join(CELLS)}; got {config.cell!r}")


def check_configuration(config: Config, stored: Mapping[str, Any]) -> None:
    """Raise ``ValueError``, with what differs, unless a stored configuration is of this run."""
    wanted = to_json(config)
    # What older versions did not have was as it is by default.
    stored = {**to_json(PRESETS["keras"]), **{"preset": None}, **stored}
    differing = [
        f"{name} ({stored[name]!r} there, {wanted.get(name, 'unknown')!r} here)"
        for name in {**wanted, **stored}
        if name not in (*PLACES, *MEANS)
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


def command_line(config: Config, workdir: Path) -> str:
    """What to type to go on with a run; who its processes are is not a part of it."""
    words = ["python", "-m", "experiments.mnist_rnn", config.preset]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        flag = field.name.replace("_", "-")
        if field.name in (
            "preset",
            "workdir",
            "coordinator",
            "processes",
            "process",
        ) or value == getattr(PRESETS[config.preset], field.name):
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
    kept = {name: value for name, value in stored.items() if name not in PLACES}
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
