"""Configuration groups: types of their fields, which pydantic checks and error messages mention."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AllowInfNan

_MAX = 3.4e38  # what float32 can hold

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0), Le(_MAX), AllowInfNan(False)]
NonNegative = Annotated[float, Ge(0), Le(_MAX), AllowInfNan(False)]
Fraction = Annotated[float, Ge(0), Lt(1), AllowInfNan(False)]


class Group:
    """Base of configuration groups: converts NumPy and JAX scalars, and expands ~ in paths."""

    def __post_init__(self) -> None:
        group: Any = self
        for field in dataclasses.fields(group):
            value = getattr(self, field.name)
            if hasattr(value, "item") and getattr(value, "shape", None) == ():
                object.__setattr__(self, field.name, value.item())
            if isinstance(value, Path):
                object.__setattr__(self, field.name, value.expanduser())
