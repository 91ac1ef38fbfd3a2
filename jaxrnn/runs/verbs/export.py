"""The export verb: a stored run as a directory of files that other programs read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

from jaxrnn.data.splits import blank_example
from jaxrnn.files import Json, write_atomically, write_json
from jaxrnn.groups import Group
from jaxrnn.nn.model import RNNModel
from jaxrnn.runs.options import Workdir
from jaxrnn.runs.prepare import parameters
from jaxrnn.runs.trained import Run
from jaxrnn.training.forward import forward
from jaxrnn.version import __version__


@dataclass(frozen=True)
class Export(Group):
    """Write a trained network for other programs."""

    workdir: Workdir
    """Directory of the run."""
    out: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]] = Path()
    """New directory for model.stablehlo, model.onnx, weights.safetensors, model.json, load.py."""
    best: bool = False
    """Export the best epoch instead of the last."""

    def more_files(self, run: Run) -> Mapping[str, str | bytes]:
        """Return more files, by name; a page may override this."""
        return {}


def export_run(run: Run, options: Export) -> Iterator[str]:
    """Write the network of a run for other programs; yields a line to print for each file."""
    from jaxrnn import export  # slow to import

    out = options.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty directory; choose another")
    files, missing = {**options.more_files(run)}, ""
    state = jax.device_get(run.network)
    try:
        files["model.onnx"] = export.to_onnx(run.model, state.params, run.input_shape)
    except (ValueError, ImportError) as error:
        missing = f"no model.onnx: {error}"
    files["model.stablehlo"] = export.to_stablehlo(state, exported_shape(run))
    files["load.py"] = Path(export.__file__).with_name("load.py").read_text("utf-8")
    about = describe(run)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "model.json", about)
    export.save_weights(run.model, state.params, out / "weights.safetensors")
    for name, content in files.items():
        write_atomically(out / name, content)
    for path in sorted(out.iterdir()):
        yield f"{path}: {path.stat().st_size:,} bytes"
    if missing:
        yield missing


def exported_shape(run: Run) -> tuple[int | str, ...]:
    """Return the shape of an input, with ``"time"`` if any number of time steps can be read."""
    if run.pixels or not isinstance(run.model, RNNModel):
        return run.input_shape
    return "time", *run.input_shape[1:]


def describe(run: Run) -> Json:
    """Describe what the network reads and returns, and how it was trained, for ``model.json``."""
    from jaxrnn.export.stablehlo import PLATFORMS  # slow to import

    row, state = run.history.rows[-1], run.network
    example = blank_example(np.empty((1, *run.input_shape)))
    outputs = jax.eval_shape(lambda: forward(state, {"inputs": example})[0])
    return {
        "input": {
            "shape": ["batch", *exported_shape(run)],
            "dtype": "int32" if len(run.input_shape) == 1 else "float32",
            "scale": 1 / 255 if run.pixels else 1,
        },
        "lengths": "lengths" in state.takes,
        "output": {
            "shape": ["batch", *exported_shape(run)[:1] * (outputs.ndim - 2), outputs.shape[-1]],
            "meaning": "logits" if run.experiment.task.categorical else "numbers",
        },
        "class_names": list(run.class_names),
        "parameters": parameters(state),
        "platforms": list(PLATFORMS),
        "epoch": row["epoch"],
        "metrics": {name: row[name] for name in row if name not in ("epoch", "seconds")},
        "trained_with": run.experiment.identity,
        "jaxrnn": __version__,
        "jax": jax.__version__,
    }
