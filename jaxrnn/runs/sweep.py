"""Sweeps: several runs of one experiment."""

from pathlib import Path


def runs_of(directory: Path) -> list[Path]:
    """List the finished runs of a sweep in order, or the single run of a work directory.

    Raises:
      ValueError: the sweep has no finished run.
    """
    if not (directory / "sweep.json").exists():
        return [directory]
    found = sorted(path.parent for path in directory.rglob("results.json"))
    if not found:
        raise ValueError(f"{directory} holds no finished run")
    return found
