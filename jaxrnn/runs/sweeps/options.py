"""The options of a sweep on the command line."""

import itertools
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import tyro

from jaxrnn.runs.config import Experiment
from jaxrnn.runs.options import complete, parse


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Several runs of one experiment, each in a directory of its own."""

    seeds: int = 1
    """Number of runs of each configuration, with consecutive seeds."""
    vary: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Values to try, as in learning_rate=1e-3,3e-3 hidden=64,150; every combination is run."""
    jobs: int = 1
    """Number of runs to train at once, each in a process with its share of the cores."""
    pictures: bool = False
    """Also draw the pictures of every run."""

    def values(self, experiment: Experiment) -> dict[str, list[Any]]:
        """Parse ``vary``: return the values of each option by its dotted name."""
        kind = type(experiment)
        found: dict[str, list[Any]] = {}
        for word in itertools.chain(*self.vary):
            flag, _, listed = "".join(complete([f"--{word}"], kind)[0]).partition("=")
            if not listed:
                raise ValueError(f"--vary expects OPTION=VALUE,VALUE,…; got {word!r}")
            name = flag.removeprefix("--").replace("-", "_")
            for value in listed.split(","):
                words = [f"{flag}={value}"]
                changed = parse(kind, experiment, words, "", "", tyro.conf.FlagConversionOff)
                found.setdefault(name, []).append(attrgetter(name)(changed))
        return found
