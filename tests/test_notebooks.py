"""The notebooks run from a clean kernel, and what is stored in them came from a whole run."""

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
# What is cut so that a test takes seconds: an assignment in the cell tagged "parameters".
CUTS = {
    "functional_training": {"epochs": 1, "seeds": 2},
    "mnist_rnn_keras": {"epochs": 1},
    "mnist_rnn_tf1": {"epochs": 1},
}
HEADINGS = {
    "mnist_rnn_keras": ("Import and Display The Dataset", 5),
    "mnist_rnn_tf1": ("Importing The Data Set", 100),
}


def read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_every_notebook_is_tested():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(CUTS)


@pytest.mark.parametrize("name", CUTS)
def test_runs_from_a_clean_kernel(name, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")
    notebook = read(name)
    (parameters,) = (
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    )
    for variable, value in CUTS[name].items():
        parameters.source, cuts = re.subn(
            rf"^{variable} = \d+$", f"{variable} = {value}", parameters.source, flags=re.MULTILINE
        )
        assert cuts == 1
    client = nbclient.NotebookClient(
        notebook, kernel_name="python3", timeout=300, resources={"metadata": {"path": NOTEBOOKS}}
    )
    client.execute()  # raises CellExecutionError with the traceback of a cell that fails
    assert pictures(notebook) == pictures(read(name))


def pictures(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("name", CUTS)
def test_stored_outputs_are_of_one_whole_run(name):
    cells = code_cells(read(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert pictures(read(name)) >= 1
    assert any(output.output_type == "stream" for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    text = "".join(str(output) for output in outputs)
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)


@pytest.mark.parametrize("name", HEADINGS)
def test_rebuilt_section_by_section(name):
    importing, epochs = HEADINGS[name]
    notebook = read(name)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE) == [
        "Training an RNN to classify MNIST digits",
        "Creating The Recurrent Neural Network Architecture",
        importing,
        "Training the RNN",
        "Plotting the Results",
    ]
    sources = "\n".join(cell.source for cell in code_cells(notebook))
    assert f"\nepochs = {epochs}\n" in f"\n{sources}\n"
