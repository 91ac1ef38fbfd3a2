"""The verbs of every page, which work on a stored run."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from jaxrnn.files import local_path
from jaxrnn.runs.config import Experiment, RuntimeConfig, errors_of
from jaxrnn.runs.options import Workdir, parse
from jaxrnn.runs.run import run, session
from jaxrnn.runs.stored import evaluate_run, load_run, read_experiment
from jaxrnn.runs.trained import Run

_HELP = {"-h", "--help"}


@dataclass(frozen=True)
class Evaluate:
    """Print the metrics of a stored run."""

    workdir: Workdir
    """Directory of the run."""
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
    """The last part of the page's module or file name."""
    return page.command.split(maxsplit=2)[-1].removesuffix(".py").replace("/", ".").split(".")[-1]


def _resume(page: Experiment, words: list[str]) -> bool:
    """Continue a stored run, possibly with more epochs."""
    workdir, stored = _stored(page, "resume", words)
    default = Resume(workdir, stored.trainer.epochs, stored.runtime)
    given = parse(Resume, default, words, f"{page.command} resume")
    trainer = dataclasses.replace(stored.trainer, epochs=given.epochs)
    run(dataclasses.replace(stored, trainer=trainer, runtime=given.runtime), name=page_name(page))
    return True


def _evaluate(page: Experiment, words: list[str]) -> bool:
    workdir, stored = _stored(page, "evaluate", words)
    default = Evaluate(workdir, stored.runtime)
    given = parse(Evaluate, default, words, f"{page.command} evaluate")
    with session(given.runtime):
        results = evaluate_run(dataclasses.replace(stored, runtime=given.runtime), workdir)
    print(f"after epoch {results.pop('epoch')}:")
    for name, value in results.items():
        print(name, *(value if isinstance(value, list) else [value]))
    return True


def _predict(page: Experiment, words: list[str]) -> bool:
    from jaxrnn.runs.verbs.predict import (  # here, as it takes a while to import
        Predict,
        predict_files,
    )

    workdir, stored = _stored(page, "predict", words)
    default = Predict(workdir, (), best=stored.trainer.patience is not None)
    given: Predict = _checked(parse(Predict, default, words, f"{page.command} predict"))
    if not given.files:
        raise ValueError("give the files to read, or - for standard input: predict WORKDIR FILE…")
    return predict_files(_loaded(workdir, type(page), best=given.best), given)


def _export(page: Experiment, words: list[str]) -> bool:
    from jaxrnn.runs.verbs.export import Export, export_run  # here, as it takes a while to import

    workdir, stored = _stored(page, "export", words)
    if not _HELP & {*words} and (len(words) < 2 or words[1].startswith("-")):
        raise ValueError("give a new directory after that of the run: export WORKDIR OUT")
    default = Export(workdir, tyro.MISSING, best=stored.trainer.patience is not None)
    given: Export = _checked(parse(Export, default, words, f"{page.command} export"))
    for line in export_run(_loaded(workdir, type(page), best=given.best), given):
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
    """A paragraph of help for each verb."""
    return (
        f"{command} resume WORKDIR [--epochs N] [runtime options]: continue a stored run.",
        f"{command} evaluate WORKDIR [runtime options]: print its metrics.",
        f"{command} predict WORKDIR FILE…: print what it predicts for files.",
        f"{command} export WORKDIR OUT: write the network for other programs.",
    )


def _checked(options: Any) -> Any:
    """Return the options of a verb, if each has an allowed value."""
    if lines := [*errors_of(options)]:
        raise ValueError("\n".join(lines))
    return options


def _loaded(workdir: Path, kind: type[Experiment], *, best: bool) -> Run:
    """A stored run, to use on a single device with all cores."""
    with session(RuntimeConfig(devices=1)):
        return load_run(workdir, kind, best=best)


def _stored(page: Experiment, verb: str, words: list[str]) -> tuple[Path, Any]:
    """The work directory named first, and its experiment."""
    if _HELP & {*words}:
        return Path("WORKDIR"), page
    if not words or words[0].startswith("-"):
        raise ValueError(f"give the directory of a run first: {verb} WORKDIR")
    if any(re.match(r"--(runtime\.)?workdir", word) for word in words):
        raise ValueError(f"leave out --workdir: {verb} uses the directory of the run")
    workdir = local_path("workdir", Path(words[0]))
    stored = read_experiment(workdir, type(page))
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
