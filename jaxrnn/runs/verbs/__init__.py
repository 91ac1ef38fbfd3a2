"""The verbs of every page, which work on stored runs."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn.files import local_path
from jaxrnn.groups import Count
from jaxrnn.runs.config import Experiment, RuntimeConfig, errors_of
from jaxrnn.runs.options import Workdir, parse
from jaxrnn.runs.processes import session
from jaxrnn.runs.run import run
from jaxrnn.runs.sweeps.summary import runs_of
from jaxrnn.runs.trained import evaluate_run, load_run, read_experiment
from jaxrnn.runs.verbs.export import Export, export_run
from jaxrnn.runs.verbs.predict import Predict, predict_files


@dataclass(frozen=True)
class Evaluate:
    """Print the metrics of a stored run or, of a sweep, those of each run and their means."""

    workdir: Workdir
    """Directory of the run or the sweep."""
    runtime: RuntimeConfig


@dataclass(frozen=True)
class Resume:
    """Continue a stored run."""

    workdir: Workdir
    """Directory of the run."""
    epochs: Count
    """Total number of epochs."""
    runtime: RuntimeConfig


def page_name(page: Experiment) -> str:
    """Return the last part of the page's module or file name."""
    return page.command.split(maxsplit=2)[-1].removesuffix(".py").replace("/", ".").split(".")[-1]


def _resume(page: Experiment, words: list[str]) -> bool:
    stored, given = _parsed(page, "resume", words, Resume)
    trainer = replace(stored.trainer, epochs=given.epochs)
    run(replace(stored, trainer=trainer, runtime=given.runtime), name=page_name(page))
    return True


def _evaluate(page: Experiment, words: list[str]) -> bool:
    _, given = _parsed(page, "evaluate", words, Evaluate, sweep=True)
    every, paths = [], runs_of(given.workdir)
    for path in paths:
        experiment = replace(read_experiment(path, type(page)), runtime=given.runtime)
        with session(given.runtime):
            results = evaluate_run(experiment, path)
        print(f"{path}, " * (len(paths) > 1) + f"after epoch {results.pop('epoch')}:")
        for name, value in results.items():
            print(name, value)
        every.append(results)
    if len(paths) > 1:
        print(f"mean of {len(paths)} runs:")
        for name in [name for name in every[0] if name != "sample"]:
            print(name, np.mean([results[name] for results in every]))
    return True


def _predict(page: Experiment, words: list[str]) -> bool:
    _, given = _parsed(page, "predict", words, page.predict_options or Predict, sweep=True)
    if not given.files:
        raise ValueError("give the files to read, or - for standard input: predict WORKDIR FILE…")
    with session(RuntimeConfig(devices=1)):
        return predict_files(load_run(given.workdir, type(page), best=given.best), given)


def _export(page: Experiment, words: list[str]) -> bool:
    _, given = _parsed(page, "export", words, page.export_options or Export)
    if given.out == Path():
        raise ValueError("give a new directory after that of the run: export WORKDIR OUT")
    with session(RuntimeConfig(devices=1)):
        for line in export_run(load_run(given.workdir, type(page), best=given.best), given):
            print(line)
    return True


VERBS: Mapping[str, Callable[[Experiment, list[str]], bool]] = {
    "resume": _resume,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
}
"""Each takes a page and the words of the command line, and returns whether it succeeded."""


def describe_verbs(command: str) -> tuple[str, ...]:
    """Return a line of help for each verb."""
    return (
        f"{command} resume WORKDIR [--epochs N] [runtime options]: continue a stored run.",
        f"{command} evaluate WORKDIR [runtime options]: print its metrics.",
        f"{command} predict WORKDIR FILE…: print what it predicts for files.",
        f"{command} export WORKDIR OUT: write the network for other programs.",
    )


def _parsed(
    page: Experiment, verb: str, words: list[str], kind: Any, *, sweep: bool = False
) -> tuple[Experiment, Any]:
    """Return the experiment of the directory named first, and the options of a verb.

    With ``sweep`` the directory may hold a sweep, whose experiment is that of its first run.
    """
    workdir, stored = Path("WORKDIR"), page
    if not {"-h", "--help"} & {*words}:
        if not words or words[0].startswith("-"):
            raise ValueError(f"give the directory of a run first: {verb} WORKDIR")
        if any(re.match(r"--(runtime\.)?workdir", word) for word in words):
            raise ValueError(f"leave out --workdir: {verb} uses the directory of the run")
        workdir = local_path("workdir", Path(words[0]))
        path, *others = runs_of(workdir)
        if not sweep and (others or path != workdir):
            raise ValueError(f"{workdir} holds a sweep; give the directory of a run, as {path}")
        stored = read_experiment(path, type(page))
    # How processes find each other can change from start to start, and is not resumed.
    alone: Any = dict.fromkeys(("coordinator", "processes", "process"))
    defaults = {
        "workdir": workdir,
        "runtime": replace(stored.runtime, workdir=workdir, distributed=False, **alone),
        "epochs": stored.trainer.epochs,
        "best": stored.trainer.patience is not None,
    }
    names = [field.name for field in fields(kind) if field.name in defaults]
    default = kind(**{name: defaults[name] for name in names})
    given = parse(kind, default, words, f"{page.command} {verb}")
    if lines := [*errors_of(given)]:
        raise ValueError("\n".join(lines))
    return stored, replace(given, workdir=workdir)
