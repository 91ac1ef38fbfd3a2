"""Summary: what the runs of a sweep say together, in its files and in print."""

import csv
import functools
import io
import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn.files import read_json, write_atomically, write_figure, write_json
from jaxrnn.runs.config import Experiment
from jaxrnn.training.history import History
from jaxrnn.training.tasks import Task

SEED = "trainer.seed"


def is_sweep(directory: Path) -> bool:
    """Return whether a directory holds a sweep."""
    return (directory / "sweep.json").exists()


def read_sweep(directory: Path) -> dict[str, Any]:
    """Return the contents of ``sweep.json``."""
    return read_json(directory / "sweep.json", max_bytes=2**28)


def runs_of(directory: Path) -> list[Path]:
    """Return the directories of the finished runs of a sweep, in order.

    Args:
      directory: of the sweep; or of a single run, which is returned alone.

    Raises:
      FileNotFoundError: no run of the sweep is finished.
    """
    if not is_sweep(directory):
        return [directory]
    runs = [directory / run["directory"] for run, results in _runs(directory) if results]
    if not runs:
        raise FileNotFoundError(f"{directory} holds a sweep without a finished run")
    return runs


def results_of(workdir: Path, epochs: int) -> dict[str, Any] | None:
    """Return the results of a run; None if it is not finished."""
    path = workdir / "results.json"
    results = read_json(path) if path.exists() else {}
    return results if results.get("stopped_early") or results.get("epochs") == epochs else None


