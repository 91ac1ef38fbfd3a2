"""Checkpoints: save and restore a run, so that it resumes bit for bit."""

import hashlib
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import chex
import jax
from jax.dtypes import issubdtype, prng_key

from jaxrnn.files import Json, first_line, read_json, write_atomically
from jaxrnn.training import History, Record, TrainState
from jaxrnn.training.history import best_epoch

Template = Callable[[Json], TrainState]
Restored = tuple[TrainState, History, jax.Array]
Named = dict[str, Any]  # arrays, or their shapes
_log = logging.getLogger("jaxrnn")


class Checkpoints:
    """Checkpoints of the last three epochs of a run and of the best one; a hook of ``fit``.

    The directory ``7`` holds epoch 7: arrays, written by Orbax, and ``run.json``, with the names of
    their files and a SHA-256 of all. It is written in the background under another name and renamed
    when complete. A damaged one is reported, and an earlier one restored. Nothing is unpickled.
    Several processes call the same methods: the first one writes, all read, and their number may
    change.

    Args:
      folder: directory, which a ``with`` block creates.
      description: JSON that is stored with every checkpoint, such as the model's configuration.
    """

    def __init__(self, folder: Path | str, description: Json | None = None) -> None:
        self.folder = Path(folder).absolute()
        self.description = dict(description or {})
        self._partial = self.folder / ".partial"  # what is being written or deleted
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._saving: Future[None] | None = None
        self._damaged: dict[int, str] = {}

    def __enter__(self) -> "Checkpoints":
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self._partial, ignore_errors=True)  # left by a process that was killed
        return self

    def __exit__(self, *error: object) -> None:
        with self._thread:  # shut down at the end
            if error[0] is None:
                self.wait()

    def __call__(self, record: Record) -> None:
        """Save an epoch of :func:`jaxrnn.fit`."""
        self.save(record.state, record.history, record.key)

    @property
    def epochs(self) -> list[int]:
        """Epochs that have a checkpoint, in order, damaged ones included."""
        items = (*self.folder.glob("*/arrays"), *self.folder.glob("*/run.json"))
        names = {item.parent.name for item in items}
        return sorted(int(name) for name in names if re.fullmatch(r"[1-9][0-9]{0,8}", name))

    @property
    def history(self) -> History:
        """History stored with the last epoch. If it is damaged, any kind of error is raised."""
        return History.from_rows(read_json(self.folder / f"{self.epochs[-1]}/run.json")["history"])

    def save(self, state: TrainState, history: History, key: jax.Array) -> None:
        """Start saving the last epoch of ``history``; first :meth:`wait` for the previous one."""
        leaves = {**_named(state), "key": key}
        keys = [name for name in leaves if issubdtype(leaves[name].dtype, prng_key)]
        arrays = jax.device_get(leaves | {name: jax.random.key_data(leaves[name]) for name in keys})
        run: Json = {"description": self.description, "history": [*history]}
        run["keys"] = {name: str(jax.random.key_impl(leaves[name])) for name in keys}
        run["best"] = best_epoch(history, state.task)
        self.wait()
        if jax.process_index() == 0:
            self._saving = self._thread.submit(self._write, arrays, run)

    def wait(self) -> None:
        """Wait until everything is on disk; raises ``OSError`` if it could not be written."""
        saving, self._saving = self._saving, None
        if saving is not None and (error := saving.exception()):  # of Orbax, TensorStore, Python
            raise OSError(f"could not save to {self.folder}: {first_line(error)}") from error

    def restore(self, template: Template, *, best: bool = False) -> Restored | None:
        """Restore state, history and root key of the last or best epoch; None if none was saved.

        ``template`` is a function of the stored description that returns a state of the expected
        structure and shapes, whatever its values. The restored state is in host memory.

        Raises:
          ValueError: all checkpoints are damaged; or ``template`` fails, or expects other arrays.
        """
        chosen, reports = None, []
        # Listed again each time, as a run in progress removes epochs while they are read.
        while epochs := [epoch for epoch in self.epochs if epoch not in self._damaged]:
            epoch = chosen if chosen in epochs else epochs[-1]
            folder = self.folder / str(epoch)
            try:
                run, arrays = _read(folder)
            except Exception as error:  # of Orbax, TensorStore, JSON or ours
                if folder.exists():
                    self._damaged[epoch] = f"checkpoint {folder} is damaged: {first_line(error)}"
                    reports.append(self._damaged[epoch])
                continue
            if best and chosen != (chosen := run["best"]):
                continue  # with the best one, if it exists
            try:
                restored = _rebuild(run, arrays, template)
            except Exception as error:
                raise ValueError(f"{folder} cannot be restored: {first_line(error)}") from error
            if reports:
                _log.warning("%s; falling back to epoch %d", "; ".join(reports), epoch)
            return restored
        if self._damaged:
            raise ValueError("; ".join(self._damaged.values()))
        return None

    def _write(self, arrays: Named, run: Json) -> None:
        epoch = len(run["history"])
        self.folder.mkdir(exist_ok=True)  # without parents: they are gone if the run was deleted
        shutil.rmtree(self._partial, ignore_errors=True)
        later = [other for other in self.epochs if other >= epoch]
        if good := [other for other in later if self._damaged.pop(other, None) is None]:
            raise FileExistsError(f"epoch {good[0]} exists already")
        self._remove(later)
        self._partial.mkdir()
        # Reserve the space first, as TensorStore reports a full disk with many tracebacks.
        with tempfile.TemporaryFile(dir=self._partial) as file:
            file.write(bytes(sum(array.nbytes for array in arrays.values()) + 2**18))
        with _checkpointer() as checkpointer:
            checkpointer.save(self._partial / "arrays", arrays)
        run["files"] = _files(self._partial / "arrays")  # systems may add others, such as .DS_Store
        run["sha256"] = _digest(run, self._partial / "arrays")
        write_atomically(self._partial / "run.json", json.dumps(run))
        self._partial.rename(self.folder / str(epoch))
        self._remove({*self.epochs[:-3]} - {run["best"]})

    def _remove(self, epochs: Iterable[int]) -> None:
        for epoch in epochs:
            (self.folder / str(epoch)).rename(self._partial)  # so that no part of it is read
            shutil.rmtree(self._partial)


