"""Experiment: what a run is, in groups that check themselves and build their own part."""

import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args, get_type_hints

from annotated_types import Ge
from pydantic import TypeAdapter, ValidationError
from tyro.conf import Fixed, Suppress

from jaxrnn.files import local_path
from jaxrnn.groups import Count, Group
from jaxrnn.nn.config import RNNConfig
from jaxrnn.training.fitting import Hook, TrainerConfig
from jaxrnn.training.optimizers import Adam, Muon
from jaxrnn.training.tasks import Classification, LanguageModeling, Regression


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
    """Language modeling: number of tokens to generate and print at the end."""
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


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A training run, fully described. A page subclasses it with its own groups and defaults.

    Every group is a frozen dataclass, with constraints such as ``Annotated[int, Ge(1)]`` on its
    fields, that builds its own part: ``data.build()`` returns :class:`jaxrnn.Datasets`,
    ``model.build(outputs)`` a Flax module, ``optimizer.build(steps)`` an optax transformation, and
    ``augment.build()`` a function or None. The identity of a run is everything except ``runtime``.

    Attributes:
      predict_options: a subclass of :class:`jaxrnn.runs.verbs.Predict` with what the page adds to
        the verb ``predict``; None for nothing.
      export_options: the same, a subclass of :class:`jaxrnn.runs.verbs.Export`.
    """

    predict_options: ClassVar[Any] = None
    export_options: ClassVar[Any] = None

    data: Any
    model: RNNConfig = RNNConfig()
    task: Classification | Regression | LanguageModeling = Classification()
    optimizer: Adam | Muon = Adam()
    augment: Suppress[Fixed[Any]] = None
    trainer: TrainerConfig = TrainerConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def hooks(self) -> Sequence[Hook]:
        """Hooks of this experiment, called after every epoch by the first process."""
        return ()

    def check(self) -> None:
        """Check the value of every option.

        Raises:
          ValueError: one line for each option that is wrong.
        """
        lines: list[str] = []
        for group in groups(self):
            lines += errors_of(getattr(self, group), group)
        if getattr(self.optimizer, "average", 0) and self.trainer.train_curve == "last_batch":
            lines.append("--trainer.train-curve last_batch needs --optimizer.average 0")
        if self.trainer.truncate is not None and getattr(self.model, "bidirectional", False):
            lines.append("--trainer.truncate needs a network that reads forwards only")
        if self.runtime.sample and not isinstance(self.task, LanguageModeling):
            lines.append("--runtime.sample needs a language model")
        if lines:
            raise ValueError("\n".join(lines))

    def to_json(self) -> dict[str, Any]:
        """The experiment as JSON, as ``config.json`` contains it."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` returned.

        Raises:
          ValueError: it is something else.
        """
        names = {field.name for field in fields(cls)}
        if not names - {"runtime"} <= content.keys() <= names:
            raise ValueError(_ANOTHER)
        try:
            text = json.dumps(content)
            experiment: Self = TypeAdapter(cls).validate_json(text, strict=True)
            differing = list(differences(experiment.to_json(), _completed(cls, content)))
        except ValidationError as error:
            differing = list(describe_errors(error))
        except RecursionError:
            differing = ["it is nested too deeply"]
        if differing:
            raise ValueError(f"it is damaged, or of another experiment: {differing[0]}")
        return experiment

    @property
    def identity(self) -> dict[str, Any]:
        """Everything except ``runtime``, as JSON."""
        return {name: value for name, value in self.to_json().items() if name != "runtime"}

    @property
    def can_grow(self) -> bool:
        """Whether more epochs continue the same run: no schedule depends on their number."""
        return not getattr(self.optimizer, "scheduled", False)

    def check_same(self, identity: Mapping[str, Any], *, any_epochs: bool = False) -> None:
        """Check that a stored run is this one, possibly with fewer epochs.

        Args:
          identity: of the stored run.
          any_epochs: accept any number of epochs.

        Raises:
          ValueError: it is another run; the message says what differs.
        """
        mine, stored = self.identity, _completed(type(self), identity)
        stored.pop("runtime", None)
        if mine.keys() != stored.keys():
            raise ValueError(_ANOTHER)
        trainer, epochs = stored["trainer"], self.trainer.epochs
        known = isinstance(trainer, dict) and isinstance(trainer.get("epochs"), int)
        if known and (any_epochs or (self.can_grow and trainer["epochs"] <= epochs)):
            stored["trainer"] = {**trainer, "epochs": epochs}
        differing = ", ".join(differences(mine, stored))
        if differing:
            raise ValueError(
                f"it holds a run of another configuration: {differing}; choose another directory, "
                "or the same options"
            )

    @property
    def command(self) -> str:
        """The command that runs the page of this experiment."""
        module: str | None = type(self).__module__
        if module == "__main__":
            spec = sys.modules["__main__"].__spec__
            module = spec.name if spec else None
        return f"python -m {module}" if module else f"python {sys.argv[0]}"


def _completed(kind: type[Experiment], content: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration with the options that it lacks, as runs of older versions do.

    The default of an option is how the library was before it.
    """
    completed = dict(content)
    for name, hint in get_type_hints(kind).items():
        kinds = [one for one in (hint, *get_args(hint)) if dataclasses.is_dataclass(one)]
        value = content.get(name, {} if name == "runtime" else None)
        if not isinstance(value, dict):
            continue
        for one in kinds:
            defaults = {field.name: field.default for field in fields(one)}
            if defaults.get("kind") == value.get("kind", defaults.get("kind")):
                known = {k: v for k, v in defaults.items() if v is not dataclasses.MISSING}
                completed[name] = {**json.loads(json.dumps(known, default=str)), **value}
                break
    return completed


_ANOTHER = "it holds a run of another experiment, or of an older version of jaxrnn"


def groups(experiment: Experiment) -> list[str]:
    """The names of the groups that an experiment has."""
    names = [field.name for field in fields(experiment)]
    return [name for name in names if getattr(experiment, name) is not None]


def errors_of(value: Any, *group: str) -> Iterator[str]:
    """One line for each wrong value in a dataclass of options."""
    try:
        text = json.dumps(asdict(value), default=str)
        TypeAdapter(type(value)).validate_json(text, strict=True)
    except ValidationError as error:
        yield from describe_errors(error, *group)


def describe_errors(error: ValidationError, *group: str) -> Iterator[str]:
    """One line for each wrong value, by the name of its option."""
    for one in error.errors():
        if one["type"] == "value_error":  # of a group that checks several options together
            yield one["msg"].removeprefix("Value error, ")
            continue
        name = ".".join((*group, *map(str, one["loc"]))).replace("_", "-")
        message = one["msg"].replace("Input should be", "must be")
        for long, short in (
            ("greater than or equal to", "at least"),
            ("less than or equal to", "at most"),
            ("less than", "below"),
        ):
            message = message.replace(long, short).replace("34" + 37 * "0", "3.4e38")
        value = repr(one["input"])
        yield f"--{name}: {message}; got {value if len(value) < 80 else type(one['input'])}"


def differences(mine: Any, stored: Any, name: str = "") -> Iterator[str]:
    """The options in which two JSON values differ, with both of their values."""
    if isinstance(mine, dict) and isinstance(stored, dict):
        for key in dict.fromkeys([*mine, *stored]):
            path = f"{name}.{key}" if name else key
            yield from differences(mine.get(key, "missing"), stored.get(key, "missing"), path)
    elif mine != stored:
        yield f"{name} ({stored!r} there, {mine!r} here)"
