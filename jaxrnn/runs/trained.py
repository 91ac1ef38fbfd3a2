"""Trained networks, loaded from their work directories to predict or export."""

import math
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jaxrnn.data import ImageSequences, Split
from jaxrnn.data.batches import check_values
from jaxrnn.data.splits import take
from jaxrnn.files import Json, read_json, read_json_or_none
from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.runs.config import Experiment
from jaxrnn.runs.prepare import initial_state, parameters
from jaxrnn.runs.summary import runs_of
from jaxrnn.training import History, TrainState, averaged, merged, predict
from jaxrnn.training.history import format_metric, title

Inputs: TypeAlias = jax.Array | np.ndarray
_NO_OPTIMIZER = optax.identity()


@dataclass(frozen=True, kw_only=True)
class Run:
    """A stored run, as it was after its last epoch or its best one.

    Attributes:
      experiment: the full description of the run, except ``runtime``.
      state: parameters, optimizer state and step, to evaluate or to train further.
      history: its curves.
      key: root key of the data order; ``fit`` with it and ``history`` continues the run.
      input_shape: (time, features) of a training example, or (time,) for tokens.
      outputs: number of outputs.
      class_names: the name of each class, in order; indices if the data has no names.
      channels: number of channels of a pixel, which are adjacent in the features of images.
      pixels: whether it was trained on uint8 pixels, which the network reads as 0 … 1.
      pixel_max: the number that became 255 when its images were read; see :class:`jaxrnn.Source`.
      description: what else is stored with a checkpoint, such as digests of the data.
      workdir: the directory that it was loaded from.
    """

    experiment: Experiment
    state: TrainState
    history: History
    key: jax.Array
    input_shape: tuple[int, ...]
    outputs: int
    class_names: tuple[str, ...] = ()
    channels: int = 1
    pixels: bool = False
    pixel_max: int = 255
    description: Json = field(default_factory=dict)
    workdir: Path | None = None

    def __repr__(self) -> str:
        row, epochs = self.history.rows[-1], self.experiment.trainer.epochs
        about = f"{parameters(self.state):,} parameters, epoch {len(self.history)} of {epochs}"
        names = (name for name in row if name not in ("epoch", "seconds"))
        metrics = (f"{title(name)} {format_metric(row[name])}" for name in names)
        return f"{type(self.experiment).__name__} in {self.workdir}: {', '.join([about, *metrics])}"

    @cached_property
    def model(self) -> Any:
        """The Flax module; one of NNX has the parameters of ``network``."""
        model = self.state.model
        return model if isinstance(model, nn.Module) else merged(self.network)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(height, width, channels) of the images that it reads, if ``data`` says that it does."""
        data = self.experiment.data
        if not isinstance(data, ImageSequences):
            return None
        if shape := self.description.get("image_shape"):
            return (*shape[:2], self.channels)
        time, features = self.input_shape  # for runs stored without an image shape
        if data.rows is None:
            return time, features // self.channels, self.channels
        side = math.isqrt(time * features // self.channels)  # other images can't be told apart
        return side, side, self.channels

    @cached_property
    def network(self) -> TrainState:
        """The state to predict with: its parameters averaged if the run averages them."""
        # Without the optimizer, runs of the same model share their compiled programs.
        return averaged(self.state).replace(tx=_NO_OPTIMIZER, opt_state=())

    def predict(self, inputs: Inputs, lengths: Inputs | None = None) -> np.ndarray:
        """Compute the outputs of the network for any number of examples.

        Args:
          inputs: (N, time, features) uint8 pixels or floats, or (N, time) tokens, as in training.
          lengths: (N,), the number of valid time steps of each sequence; None if all are.

        Returns:
          (N, outputs), or (N, time, outputs) if there are outputs at each time step. In
          classification they are logits.

        Raises:
          ValueError: inputs of another kind than in training, or an invalid length.
        """
        count = len(split := self.split_of(inputs, lengths))
        if count:  # padded, to compile for few sizes
            unit = min(1 << (count - 1).bit_length(), 512)
            rows = np.arange(math.ceil(count / unit) * unit)
            split = Split(**take(split, np.minimum(rows, count - 1)))
        return np.asarray(predict(self.network, split))[:count]

    def classify(
        self, inputs: Inputs, lengths: Inputs | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predict the class of each example, or of each of its time steps.

        Returns:
          The names of the most likely classes, (N,) or (N, time), and the probabilities of all
          classes, (N, classes) or (N, time, classes).

        Raises:
          ValueError: as :meth:`predict`; or the network predicts numbers.
        """
        if not self.class_names:
            raise ValueError("this network predicts numbers instead of classes; use predict")
        probabilities = np.asarray(jax.nn.softmax(self.predict(inputs, lengths)))
        return np.asarray(self.class_names)[probabilities.argmax(-1)], probabilities

    def split_of(self, inputs: Inputs, lengths: Inputs | None = None) -> Split:
        """Return the inputs as a split on the host; raises as :meth:`predict`."""
        split = jax.device_get(Split(inputs, lengths=lengths))
        expected = ("N", self.input_shape[0] if self.pixels else "time", *self.input_shape[1:])
        shape, fixed = np.shape(split.inputs), 1 if self.pixels else 2
        if shape[fixed:] != expected[fixed:]:
            raise ValueError(f"inputs must be ({', '.join(map(str, expected))}); got {shape}")
        if self.pixels and split.inputs.dtype != np.uint8 and split.inputs.size:
            least, most = split.inputs.min(), split.inputs.max()
            if not 0 <= least <= most <= 1:
                got = f"floats from {least:g} to {most:g}"
                raise ValueError(f"inputs must be uint8 pixels or floats from 0 to 1; got {got}")
        check_values(split, self.outputs, getattr(self.model, "vocabulary", None) or self.outputs)
        return split