def _runs(directory: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Yield directory and options of each run of a sweep, and its results if it is finished."""
    content = read_sweep(directory)
    keys = ["directory", *content["varied"], SEED]
    for run in content["runs"]:
        epochs = run.get("trainer.epochs", content["experiment"]["trainer"]["epochs"])
        results = results_of(directory / run["directory"], epochs)
        yield {key: run[key] for key in keys}, results


def option_of(content: Mapping[str, Any], key: str) -> Any:
    """Return an option by its dotted name, from an experiment as JSON."""
    return functools.reduce(operator.getitem, key.split("."), content)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return the last part of each dotted name, or all of it if two of them end alike."""
    last = {key: key.rpartition(".")[2] for key in keys}
    return last if len({*last.values()}) == len(last) else {key: key for key in last}


def write_plan(
    directory: Path, experiment: Experiment, varied: Sequence[str], plan: Mapping[str, Experiment]
) -> None:
    """Write ``sweep.json`` with the runs that are planned, and those of earlier plans."""
    keys = [*varied, SEED]
    runs = {run["directory"]: run for run, _ in (_runs(directory) if is_sweep(directory) else ())}
    for name, planned in plan.items():
        content = planned.to_json()
        runs[name] = {"directory": name} | {key: option_of(content, key) for key in keys}
    # Numbers in ascending order, after other values in the order in which they were given.
    ranks = {key: sorted((run[key] for run in runs.values()), key=_number) for key in keys}
    order = sorted(runs.values(), key=lambda run: [ranks[key].index(run[key]) for key in keys])
    content = {"experiment": experiment.identity, "varied": [*varied], "runs": order}
    write_json(directory / "sweep.json", content)


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else -math.inf


def write_summary(directory: Path, task: Task, failed: Mapping[str, str]) -> dict[str, Any]:
    """Write ``sweep.json``, ``sweep.csv`` and ``sweep.png``; returns the contents of the first."""
    from jaxrnn.plotting import plot_history, plot_sweep  # here, as they take a while to import

    content, runs, finished = read_sweep(directory), [], []
    varied: list[str] = content["varied"]
    columns: list[str] = []
    for run, results in _runs(directory):
        if results:
            columns = columns or evaluated(results, task)
            metrics = {name: v for name, v in results.items() if isinstance(v, int | float | None)}
            run |= metrics | {"seconds": sum(results["seconds"].values())}
            finished.append(run)
        runs.append(run)
    grouped = itertools.groupby(finished, lambda run: {key: run[key] for key in varied})
    configurations = [values | _statistics([*members], columns) for values, members in grouped]
    content |= {"runs": runs, "failed": failed, "configurations": configurations, "best": None}
    content["columns"] = columns
    if finished:
        choose = max if task.maximize else min
        known = [row for row in configurations if math.isfinite(row[columns[0]])]
        best = choose(known or configurations, key=operator.itemgetter(columns[0]))
        content["best"] = {key: best[key] for key in varied}
        table = io.StringIO()
        names = dict.fromkeys(itertools.chain(*finished))
        writer = csv.DictWriter(table, [*names], lineterminator="\n")
        writer.writeheader()
        writer.writerows(finished)
        write_atomically(directory / "sweep.csv", table.getvalue())
        curves = [directory / run["directory"] / "history.csv" for run in finished]
        figure = (
            plot_sweep(configurations, varied, columns[0])
            if varied
            else plot_history([History.from_csv(path) for path in curves])
        )
        write_figure(directory / "sweep.png", figure)
    write_json(directory / "sweep.json", content)
    return content


def evaluated(results: Mapping[str, Any], task: Task) -> list[str]:
    """Return the columns of the metric that counts, of every evaluated split or of training."""
    columns = [name for name in results if name.endswith(f"_{task.best}")]
    own = ("best_", "train_")
    return [name for name in columns if not name.startswith(own)] or [f"train_{task.best}"]


def _statistics(members: list[dict[str, Any]], columns: Sequence[str]) -> dict[str, Any]:
    """Return mean, deviation and the 95 % interval of the mean (Student's t) of some runs."""
    from scipy.special import stdtrit  # here, as it takes a while to import

    statistics: dict[str, Any] = {"seeds": len(members)}
    for column in columns:
        values = np.array([member.get(column) for member in members], float)
        mean = statistics[column] = float(values.mean())
        if len(members) > 1:
            deviation = statistics[f"{column}_deviation"] = float(values.std(ddof=1))
            half = deviation * stdtrit(len(members) - 1, 0.975) / math.sqrt(len(members))
            statistics[f"{column}_interval"] = [mean - half, mean + half]
    return statistics


def describe_run(name: str, outcome: dict[str, Any] | str, task: Task) -> str:
    """Return the line that tells how a run has ended."""
    if isinstance(outcome, str):
        return f"{name}: failed, as {outcome}"
    metrics = (f"{_words(each)} {_digits(outcome[each])}" for each in evaluated(outcome, task))
    return f"{name}: {', '.join(metrics)}, {sum(outcome['seconds'].values()):.1f} s"


def describe_sweep(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of the configurations; for one of them, a line for each split."""
    varied, columns, rows = content["varied"], content["columns"], content["configurations"]
    if content["failed"]:
        yield f"{len(content['failed'])} runs failed"
    if not rows:
        return
    if not varied:
        for column in columns:
            text = f"{_words(column)}: {_digits(rows[0][column])}"
            if rows[0]["seeds"] > 1:
                deviation, interval = _spread(rows[0], column)
                text += f", deviation {deviation}, 95 % interval of the mean {interval}"
            yield text
        return
    titles = [*short_names(varied).values(), "seeds"]
    titles += [title for column in columns for title in (_words(column), "deviation", "95 %")]
    table = [titles]
    for row in rows:
        cells = [str(row[key]) for key in (*varied, "seeds")]
        for column in columns:
            cells += [_digits(row[column]), *_spread(row, column)]
        table.append(cells)
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    for cells in table:
        yield "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    best = (f"{name} {content['best'][key]}" for key, name in short_names(varied).items())
    yield f"best by {_words(columns[0])}: {', '.join(best)}"


def _spread(row: Mapping[str, Any], column: str) -> tuple[str, str]:
    """Return deviation and interval as text; of a single run, dashes."""
    if row["seeds"] == 1:
        return "-", "-"
    interval = " to ".join(map(_digits, row[f"{column}_interval"]))
    return _digits(row[f"{column}_deviation"]), interval


def _words(column: str) -> str:
    return column.replace("_", " ")


def _digits(value: float | None) -> str:
    value = math.nan if value is None else value
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"
