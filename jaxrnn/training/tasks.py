"""Tasks: the loss that training minimizes, and the metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Shaped
from tyro.conf import Suppress

from jaxrnn.data.batches import valid_steps
from jaxrnn.data.splits import Batch
from jaxrnn.groups import Fraction, Group

Outputs: TypeAlias = Float[Array, "batch *time width"]
Measured: TypeAlias = dict[str, Shaped[Array, " batch *time"]]
Means: TypeAlias = Mapping[str, chex.Numeric]


class Task(Group):
    """The loss to minimize and the metrics to measure.

    A task is a frozen dataclass; being hashable, it is static under ``jax.jit``.

    Attributes:
      best: the metric by which the best epoch is chosen.
      maximize: whether a higher value of it is better.
      categorical: whether the outputs are logits of classes, instead of numbers.
    """

    best: ClassVar[str] = "loss"
    maximize: ClassVar[bool] = False
    categorical: ClassVar[bool] = False

    def measure(self, outputs: Outputs, batch: Batch, *, train: bool = False) -> Measured:
        """Return metrics of one value per element, unreduced; training minimizes ``loss``.

        Args:
          outputs: (batch, width), or (batch, time, width) for one output per time step.
          batch: the batch that the outputs were computed for.
          train: whether to compute the loss to minimize, with label smoothing for instance, or
            the one to report.

        Raises:
          ValueError: the outputs don't fit the batch.
        """
        raise NotImplementedError

    def weights(self, batch: Batch) -> Shaped[Array, " batch *time"] | None:
        """Return the weight of each element, of the shape of ``loss``; None if each counts once.

        By default time steps count up to ``lengths``, if there is a label or a target for each.
        """
        return valid_steps(batch) if per_step(batch) and "lengths" in batch else None

    def summarize(self, means: Means) -> dict[str, chex.Numeric]:
        """Compute the metrics to report, in order, from the means of those measured."""
        return {"loss": means["loss"], **means}

    def combine(self, outputs: Float[Array, " networks *outputs"]) -> Float[Array, "*outputs"]:
        """Combine the outputs of several networks into those of one.

        That is their mean or, for logits, the logarithm of the mean of the probabilities.
        """
        if not self.categorical:
            return outputs.mean(0)
        log_probabilities = jax.nn.log_softmax(outputs.astype(jnp.float32), axis=-1)
        return jax.nn.logsumexp(log_probabilities, axis=0) - np.log(len(outputs))


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Classification of each sequence, or of each of its time steps."""

    kind: Suppress[Literal["classification"]] = "classification"
    label_smoothing: Fraction = 0.0
    """Fraction of each label that is spread evenly over all classes."""

    best: ClassVar[str] = "accuracy"
    maximize: ClassVar[bool] = True
    categorical: ClassVar[bool] = True

    def measure(self, outputs: Outputs, batch: Batch, *, train: bool = False) -> Measured:
        r"""Compute the cross entropy and accuracy of each element; see :meth:`Task.measure`.

        .. math:: \mathrm{loss} = -\sum_c p_c \log \mathrm{softmax}(\mathrm{outputs})_c

        in nats, where :math:`p` is 1 for the label and 0 elsewhere. With label smoothing α, in
        training only, it is 1 - α for the label, and α is spread evenly over all classes.
        ``accuracy`` is whether the largest output is that of the label.

        Labels are (batch,) for outputs (batch, classes), or (batch, time) for outputs (batch, time,
        classes), of which only the first ``lengths`` time steps count.
        """
        labels = _labels(outputs, batch, "Classification")
        losses = _cross_entropy(outputs, labels, self.label_smoothing if train else 0.0)
        return {"loss": losses, "accuracy": outputs.argmax(-1) == labels}


@dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """Prediction of real numbers for each sequence, or for each of its time steps."""

    kind: Suppress[Literal["regression"]] = "regression"

    best: ClassVar[str] = "rmse"

    def measure(self, outputs: Outputs, batch: Batch, *, train: bool = False) -> Measured:
        r"""Compute the squared error of each element, of K numbers; see :meth:`Task.measure`.

        .. math::
            \mathrm{loss} = \frac{1}{K} \sum_k (\mathrm{outputs}_k - \mathrm{targets}_k)^2

        Targets are (batch, width), or (batch,) for a width of 1; or (batch, time, width), of which
        only the first ``lengths`` time steps count.
        """
        if "targets" not in batch:
            raise ValueError(f"Regression needs targets; the batch has {', '.join(batch)}")
        targets = jnp.asarray(batch["targets"])
        targets = targets[:, None] if targets.ndim == 1 else targets
        if outputs.shape != targets.shape:
            raise ValueError(
                f"Regression expects outputs of the shape of the targets, {targets.shape}; the "
                f"model gives {outputs.shape}"
            )
        errors = outputs.astype(jnp.float32) - targets.astype(jnp.float32)
        return {"loss": jnp.square(errors).mean(-1)}

    def summarize(self, means: Means) -> dict[str, chex.Numeric]:
        """Report ``loss`` and ``rmse``, the square root of the loss."""
        return {**means, "rmse": np.sqrt(means["loss"])}


@dataclass(frozen=True, kw_only=True)
class LanguageModeling(Task):
    """Prediction of the next token at each time step."""

    kind: Suppress[Literal["language_modeling"]] = "language_modeling"

    best: ClassVar[str] = "bits"
    categorical: ClassVar[bool] = True

    def measure(self, outputs: Outputs, batch: Batch, *, train: bool = False) -> Measured:
        """Compute the cross entropy of each next token, in nats; see :meth:`Task.measure`.

        Labels (batch, time) are the tokens that follow each time step: the sequence, shifted by
        one. Only the first ``lengths`` time steps count.
        """
        labels = _labels(outputs, batch, "LanguageModeling")
        if labels.ndim != 2:
            raise ValueError(f"LanguageModeling expects labels (batch, time); got {labels.shape}")
        return {"loss": _cross_entropy(outputs, labels, 0.0)}

    def summarize(self, means: Means) -> dict[str, chex.Numeric]:
        """Report ``loss``, ``perplexity``, which is its exponential, and ``bits`` per token."""
        loss = means["loss"]
        return {"loss": loss, "perplexity": np.exp(loss), "bits": loss / np.log(2)}


def per_step(batch: Batch) -> bool:
    """Return whether a batch has a label or target for each time step."""
    return np.ndim(batch.get("labels", 0)) == 2 or np.ndim(batch.get("targets", 0)) == 3


def _labels(outputs: Outputs, batch: Batch, task: str) -> Int[Array, " batch *time"]:
    if "labels" not in batch:
        raise ValueError(f"{task} needs labels; the batch has {', '.join(batch)}")
    labels = jnp.asarray(batch["labels"]).astype(jnp.int32)
    if outputs.ndim != labels.ndim + 1 or outputs.shape[:-1] != labels.shape:
        expected = ", ".join([*map(str, labels.shape), "classes"])
        expected = f"{task} expects outputs ({expected}) for labels {labels.shape}"
        raise ValueError(f"{expected}; the model gives {outputs.shape}")
    return labels


def _cross_entropy(
    logits: Float[Array, "*elements classes"], labels: Int[Array, "*elements"], smoothing: float
) -> Float[Array, "*elements"]:
    """Compute the cross entropy in nats; NaN for labels out of range, which JAX would clamp."""
    logits, classes = logits.astype(jnp.float32), logits.shape[-1]
    labels = jnp.where(labels < 0, classes, labels)  # indexing counts negative ones from the end
    if not smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits=logits, labels=labels)
    known = jnp.where(labels < classes, 1.0, jnp.nan)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, classes), smoothing)
    return optax.softmax_cross_entropy(logits=logits, labels=targets * known[..., None])
