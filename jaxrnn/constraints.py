"""Types of the fields of configuration groups: what pydantic checks and the error messages say."""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AllowInfNan

_MAX = 3.4e38  # what float32 can hold

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0), Le(_MAX), AllowInfNan(False)]
NonNegative = Annotated[float, Ge(0), Le(_MAX), AllowInfNan(False)]
Fraction = Annotated[float, Ge(0), Lt(1), AllowInfNan(False)]
