"""The verbs of every page, which work on stored runs."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from jaxrnn.files import local_path
from jaxrnn.runs.config import Experiment, RuntimeConfig, errors_of
from jaxrnn.runs.options import Workdir, parse
from jaxrnn.runs.run import run, session
from jaxrnn.runs.sweep import runs_of
from jaxrnn.runs.trained import Run, evaluate_run, load_run, read_experiment
from jaxrnn.runs.verbs.export import Export, export_run
from jaxrnn.runs.verbs.predict import Predict, predict_files

_HELP = {"-h", "--help"}


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
    epochs: int
    """Total number of epochs."""
    runtime: RuntimeConfig


def page_name(page: Experiment) -> str:
    """Return the last part of the page's module or file name."""
    return page.command.split(maxsplit=2)[-1].removesuffix(".py").replace("/", ".").split(".")[-1]


def _resume(page: Experiment, words: list[str]) -> bool:
    workdir, stored = _stored(page, "resume", words, sweep=False)
    default = Resume(workdir, stored.trainer.epochs, stored.runtime)
    given = _parsed(page, "resume", words, default)
    trainer = dataclasses.replace(stored.trainer, epochs=given.epochs)
    run(dataclasses.replace(stored, trainer=trainer, runtime=given.runtime), name=page_name(page))
    return True


def _evaluate(page: Experiment, words: list[str]) -> bool:
    workdir, stored = _stored(page, "evaluate", words)
    given = _parsed(page, "evaluate", words, Evaluate(workdir, stored.runtime))
    every, paths = [], runs_of(workdir)
    for path in paths:
        experiment = dataclasses.replace(read_experiment(path, type(page)), runtime=given.runtime)
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
    workdir, stored = _stored(page, "predict", words)
    options = page.predict_options or Predict
    default = options(workdir, (), best=stored.trainer.patience is not None)
    given = _parsed(page, "predict", words, default)
    if not given.files:
        raise ValueError("give the files to read, or - for standard input: predict WORKDIR FILE…")
    return predict_files(_loaded(page, given), given)


def _export(page: Experiment, words: list[str]) -> bool:
    workdir, stored = _stored(page, "export", words, sweep=False)
    if not _HELP & {*words} and (len(words) < 2 or words[1].startswith("-")):
        raise ValueError("give a new directory after that of the run: export WORKDIR OUT")
    options = page.export_options or Export
    default = options(workdir, tyro.MISSING, best=stored.trainer.patience is not None)
    given = _parsed(page, "export", words, default)
    for line in export_run(_loaded(page, given), given):
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
    """Return a paragraph of help for each verb."""
    return (
        f"{command} resume WORKDIR [--epochs N] [runtime options]: continue a stored run.",
        f"{command} evaluate WORKDIR [runtime options]: print its metrics.",
        f"{command} predict WORKDIR FILE…: print what it predicts for files.",
        f"{command} export WORKDIR OUT: write the network for other programs.",
    )


def _parsed(page: Experiment, verb: str, words: list[str], default: Any) -> Any:
    """Parse the options of a verb; raises ``ValueError`` if one has a wrong value."""
    given = parse(type(default), default, words, f"{page.command} {verb}")
    if lines := [*errors_of(given)]:
        raise ValueError("\n".join(lines))
    return given


def _loaded(page: Experiment, given: Predict | Export) -> Run:
    """Load a run or a sweep, to use on a single device with all cores."""
    with session(RuntimeConfig(devices=1)):
        return load_run(given.workdir, type(page), best=given.best)


def _stored(
    page: Experiment, verb: str, words: list[str], *, sweep: bool = True
) -> tuple[Path, Experiment]:
    """Return the work directory named first, and its experiment: of a sweep, that of its first run.

    Args:
      page: an experiment of the page.
      verb: the name of the verb.
      words: the words that follow it.
      sweep: whether the verb takes a sweep.
    """
    if _HELP & {*words}:
        return Path("WORKDIR"), page
    if not words or words[0].startswith("-"):
        raise ValueError(f"give the directory of a run first: {verb} WORKDIR")
    if any(re.match(r"--(runtime\.)?workdir", word) for word in words):
        raise ValueError(f"leave out --workdir: {verb} uses the directory of the run")
    workdir = local_path("workdir", Path(words[0]))
    path, *_ = paths = runs_of(workdir)
    if paths != [workdir] and not sweep:
        raise ValueError(f"{workdir} holds a sweep; give the directory of one run, such as {path}")
    stored = read_experiment(path, type(page))
    # How processes find each other can change from start to start, and is not resumed.
    runtime = dataclasses.replace(
        stored.runtime,
        workdir=workdir,
        distributed=False,
        coordinator=None,
        processes=None,
        process=None,
    )
    return workdir, dataclasses.replace(stored, runtime=runtime)
