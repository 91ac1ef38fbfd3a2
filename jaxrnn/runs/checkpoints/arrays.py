"""Arrays and JSON of one checkpoint, written and read by Orbax."""

import errno
import math
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrnn.runs.checkpoints.seals import files_of

_MAX_ARRAYS = 2**30  # bytes, unless the files themselves are larger


def write(folder: Path, arrays: Any, run: dict[str, Any]) -> None:
    """Write arrays and JSON under a temporary name, and rename it when it is complete.

    Raises:
      OSError: the parent directory is missing, not writable or full.
    """
    import orbax.checkpoint as ocp

    _check_room(folder.parent, sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)))
    items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), run=ocp.args.JsonSave(run))
    with _checkpointer() as writer:
        writer.save(folder, args=items)


def read(folder: Path, expected: Any) -> Any:
    """Read arrays of the structure, shapes and types of ``expected``, as numpy arrays.

    Raises:
      ValueError: the files contain something else; no memory is allocated for it.
    """
    import orbax.checkpoint as ocp

    with _checkpointer() as reader:
        _check_shapes(reader.metadata(folder).item_metadata["state"], expected)
        _check_sizes(folder / "state", expected)
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), expected)
        wanted = ocp.args.Composite(state=ocp.args.StandardRestore(zeros))
        return reader.restore(folder, args=wanted)["state"]


def _checkpointer() -> Any:
    """Orbax's checkpointer, for a process that doesn't wait for others while reading or writing."""
    import orbax.checkpoint as ocp

    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process-{index}"
    )
    items = ocp.CompositeCheckpointHandler(
        state=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        run=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
    )
    return ocp.Checkpointer(items, multiprocessing_options=alone)


def _check_room(folder: Path, size: int) -> None:
    """Raise ``OSError`` if writing is going to fail, which TensorStore reports with tracebacks.

    Besides ``size`` bytes of arrays, a checkpoint has about thirty small files and directories.
    """
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, "the directory cannot be written")
    if shutil.disk_usage(folder).free < 2 * size + 2**18:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _check_shapes(stored: Any, expected: Any) -> None:
    found, wanted = (
        {
            jax.tree_util.keystr(path): (tuple(leaf.shape), np.dtype(leaf.dtype))
            for path, leaf in jax.tree.leaves_with_path(tree)
        }
        for tree in (stored, expected)
    )
    names = [name for name in {*found, *wanted} if found.get(name) != wanted.get(name)]
    if names:
        raise ValueError(f"it does not contain the expected arrays: {', '.join(sorted(names))}")


def _check_sizes(folder: Path, expected: Any) -> None:
    """Raise ``ValueError`` if reading would take more memory than the arrays need.

    A chunk is decompressed as a whole, whatever part of it belongs to the array, and compressed
    data or a sparse file can claim any size.
    """
    import tensorstore

    leaves = jax.tree.leaves_with_path(expected)
    needed = sum(4 * math.prod(leaf.shape) for _, leaf in leaves)
    on_disk = sum(512 * path.stat().st_blocks for path in files_of(folder))
    if needed > max(_MAX_ARRAYS, 4 * on_disk):
        raise ValueError(f"{on_disk} bytes on disk cannot contain arrays of {needed} bytes")
    base = {"driver": "ocdbt", "base": f"file://{folder}/"}
    for path, leaf in leaves:
        name = ".".join(str(part.key) for part in path)
        spec = {"driver": "zarr", "kvstore": {**base, "path": f"{name}/"}}
        store: Any = tensorstore.open(spec, open=True).result()
        chunk = store.chunk_layout.read_chunk.shape or ()  # None for a scalar
        if math.prod(chunk) > max(1, math.prod(leaf.shape)):
            raise ValueError(f"{name} is stored in chunks of shape {tuple(chunk)}")
