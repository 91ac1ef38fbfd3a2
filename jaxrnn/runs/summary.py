"""Statistics over the runs of a sweep, in its files and on the terminal."""

import functools
import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from jaxrnn.files import Json, read_json, write_csv, write_figure, write_json
from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.runs.results import drawing
from jaxrnn.runs.run import read_results
from jaxrnn.training import Task
from jaxrnn.training.history import format_metric, metric_columns, title

SEED = "trainer.seed"
Outcome: TypeAlias = Json | str
"""The results of a run, or why it failed."""


def read_sweep(directory: Path) -> Json:
    """Return the contents of ``sweep.json``; empty if the directory holds no sweep."""
    path = directory / "sweep.json"
    return read_json(path) if path.exists() else {}


def runs_of(directory: Path) -> list[Path]:
    """Return the directories of the finished runs of a sweep, in order, or that of a single run.

    Raises ``FileNotFoundError`` if no run of the sweep is finished.
    """
    if not (content := read_sweep(directory)):
        return [directory]
    runs = [directory / row["directory"] for row in _rows(directory, content)]
    if not runs:
        raise FileNotFoundError(f"{directory} holds a sweep without a finished run")
    return runs


def results_if_finished(workdir: Path, epochs: int) -> Json | None:
    """Return the results of a run, or None if it has not finished this number of epochs."""
    results = read_results(workdir)
    return results if results.get("stopped_early") or results.get("epochs") == epochs else None


def _rows(directory: Path, content: Json) -> list[Json]:
    """Return directory, options and metrics of each finished run, ordered by its options."""
    keys, rows = [*content["varied"], SEED], []
    for path in directory.glob("*/" * bool(content["varied"]) + "seed-*/config.json"):
        config = read_json(path)
        run = {"directory": str(path.parent.relative_to(directory))}
        run |= {key: option_of(config, key) for key in keys}
        epochs = run.get("trainer.epochs", content["experiment"]["trainer"]["epochs"])
        if results := results_if_finished(path.parent, epochs):
            numbers = {name: v for name, v in results.items() if isinstance(v, int | float | None)}
            rows.append({**run, **numbers, "seconds": sum(results["seconds"].values())})

    def rank(value: object) -> tuple[float, str]:
        """Return a sort key: text in alphabetical order, then numbers by value."""
        return value if isinstance(value, int | float) else -math.inf, str(value)

    return sorted(rows, key=lambda row: [rank(row[key]) for key in keys])


def option_of(content: Json, key: str) -> Any:
    """Return an option by its dotted name, from an experiment as JSON."""
    return functools.reduce(operator.getitem, key.split("."), content)


def short_names(keys: Iterable[str]) -> list[str]:
    """Return the last part of each dotted name, or whole names if the last parts are not unique."""
    keys = list(keys)
    last = [key.rpartition(".")[2] for key in keys]
    return last if len({*last}) == len(last) else keys


def write_summary(directory: Path, task: Task, failed: Mapping[str, str]) -> None:
    """Add statistics of the finished runs to ``sweep.json``; write ``sweep.csv``, ``sweep.png``."""
    content = read_sweep(directory)
    rows, varied = _rows(directory, content), content["varied"]
    columns = evaluated(rows[0], task) if rows else []
    grouped = itertools.groupby(rows, lambda row: {key: row[key] for key in varied})
    configurations = [values | _statistics([*members], columns) for values, members in grouped]
    content |= {"columns": columns, "configurations": configurations, "failed": failed}
    if rows:
        sign = 1 if task.maximize else -1
        values = np.array([sign * row[columns[0]] for row in configurations])
        best = configurations[np.where(np.isnan(values), -np.inf, values).argmax()]
        content["best"] = {key: best[key] for key in varied}
        write_csv(directory / "sweep.csv", [*dict.fromkeys(itertools.chain(*rows))], rows)
        with drawing(picture := directory / "sweep.png"):
            from jaxrnn.plotting import plot_history, plot_sweep  # slow to import

            if varied:
                figure = plot_sweep(configurations, varied, columns[0])
            else:
                paths = [directory / row["directory"] / "checkpoints" for row in rows]
                figure = plot_history([Checkpoints(path).history for path in paths])
            write_figure(picture, figure)
    write_json(directory / "sweep.json", content)


def evaluated(results: Json, task: Task) -> list[str]:
    """Return the columns of the main metric, of every evaluated split or else of training."""
    columns = metric_columns([*results], task.best)
    evals = [name for name in columns if not name.startswith(("best_", "train_"))]
    return evals or [f"train_{task.best}"]


def _statistics(members: Sequence[Json], columns: Sequence[str]) -> Json:
    """Return mean, deviation and the 95 % interval of the mean (Student's t) over seeds."""
    from scipy.special import stdtrit  # slow to import

    statistics: Json = {"seeds": len(members)}
    for column in columns:
        values = np.array([member.get(column) for member in members], float)
        mean = statistics[column] = float(values.mean())
        if len(members) > 1:
            deviation = statistics[f"{column}_deviation"] = float(values.std(ddof=1))
            half = deviation * stdtrit(len(members) - 1, 0.975) / math.sqrt(len(members))
            statistics[f"{column}_interval"] = [mean - half, mean + half]
    return statistics


def describe_run(directory: str, outcome: Json | str, task: Task) -> str:
    """Describe the outcome of a run in one line."""
    if isinstance(outcome, str):
        return f"{directory}: failed, as {outcome}"
    metrics = (f"{title(name)} {format_metric(outcome[name])}" for name in evaluated(outcome, task))
    return f"{directory}: {', '.join(metrics)}, {sum(outcome['seconds'].values()):.1f} s"


def describe_sweep(content: Json) -> Iterator[str]:
    """Yield the lines of a table with a row for each configuration, or one line for each split."""
    varied, columns, rows = content["varied"], content["columns"], content["configurations"]
    if content["failed"]:
        yield f"runs that failed: {', '.join(content['failed'])}"
    if not varied:
        for row, column in itertools.product(rows, columns):
            value, deviation, interval = _cells(row, column)
            spread = f", deviation {deviation}, 95 % interval of the mean {interval}"
            yield f"{title(column)}: {value}" + spread * (row["seeds"] > 1)
    elif rows:
        names, keys = short_names(varied), [*varied, "seeds"]
        titles = [(title(column), "deviation", "95 % interval") for column in columns]
        table = [[*names, "seeds", *itertools.chain(*titles)]]
        for row in rows:
            cells = itertools.chain(*(_cells(row, column) for column in columns))
            table.append([*(str(row[key]) for key in keys), *cells])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            yield "  ".join(map(str.rjust, line, widths))
        best = zip(names, content["best"].values(), strict=True)
        text = ", ".join(f"{name} {value}" for name, value in best)
        yield f"best by {title(columns[0])}: {text}"


def _cells(row: Json, column: str) -> tuple[str, str, str]:
    """Return mean, deviation and interval as text."""
    interval = " to ".join(map(format_metric, row.get(f"{column}_interval", ())))
    return format_metric(row[column]), format_metric(row.get(f"{column}_deviation")), interval
