"""The groups that every experiment has: how to train, and where and how to run."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from jaxrnn.constraints import Count, Group
from jaxrnn.runs.files import local_path


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(Group):
    """The training loop."""

    epochs: Count = 5
    """Number of epochs."""
    batch_size: Count = 150
    """Examples in each optimizer step."""
    drop_remainder: bool = False
    """Train on whole batches only, leaving out the examples that don't fill one."""
    steps_per_epoch: Count | None = None
    """When streaming: number of steps after which to evaluate and save; None for a whole pass."""
    train_curve: Literal["epoch", "last_batch"] = "epoch"
    """Training curve: the mean over the steps of the epoch, or its last batch after its update."""
    accumulate: Count = 1
    """Gradient accumulation: number of parts in which the gradient of a batch is computed, to save
    memory."""
    truncate: Count | None = None
    """Truncated backpropagation: train on longer sequences in chunks of this many time steps, each
    with an update, carrying the state from one to the next; None for whole sequences."""
    patience: Count | None = None
    """Early stopping: stop after this many epochs without improvement, and keep the best one; None
    for no early stopping."""
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Determines initial weights and data order; results repeat on the same devices."""
    seeds: Count = 1
    """Number of networks to train at once, with consecutive seeds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed + self.seeds > 2**32:
            raise ValueError(f"--seed must be at most {2**32 - self.seeds}; got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig(Group):
    """Where and how to run. Nothing here changes the results, apart from float rounding."""

    workdir: Path | None = None
    """Directory for the files of the run; None for runs/PAGE/PRESET-DATE-TIME."""
    data_dir: Path | None = None
    """Directory of prepared datasets; None for tfds's default, ~/tensorflow_datasets."""
    archives: Path | None = None
    """Directory with the IDX files of mnist, fashion_mnist or kmnist, instead of a download, or of
    any other dataset (--name idx)."""
    devices: Count | None = None
    """Number of devices of each process; None for as many as divide the batch or, on a CPU, for a
    single device using all cores if a layer has 512 or more recurrent units."""
    stream: bool = False
    """Read the training split from disk while training, for data larger than memory."""
    workers: Annotated[int, Ge(0)] = 0
    """When streaming: number of processes that read; 0 for a thread."""
    sample: Annotated[int, Ge(0)] = 0
    """Language modelling: number of tokens to generate and print at the end."""
    tensorboard: bool = False
    """Write the curves to event files for TensorBoard too (extra tensorboard)."""
    distributed: bool = False
    """Train on several processes, which JAX finds (SLURM, Open MPI, Kubernetes, TPU pods)."""
    coordinator: str | None = None
    """Address of the first of several processes, host:port."""
    processes: Count | None = None
    """Number of processes."""
    process: Annotated[int, Ge(0)] | None = None
    """Index of this process, from 0."""
    heartbeat: Count = 100
    """Seconds without a sign of life after which a process counts as lost."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("workdir", "data_dir", "archives"):
            path = getattr(self, name)
            if path is not None:
                option = name.replace("_", "-")
                object.__setattr__(self, name, local_path(option, Path(path)))
        told = (self.coordinator, self.processes, self.process)
        if told != (None, None, None):
            if not self.distributed:
                raise ValueError("--coordinator, --processes and --process need --distributed")
            if None in told:
                raise ValueError("give --coordinator, --processes and --process together, or none")
        if self.process is not None and self.process >= (self.processes or 0):
            last = (self.processes or 0) - 1
            raise ValueError(f"--process must be between 0 and {last}; got {self.process}")
        if self.coordinator and not re.fullmatch(r"\S+:\d{1,5}", self.coordinator):
            raise ValueError(f"--coordinator must be host:port; got {self.coordinator!r}")
