"""Run the notebooks from start to end, each in a clean kernel, and store their outputs.

    python -m tests.run_notebooks [NAME ...]

The stored outputs depend on the run alone, except for times; the version of Python is removed.
"""

import os
import sys
from pathlib import Path

import nbclient
import nbformat

from jaxrnn.files import write_atomically

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def read(name: str) -> nbformat.NotebookNode:
    """A notebook as it is stored."""
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def execute(notebook: nbformat.NotebookNode, *, timeout: float = 3600) -> None:
    """Run all cells, each for some seconds at most; raises an error that shows what failed."""
    nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=timeout,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": NOTEBOOKS}},
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)  # when an editor ran it
            for output in cell.outputs:
                if output.get("name") == "stderr":
                    raise RuntimeError(f"{cell.id} wrote to stderr: {output.text}\n{cell.source}")
    notebook.metadata = nbformat.from_dict(METADATA)


def main(*names: str) -> None:
    """Run some notebooks, or all."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # without a warning that there is no GPU
    for name in names or sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")):
        notebook = read(name)
        execute(notebook)
        write_atomically(NOTEBOOKS / f"{name}.ipynb", nbformat.writes(notebook) + "\n")
        print(f"ran {name}.ipynb", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
