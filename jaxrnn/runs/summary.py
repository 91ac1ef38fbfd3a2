"""Stand-in: which runs a directory holds."""

from pathlib import Path


def runs_of(directory: Path) -> list[Path]:
    """Return the directories of the finished runs of a sweep, in order.

    Args:
      directory: of the sweep; or of a single run, which is returned alone.

    Raises:
      FileNotFoundError: no run of the sweep is finished.
    """
    if not (directory / "sweep.json").exists():
        return [directory]
    found = sorted(path.parent for path in directory.rglob("results.json"))
    if not found:
        raise FileNotFoundError(f"{directory} holds a sweep without a finished run")
    return found
