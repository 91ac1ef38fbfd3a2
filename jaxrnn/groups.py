"""Configuration groups: types of their fields, which pydantic checks and error messages mention."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt
from pydantic import AllowInfNan

from jaxrnn.files import local_path

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0), AllowInfNan(False)]
NonNegative = Annotated[float, Ge(0), AllowInfNan(False)]
Fraction = Annotated[float, Ge(0), Lt(1), AllowInfNan(False)]


class Group:
    """Base of configuration groups.

    NumPy and JAX scalars become Python numbers. In paths, which may be given as strings, ``~``
    becomes the home directory.

    Raises:
      ValueError: a path is a URL, or not UTF-8.
    """

    def __post_init__(self) -> None:
        group: Any = self
        for field in dataclasses.fields(group):
            value = getattr(self, field.name)
            if getattr(value, "shape", None) == ():
                value = value.item()
            elif isinstance(value, str | Path) and field.type in (Path, Path | None):
                value = local_path(field.name.replace("_", "-"), Path(value))
            object.__setattr__(self, field.name, value)
