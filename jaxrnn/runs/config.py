"""Experiment: the full description of a run, in groups that check and build themselves."""

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

import pydantic_core
from annotated_types import Ge
from flax.traverse_util import flatten_dict
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from tyro.conf import Fixed, Suppress

from jaxrnn.files import Json
from jaxrnn.groups import Count, Group
from jaxrnn.nn.config import RNNConfig
from jaxrnn.training import Adam, Classification, LanguageModeling, Muon, Regression, TrainerConfig
from jaxrnn.training.fitting import Hook

Checked = TypeVar("Checked")
_KIND = Field(discriminator="kind")
Optimizer = Annotated[Adam | Muon, _KIND]
"""Type of a field ``optimizer``, for pages that offer both; ``kind`` tells them apart in JSON."""


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
    """Number of reader processes when streaming; 0 for a thread."""
    other_data: bool = False
    """Resume even if the examples have changed; classes and shape must be the same."""
    sample: Annotated[int, Ge(0)] = 0
    """Language modeling: number of tokens to generate and print at the end."""
    tensorboard: bool = False
    """Also write event files for TensorBoard (needs the extra tensorboard)."""
    distributed: bool = False
    """Train on several processes, which JAX detects (SLURM, Open MPI, Kubernetes, TPU pods)."""
    coordinator: str | None = None
    """Address of the first of several processes, host:port."""
    processes: Count | None = None
    """Number of processes."""
    process: Annotated[int, Ge(0)] | None = None
    """Index of this process, from 0."""
    heartbeat: Count = 100
    """Heartbeat timeout in seconds, after which other processes count as lost."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.coordinator, self.processes, self.process) == (None, None, None):
            return
        if not self.distributed:
            raise ValueError("--coordinator, --processes and --process need --distributed")
        if self.coordinator is None or self.processes is None or self.process is None:
            raise ValueError("give --coordinator, --processes and --process together, or none")
        if self.process >= self.processes:
            last = self.processes - 1
            raise ValueError(f"--process must be between 0 and {last}; got {self.process}")
        if not re.fullmatch(r"\S+:\d{1,5}", self.coordinator):
            raise ValueError(f"--coordinator must be host:port; got {self.coordinator!r}")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A training run, fully described. A page subclasses it with its own groups and defaults.

    Every group is a frozen dataclass, with constraints such as ``Annotated[int, Ge(1)]`` on its
    fields, that builds its own part: ``data.build()`` returns :class:`jaxrnn.Datasets`,
    ``model.build(outputs)`` a Flax module (``model.build(outputs, rngs)`` if it is an NNX module,
    which initializes its own parameters), ``optimizer.build(steps)`` an optax transformation, and
    ``augment.build(layout)`` a function or None, where ``layout`` is a
    :class:`jaxrnn.data.ImageLayout`. The identity of a run is everything except ``runtime``. A run
    can be continued for more epochs only if ``optimizer.scheduled`` is False: set it on an
    optimizer whose schedule does not depend on ``steps``.

    A page extends the verbs ``predict`` and ``export`` by ``predict_options`` and
    ``export_options``, subclasses of ``Predict`` and ``Export`` in :mod:`jaxrnn.runs.verbs`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = {"extra": "forbid"}
    predict_options: ClassVar[Any] = None
    export_options: ClassVar[Any] = None
    is_program: ClassVar[bool] = False  # whether the process is the command line of a page

    data: Any
    model: RNNConfig = RNNConfig()
    task: Annotated[Classification | Regression | LanguageModeling, _KIND] = Classification()
    optimizer: Optimizer = Adam()
    augment: Suppress[Fixed[Any]] = None
    trainer: TrainerConfig = TrainerConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def hooks(self) -> Sequence[Hook]:
        """Return more hooks to call after every epoch, in the first process.

        One that returns True finishes the run, which can't be continued then.
        """
        return ()

    def check(self) -> None:
        """Raise ``ValueError`` with one line for each option that is wrong."""
        groups = {field.name: getattr(self, field.name) for field in fields(self)}
        lines = [line for name in groups for line in errors_of(groups[name], name)]
        if getattr(self.optimizer, "average", 0) and self.trainer.train_curve == "last_batch":
            lines.append("--trainer.train-curve last_batch needs --optimizer.average 0")
        if self.runtime.sample and not isinstance(self.task, LanguageModeling):
            lines.append("--runtime.sample needs a language model")
        if lines:
            raise ValueError("\n".join(lines))

    def to_json(self) -> Json:
        """Return the experiment as JSON, the content of ``config.json``."""
        return pydantic_core.to_jsonable_python(self, fallback=str)

    @classmethod
    def from_json(cls, content: Json) -> Self:
        """Build an experiment from :meth:`to_json`; missing options get their defaults.

        Raises:
          ValueError: an option is unknown, or has another type or a value that is not allowed.
        """
        try:
            return _validated(cls, content)
        except ValidationError as error:
            reason = next(_lines(error))
            raise ValueError(f"it is damaged, or of another experiment: {reason}") from error

    @property
    def identity(self) -> Json:
        """Everything except ``runtime``, as JSON."""
        return {name: value for name, value in self.to_json().items() if name != "runtime"}

    @property
    def can_grow(self) -> bool:
        """Whether more epochs continue the same run: no schedule depends on their number."""
        return not getattr(self.optimizer, "scheduled", True)

    def check_same(self, identity: Json, *, any_epochs: bool = False) -> None:
        """Raise ``ValueError`` if a stored run differs, except in epochs that can follow.

        ``any_epochs`` allows any number of epochs.
        """
        stored = type(self).from_json(identity)
        differing = differences(self, stored)
        if any_epochs or (self.can_grow and stored.trainer.epochs <= self.trainer.epochs):
            differing.pop("trainer.epochs", None)
        if differing:
            values = (f"{name} ({v!r} there, {w!r} here)" for name, (w, v) in differing.items())
            other = f"it holds a run of another configuration: {', '.join(values)}"
            raise ValueError(f"{other}; choose another directory, or the same options")

    @property
    def command(self) -> str | None:
        """The command that runs the page of this experiment; None in a notebook."""
        module, program = type(self).__module__, sys.modules["__main__"]
        if module == "__main__" or (self.is_program and hasattr(program, "__file__")):
            module = program.__spec__.name.removesuffix(".__main__") if program.__spec__ else ""
        if module == __name__ or not (module or hasattr(program, "__file__")):
            return None
        return f"python -m {module}" if module else f"python {shlex.quote(sys.argv[0])}"

    @property
    def program(self) -> str:
        """The command or, without one, the name of the class."""
        return self.command or type(self).__name__

    def advice(self, verb: str, workdir: Path, epochs: int | None = None) -> str:
        """Return the command or, without one, the Python call that continues with a run."""
        if command := self.command:
            more = f" --epochs {epochs}" if epochs else ""
            return f"{command} {verb} {shlex.quote(str(workdir))}{more}"
        if verb == "evaluate":
            return f"jaxrnn.load_run({str(workdir)!r})"
        more = f" and TrainerConfig(epochs={epochs})" if epochs else ""
        return f"jaxrnn.run(experiment), with RuntimeConfig(workdir={str(workdir)!r}){more}"


def differences(here: Experiment, there: Experiment) -> dict[str, tuple[object, object]]:
    """Return the options, runtime aside, in which two experiments differ, and both values."""
    mine, other = (flatten_dict(experiment.identity, sep=".") for experiment in (here, there))
    differing = [name for name in mine | other if mine.get(name) != other.get(name)]
    return {name: (mine.get(name), other.get(name)) for name in differing}


def errors_of(value: object, *group: str) -> Iterator[str]:
    """Yield a line for each wrong value in a dataclass of options."""
    try:
        _validated(type(value), value)
    except ValidationError as error:
        yield from _lines(error, *group)


def _validated(kind: type[Checked], content: object) -> Checked:
    text = pydantic_core.to_json(content, fallback=str)
    return TypeAdapter(kind).validate_json(text, strict=True)


def _lines(invalid: ValidationError, *group: str) -> Iterator[str]:
    """Yield a line for each wrong value, by the name of its option."""
    for error in invalid.errors():
        if error["type"] == "value_error":  # of a group that checks several options together
            yield error["msg"].removeprefix("Value error, ")
            continue
        name = ".".join((*group, *map(str, error["loc"]))).replace("_", "-")
        message = error["msg"].replace("Input should", "must")
        message = message.replace("greater than or equal to", "at least")
        value = repr(error["input"])
        yield f"--{name}: {message}; got {value if len(value) < 80 else type(error['input'])}"