def _checkpointer() -> Any:
    """Return an Orbax checkpointer that reads and writes without waiting for other processes."""
    import orbax.checkpoint as ocp  # slow to import

    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(index, {index}, f"process-{index}")
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _read(folder: Path) -> tuple[Json, Named]:
    """Read a stored epoch; raises an error of any kind if it is damaged."""
    run = read_json(folder / "run.json")
    # Before TensorStore reads anything, as it reports damage with many tracebacks.
    if run.pop("sha256", None) != _digest(run, folder / "arrays"):
        raise ValueError("its SHA-256 does not match the stored one")
    with _checkpointer() as checkpointer:
        return run, checkpointer.restore(folder / "arrays")


def _digest(run: Json, folder: Path) -> str:
    """Return the SHA-256 of a stored epoch: its JSON and the files of its arrays."""
    sums = {}
    for name in run.get("files") or _files(folder):  # earlier versions stored no names
        with (folder / name).open("rb") as file:
            sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(json.dumps([run, sums]).encode()).hexdigest()


def _files(folder: Path) -> list[str]:
    """Return the relative names of the files in a folder, sorted."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path.relative_to(folder).as_posix() for path in paths]


def _rebuild(run: Json, arrays: Named, template: Template) -> Restored:
    """Fill the state that the template returns with the stored arrays."""
    for name, impl in run["keys"].items():
        arrays[name] = jax.random.wrap_key_data(arrays[name], impl=impl)
    key, state = arrays.pop("key"), template(run["description"])
    expected = _named(state)
    shapes, others = (
        {(name, f"{array.dtype} {array.shape}") for name, array in named.items()}
        for named in (arrays, expected)
    )
    if names := sorted(dict(shapes ^ others)):
        raise ValueError(f"it does not contain the expected arrays: {', '.join(names)}")
    state = jax.tree.unflatten(jax.tree.structure(state), [arrays[name] for name in expected])
    return state, History.from_rows(run["history"]), key


def _named(tree: chex.ArrayTree) -> Named:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
