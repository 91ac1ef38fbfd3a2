"""The notebooks run from a clean kernel, and what is stored in them came from a whole run."""

import re

import nbformat
import pytest

from tests.run_notebooks import NOTEBOOKS, execute, read

# What is set again after the cell tagged "parameters", so that a test takes seconds. A curve needs
# two epochs.
SETTINGS = {
    "functional_training": {"epochs": 2, "seeds": 2},
    "mnist_rnn_keras": {"epochs": 2},
    "mnist_rnn_tf1": {"epochs": 2},
}
FEW_EXAMPLES = """
import jax, jaxrnn
load = jaxrnn.load
jaxrnn.load = lambda *name, split: jax.tree.map(lambda all: all[:300], load(*name, split=split))
"""
# Run at the end. The last network of the middle learning rate, trained alone, is the same.
CHECKS = {
    "functional_training": """
alone = create(init_keys[4], rates[1])
for epoch in range(1, epochs + 1):
    key = jax.random.fold_in(data_keys[4], epoch)
    alone, _ = jaxrnn.train_epoch(alone, train, key, batch_size=100)
for one, several in zip(jax.tree.leaves(alone), jax.tree.leaves(states)):
    np.testing.assert_allclose(one, several[4], rtol=1e-3, atol=1e-5)
"""
}
HEADINGS = {
    "mnist_rnn_keras": ("Import and Display The Dataset", 5),
    "mnist_rnn_tf1": ("Importing The Data Set", 100),
}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_every_notebook_is_tested():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(SETTINGS)


@pytest.mark.program
@pytest.mark.parametrize("name", SETTINGS)
def test_runs_from_a_clean_kernel(name):
    notebook = read(name)
    cells = notebook.cells
    (tagged,) = (cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    for variable, value in SETTINGS[name].items():
        assert len(re.findall(rf"^{variable} = \d+$", tagged.source, flags=re.MULTILINE)) == 1
        setting = nbformat.v4.new_code_cell(f"{variable} = {value}")
        cells.insert(cells.index(tagged) + 1, setting)
    cells.insert(0, nbformat.v4.new_code_cell(FEW_EXAMPLES))
    cells.append(nbformat.v4.new_code_cell(CHECKS.get(name, "")))
    execute(notebook)
    assert count_displays(notebook) == count_displays(read(name))


def count_displays(notebook):
    """How many figures, progress bars, tables and curves a notebook shows."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    shown = [output.get("data", {}) for output in outputs]
    pages = "".join("".join(data.get("text/html", "")) for data in shown)
    pictures = sum("image/png" in data for data in shown)
    return pictures, *(pages.count(tag) for tag in ("<progress", "<table", "<svg"))


@pytest.mark.parametrize("name", SETTINGS)
def test_stored_outputs_are_of_one_whole_run(name):
    cells = code_cells(read(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert min(count_displays(read(name))) >= 1
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
