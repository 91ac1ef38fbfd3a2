"""The verbs of every page, which work on stored runs."""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn.files import local_path
from jaxrnn.groups import Count, Group
from jaxrnn.runs.config import Experiment, RuntimeConfig, errors_of
from jaxrnn.runs.options import Workdir, parse
from jaxrnn.runs.processes import say, session
from jaxrnn.runs.run import run
from jaxrnn.runs.summary import runs_of
from jaxrnn.runs.trained import load_run, read_experiment
from jaxrnn.runs.verbs.evaluate import evaluate_run
from jaxrnn.runs.verbs.export import Export, export_run
from jaxrnn.runs.verbs.predict import Predict, predict_files

__all__ = ["Export", "Predict"]  # classes that pages may extend


@dataclass(frozen=True)
class Evaluate(Group):
    """Print the metrics of a stored run or, of a sweep, those of each run and their means."""

    workdir: Workdir
    """Directory of the run or the sweep."""
    runtime: RuntimeConfig


@dataclass(frozen=True)
class Resume(Group):
    """Continue a stored run."""

    workdir: Workdir
    """Directory of the run."""
    epochs: Count
    """Total number of epochs."""
    runtime: RuntimeConfig


def page_name(page: Experiment) -> str:
    """Return the last part of the page's module or file name."""
    return shlex.split(page.program)[-1].removesuffix(".py").replace("/", ".").split(".")[-1]


def _resume(stored: Experiment, given: Resume) -> None:
    trainer = replace(stored.trainer, epochs=given.epochs)
    run(replace(stored, trainer=trainer, runtime=given.runtime), name=page_name(stored))


def _evaluate(stored: Experiment, given: Evaluate) -> None:
    outcomes, paths = [], runs_of(given.workdir)
    with session(given.runtime):
        for path in paths:
            experiment = replace(read_experiment(path, type(stored)), runtime=given.runtime)
            results = evaluate_run(experiment, path)
            say(f"{path}, " * (len(paths) > 1) + f"after epoch {results.pop('epoch')}:")
            for name, value in results.items():
                say(f"{name} {value}")
            outcomes.append(results)
    if len(paths) > 1:
        say(f"mean of {len(paths)} runs:")
        for name in [name for name in outcomes[0] if name != "sample"]:
            say(f"{name} {np.mean([results[name] for results in outcomes])}")


def _predict(stored: Experiment, given: Predict) -> None:
    if not given.files:
        raise ValueError("give the files to read, or - for standard input: predict WORKDIR FILE…")
    with session(RuntimeConfig(devices=1)):
        if not predict_files(load_run(given.workdir, type(stored), best=given.best), given):
            raise SystemExit(1)


def _export(stored: Experiment, given: Export) -> None:
    if given.out == Path():
        raise ValueError("give a new directory after that of the run: export WORKDIR OUT")
    with session(RuntimeConfig(devices=1)):
        for line in export_run(load_run(given.workdir, type(stored), best=given.best), given):
            print(line)


VERBS: dict[str, tuple[type, Callable[[Experiment, Any], None]]] = {
    "resume": (Resume, _resume),
    "evaluate": (Evaluate, _evaluate),
    "predict": (Predict, _predict),
    "export": (Export, _export),
}
"""For each verb: its options, and its function of a stored experiment and options."""


def options_class(page: Experiment, verb: str) -> Any:
    """Return the dataclass of a verb's options, which a page may have extended."""
    return getattr(page, f"{verb}_options", None) or VERBS[verb][0]


def run_verb(page: Experiment, verb: str, words: list[str]) -> None:
    """Run a verb with the words of the command line."""
    kind, call = options_class(page, verb), VERBS[verb][1]
    workdir, stored = Path("WORKDIR"), page
    if not {"-h", "--help"} & {*words}:
        if not words or words[0].startswith("-"):
            raise ValueError(f"give the directory of a run first: {verb} WORKDIR")
        if any(re.match(r"--(runtime\.)?workdir", word) for word in words):
            raise ValueError(f"leave out --workdir: {verb} uses the directory of the run")
        workdir = local_path("workdir", words[0])
        path, *others = runs_of(workdir)
        if verb in ("resume", "export") and (others or path != workdir):
            raise ValueError(f"{workdir} holds a sweep; give the directory of a run, as {path}")
        stored = read_experiment(path, type(page))
    # Not restored, since processes may find each other in another way, and data that has changed
    # once may change again.
    reset: Any = dict.fromkeys(("coordinator", "processes", "process"))
    reset |= {"workdir": workdir, "distributed": False, "other_data": False}
    defaults = {
        "workdir": workdir,
        "runtime": replace(stored.runtime, **reset),
        "epochs": stored.trainer.epochs,
        "best": stored.trainer.patience is not None,
    }
    known = {field.name for field in fields(kind)} & {*defaults}
    default = kind(**{name: defaults[name] for name in known})
    given = parse(kind, default, words, f"{page.program} {verb}")
    if lines := [*errors_of(given)]:
        raise ValueError("\n".join(lines))
    call(stored, given)
