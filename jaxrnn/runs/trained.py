"""Run: one or several trained networks and their description, to predict with and export."""

import inspect
import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxrnn.data import ImageSequences
from jaxrnn.data.splits import Split, check_examples, check_values
from jaxrnn.runs.config import Experiment
from jaxrnn.training.evaluation import predict
from jaxrnn.training.optimizers import averaged
from jaxrnn.training.state import TrainState

_AT_ONCE = 1000  # examples, the most that evaluate takes


@dataclass(frozen=True)
class Run:
    """A stored run, as it was after its last epoch or its best one.

    Attributes:
      experiment: the full description of the run, except ``runtime``.
      model: the network.
      state: parameters, optimizer state and step, to evaluate or to train further.
      history: its curves; for several networks, a tuple of histories.
      key: root key of the data order; ``fit`` with it and ``history`` continues the run.
      input_shape: (time, features) of what it was trained on, or (time,) for tokens.
      outputs: number of outputs.
      class_names: the name of each class, in order; its index if the data has no names.
      channels: numbers per pixel, side by side in the features, if it was trained on images.
      pixels: whether it was trained on uint8 pixels, which the network reads as 0 … 1.
    """

    experiment: Experiment
    model: Any
    state: TrainState
    history: Any
    key: jax.Array
    input_shape: tuple[int, ...]
    outputs: int
    class_names: tuple[str, ...]
    channels: int = 1
    pixels: bool = False

    @property
    def networks(self) -> int:
        """Number of networks, trained at once with consecutive seeds."""
        return int(np.size(self.state.step))

    @property
    def tokens(self) -> bool:
        """Whether the network reads tokens."""
        return len(self.input_shape) == 1

    @property
    def takes_lengths(self) -> bool:
        """Whether the network can be told where each sequence ends."""
        return "lengths" in inspect.signature(self.model.__call__).parameters

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(height, width, channels) of the images that it reads; None if it reads something else.

        The class of the experiment must be known, as on the command line.
        """
        data = self.experiment.data
        if not isinstance(data, ImageSequences):
            return None
        time, features = self.input_shape
        if data.rows is None:
            return time, features // self.channels, self.channels
        side = math.isqrt(time * features // self.channels)  # other images can't be told apart
        return side, side, self.channels

    @property
    def reads_digits(self) -> bool:
        """Whether it names the digits of images like those of MNIST."""
        return self.image_shape == (28, 28, 1) and self.class_names == tuple("0123456789")

    def network(self, member: int | None = None) -> TrainState:
        """The state to predict with; its parameters are averaged if the run averages them.

        Args:
          member: index of one of several networks; None for all of them, stacked.

        Raises:
          ValueError: there is no such member.
        """
        state = averaged(self.state).replace(opt_state=())
        if member is None:
            return state
        if not 0 <= member < self.networks:
            raise ValueError(f"member must be between 0 and {self.networks - 1}; got {member}")
        return jax.tree.map(lambda leaf: leaf[member], state) if np.ndim(state.step) else state

    def predict(self, inputs: Any, lengths: Any = None, *, member: int | None = None) -> np.ndarray:
        """Compute the outputs of the network for any number of examples.

        Args:
          inputs: (N, time, features) uint8 pixels or floats, or (N, time) tokens, as in training; N
            may be 0.
          lengths: (N,), the number of valid time steps of each sequence; None if all are.
          member: index of one of several networks. By default their outputs or, in classification,
            their probabilities are averaged.

        Returns:
          (N, outputs), or (N, time, outputs) if there are outputs at each time step. In
          classification they are logits.

        Raises:
          ValueError: inputs of another kind than in training, or an invalid length or member.
        """
        split = self.split_of(inputs, lengths)
        state = self.network(member)
        parts = []
        for start in range(0, max(len(split), 1), _AT_ONCE):
            part = jax.tree.map(lambda array: array[start : start + _AT_ONCE], split)  # noqa: B023
            size = min(_AT_ONCE, 1 << max(len(part) - 1, 0).bit_length())  # few compilations
            padded = jax.tree.map(lambda array: _padded(array, size), part)  # noqa: B023
            parts.append(np.asarray(jax.device_get(_outputs(state, padded)))[: len(part)])
        return np.concatenate(parts)

    def classify(
        self, inputs: Any, lengths: Any = None, *, member: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Name the class of each example, or of each of its time steps.

        Args:
          inputs, lengths, member: see :meth:`predict`.

        Returns:
          The names of the most likely classes, (N,) or (N, time), and the probabilities of all
          classes, (N, classes) or (N, time, classes).

        Raises:
          ValueError: as :meth:`predict`; or the network predicts numbers.
        """
        if not self.class_names:
            raise ValueError("this network predicts numbers instead of classes; use predict")
        probabilities = np.asarray(jax.nn.softmax(self.predict(inputs, lengths, member=member)))
        return np.asarray(self.class_names)[probabilities.argmax(-1)], probabilities

    def split_of(self, inputs: Any, lengths: Any = None) -> Split:
        """The inputs as a split on the host, if they are of the kind that was trained on."""
        split = jax.device_get(Split(inputs, lengths=lengths))
        shape = np.shape(split.inputs)
        expected = ("N", *("time" if not self.pixels else n for n in self.input_shape[:1]))
        expected += self.input_shape[1:]
        fits = len(shape) == len(expected) and all(
            isinstance(want, str) or got == want for got, want in zip(shape, expected, strict=True)
        )
        if not fits:
            raise ValueError(f"inputs must be ({', '.join(map(str, expected))}); got {shape}")
        if self.pixels and split.inputs.dtype != np.uint8 and split.inputs.size:
            least, most = split.inputs.min(), split.inputs.max()
            if not 0 <= least <= most <= 1:
                raise ValueError(
                    "this network was trained on pixels: give uint8 or floats from 0 to 1; got "
                    f"floats from {least:g} to {most:g}"
                )
        check_examples(split)
        vocabulary = getattr(self.model, "vocabulary", None) or self.outputs
        check_values(split, self.outputs, vocabulary)
        return split


@jax.jit
def _outputs(state: TrainState, split: Split) -> jax.Array:
    """The outputs of a network, or the combined outputs of several."""
    return predict(state, split)


def _padded(array: np.ndarray, size: int) -> np.ndarray:
    return np.pad(array, [(0, size - len(array)), *[(0, 0)] * (array.ndim - 1)])