@dataclass(frozen=True, kw_only=True, repr=False)
class Ensemble(Run):
    """The ``runs`` of a sweep, which predict together; other attributes are those of the first."""

    runs: tuple[Run, ...]

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.runs))

    def predict(self, inputs: Inputs, lengths: Inputs | None = None) -> np.ndarray:
        """Average the outputs of all runs, in classification their probabilities, as logits."""
        outputs = [run.predict(inputs, lengths) for run in self.runs]
        return np.asarray(self.experiment.task.combine(jnp.stack(outputs)))


def load_run(
    workdir: str | Path, experiment: type[Experiment] = Experiment, *, best: bool = False
) -> Run:
    """Load a run from its work directory, or all finished runs of a sweep.

    Args:
      workdir: directory of the run or the sweep.
      experiment: the class of the experiment. The default serves every page whose model, task and
        optimizer are groups of jaxrnn.
      best: load the best epoch, with which ``history`` then ends, instead of the last. The verbs of
        a page do so by default where ``--patience`` is set.

    Returns:
      The :class:`Run`; of a sweep with several finished runs, their :class:`Ensemble`.

    Raises:
      FileNotFoundError: the directory has no checkpoint.
      ValueError: every checkpoint is damaged; or the runs of a sweep don't go together.
    """
    workdir = Path(workdir).expanduser()
    runs = [_load(path, experiment, best) for path in runs_of(workdir)]
    if len(runs) == 1:
        return runs[0]
    reading = ("input_shape", "outputs", "class_names", "pixels", "pixel_max")
    if len({tuple(getattr(run, name) for name in reading) for run in runs}) > 1:
        raise ValueError(f"the runs in {workdir} read or predict different things; give one run")
    return Ensemble(**vars(runs[0]), runs=tuple(runs))


def _load(workdir: Path, kind: type[Experiment], best: bool) -> Run:
    """Load a single run."""
    about: Json = {}

    def template(description: Json) -> TrainState:
        known = {field.name for field in fields(kind)}
        config = {name: v for name, v in description["config"].items() if name in known}
        about["experiment"] = experiment = kind.from_json(config)
        about["description"] = description
        about["input_shape"] = tuple(description["input_shape"])
        about.update({name: description[name] for name in ("outputs", "channels", "pixels")})
        about["pixel_max"] = description.get("pixel_max", 255)
        names = description["class_names"] or map(str, range(description["outputs"]))
        about["class_names"] = tuple(names) if experiment.task.categorical else ()
        return initial_state(experiment, description, None)

    if restored := Checkpoints(workdir / "checkpoints").restore(template, best=best):
        state, history, key = restored
        return Run(state=state, history=history, key=key, workdir=workdir, **about)
    raise FileNotFoundError(f"{workdir} has no checkpoint of a run")


def read_experiment(workdir: Path, kind: type[Experiment]) -> Experiment:
    """Read the experiment of a work directory, with its runtime options."""
    path = workdir / "config.json"
    if (content := read_json_or_none(path)) is None and (workdir / "checkpoints").exists():
        return _load(workdir, kind, best=False).experiment  # with the default runtime options
    if not path.exists():
        raise FileNotFoundError(f"{workdir} holds no run")
    try:
        return kind.from_json(content or read_json(path))
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
