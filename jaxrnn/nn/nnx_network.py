"""Flax NNX modules as pure functions of their parameters, as linen modules are."""

import inspect
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key


class NNXNetwork:
    """An NNX module split into its graph definition and its variables; equal for equal graphs.

    Each call reseeds the random-number streams, from its key folded with the index of the stream,
    so that its result depends only on the arguments.

    Args:
      module: any ``nnx.Module``; it is not modified.

    Attributes:
      params: its parameters, as nested dicts of arrays.
      arguments: names of the arguments of its call.
      draws: whether training needs a key, as for ``nnx.Dropout``.

    Raises:
      ValueError: it is no ``nnx.Module``; or it has variables other than parameters and
        random-number state, such as batch statistics.
    """

    def __init__(self, module: nnx.Module) -> None:
        if not isinstance(module, nnx.Module):
            raise ValueError(f"the model must be a linen or nnx module of Flax; got {module!r:.80}")
        parts: Any = nnx.split(module, nnx.Param, nnx.RngState, ...)
        self._graph, params, streams, others = parts
        if kinds := sorted({type(variable).__name__ for _, variable in nnx.to_flat_state(others)}):
            raise ValueError(
                "the model has unsupported variables other than nnx.Param: " + ", ".join(kinds)
            )
        self.params: chex.ArrayTree = nnx.to_pure_dict(params)
        self._params, self._streams = jax.tree.structure(params), jax.tree.structure(streams)
        self._is_key = [
            jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(streams)
        ]
        self.arguments = frozenset(inspect.signature(module.__call__).parameters)
        modules = [part for _, part in nnx.iter_modules(module)]
        self.draws = bool(self._is_key) and any(hasattr(part, "deterministic") for part in modules)

    def _identity(self) -> tuple[Any, ...]:
        return self._graph, self._params, self._streams

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NNXNetwork) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._graph)

    def merge(self, params: chex.ArrayTree, key: Key[Array, ""] | None = None) -> nnx.Module:
        """Return a module with these parameters, and random-number streams from this key."""
        key = jax.random.key(0) if key is None else key
        count = jnp.zeros((), jnp.uint32)
        streams = [
            jax.random.fold_in(key, number) if is_key else count
            for number, is_key in enumerate(self._is_key)
        ]
        variables = jax.tree.unflatten(self._params, jax.tree.leaves(params))
        random = jax.tree.unflatten(self._streams, streams)
        module: nnx.Module = nnx.merge(self._graph, variables, random)
        return module

    def apply(
        self,
        variables: Mapping[str, chex.ArrayTree],
        inputs: Array,
        *arguments: Array,
        in_training: bool = False,
        streams: Key[Array, ""] | None = None,
        **options: object,
    ) -> Float[Array, "batch *time outputs"]:
        """Call the module in training or evaluation mode, with random streams from a key."""
        module = self.merge(variables["params"], streams)
        module.train() if in_training else module.eval()
        return module(inputs, *arguments, **options)
