"""compiled: jax.jit for functions that people call with numbers of any kind."""

import functools
from collections.abc import Callable
from typing import Any

import jax


def compiled(*static: str) -> Callable[[Callable[..., Any]], Any]:
    """``jax.jit`` whose static arguments may be JAX's scalars, which can't be hashed.

    Args:
      static: names of the arguments that are compiled for, given by keyword.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        jitted: Any = jax.jit(function, static_argnames=static)

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            for name in static:
                if isinstance(options.get(name), jax.Array):
                    options[name] = options[name].item()
            return jitted(*arguments, **options)

        return functools.update_wrapper(call, jitted, ("lower", "eval_shape"), ())

    return decorate
