"""Configuration groups: types of their fields, which pydantic checks and error messages mention."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from pydantic import AllowInfNan

from jaxrnn.files import local_path

__all__ = ["Count", "Fraction", "Group", "NonNegative", "Positive"]

_Float32 = Annotated[float, AllowInfNan(False), Le(float(np.finfo(np.float32).max))]
Count = Annotated[int, Ge(1)]
"""Integer of at least 1."""
Positive = Annotated[_Float32, Gt(0)]
"""Number above 0, finite in float32."""
NonNegative = Annotated[_Float32, Ge(0)]
"""Number of at least 0, finite in float32."""
Fraction = Annotated[_Float32, Ge(0), Lt(1)]
"""Number of at least 0 and below 1."""


class Group:
    """Base of configuration groups.

    NumPy and JAX scalars become Python numbers. In paths, which may be given as strings, ``~``
    becomes the home directory.

    Raises:
      ValueError: a path is empty, a URL, or not UTF-8.
    """

    def __post_init__(self) -> None:
        group: Any = self
        for field in dataclasses.fields(group):
            value = getattr(self, field.name)
            if getattr(value, "shape", None) == ():
                value = value.item()
            elif isinstance(value, Path) or (
                isinstance(value, str) and field.type in (Path, Path | None)
            ):
                value = local_path(field.name.replace("_", "-"), value)
            object.__setattr__(self, field.name, value)
