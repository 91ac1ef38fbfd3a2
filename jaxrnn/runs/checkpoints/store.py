"""Checkpoints: save and restore a run, so that it can be resumed bit for bit."""

import contextlib
import errno
import hashlib
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from jaxrnn.parallel import to_host
from jaxrnn.runs.files import read_json, write_atomically
from jaxrnn.runs.history import History, mean_history
from jaxrnn.state import TrainState

FOLDER = "checkpoints"
_KEPT = 3
_MAX_DESCRIPTION = 16 * 2**20  # bytes of JSON, far more than ten thousand epochs take
_MAX_ARRAYS = 2**30  # bytes, unless the files themselves are larger
_MAX_LAYERS = 1000

log = logging.getLogger("jaxrnn")


class Checkpoints:
    """The checkpoints of one run: the last three epochs and the best one.

    Saving is asynchronous and atomic: ``7``, the checkpoint of epoch 7, is written under another
    name, renamed when it is whole, and sealed by ``7.sha256``, a list that ``sha256sum --check``
    reads too. One that is not sealed, or not as its seal says, is passed over for the one before.
    Nothing is unpickled.

    Best is the epoch with the highest validation accuracy; where there is no validation split, test
    accuracy, and where neither is measured, training accuracy.

    Of several processes, all call the same methods. Every one of them has all parameters, so the
    first writes, and all read, from a folder that all can see. What was written by some number of
    processes can be read by any other.

    Written by Orbax's ``Checkpointer``, in a thread of this class. Its ``CheckpointManager``, and
    the v1 training API on top of that, read every old checkpoint when they start, so that a damaged
    one stops them, and where a disk is full or gone they print a traceback from a thread of theirs.

    Args:
      folder: where checkpoints are, one subfolder an epoch; made at the first save.
      description: JSON that is stored with each of them, such as what the model was made from.

    Raises:
      ValueError: ``folder`` is a symbolic link.

    >>> import tempfile, optax
    >>> model, key = RNNClassifier(hidden=4), jax.random.key(0)
    >>> state = create_train_state(key, model, optax.adam(1e-3), np.zeros((1, 28, 28)))
    >>> history = History().append(epoch=1, train_loss=0.5, train_accuracy=0.9)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Checkpoints(folder) as checkpoints:
    ...         checkpoints.save(state, history, key)
    ...     restored, history, key = Checkpoints(folder).restore(lambda description: state)
    >>> len(history)
    1
    """

    def __init__(
        self, folder: str | os.PathLike[str], description: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = Path(folder).absolute()
        if self.folder.is_symlink():  # it would be written, and cleared, wherever that leads
            raise ValueError(f"{self.folder} is a symbolic link; name the folder itself")
        self.description = dict(description or {})
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._saving: Future[None] | None = None
        self._made = False
        self._passed_over: set[int] = set()

    def __enter__(self) -> "Checkpoints":
        if jax.process_index() > 0:
            return self
        with self._writing():
            for path in self.folder.glob("*.orbax-checkpoint-tmp*"):  # of a process that was killed
                shutil.rmtree(path)
            self._remove_seals_of_nothing()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                self.wait()
        finally:
            self._thread.shutdown()

    @property
    def epochs(self) -> list[int]:
        """The epochs that have a checkpoint, first to last, whether or not they are good."""
        if not self.folder.is_dir():
            return []
        names = [path.name for path in self.folder.iterdir() if path.is_dir()]
        return sorted(int(name) for name in names if re.fullmatch(r"[1-9][0-9]{0,8}", name))

    def save(
        self, state: TrainState, history: History | tuple[History, ...], key: jax.Array
    ) -> None:
        """Start to save an epoch, the last of ``history``; what is written is ``state`` as of now.

        Waits for the save before it, if that is not done. Of N networks, ``history`` is a tuple and
        ``key`` an array, as in :func:`jaxrnn.fit`.

        Raises:
          OSError: the save before it could not be written.
        """
        curves = mean_history(history) if isinstance(history, tuple) else history
        epoch = len(curves)
        rows = [list(one) for one in history] if isinstance(history, tuple) else list(history)
        arrays = _to_tree(state, key)
        run = {
            "description": self.description,
            "history": rows,
            "key_impl": str(jax.random.key_impl(key)),
        }
        self.wait()
        if jax.process_index() > 0:
            return
        kept = {_best_epoch(history), *range(epoch, epoch - _KEPT, -1)}
        self._saving = self._thread.submit(self._write, epoch, arrays, run, kept)

    def __call__(self, record: Any) -> None:
        self.save(record.state, record.history, record.key)

    def wait(self) -> None:
        """Return when everything is on disk.

        Raises:
          OSError: the last save could not be written.
        """
        with self._writing():
            if self._saving is not None:
                saving, self._saving = self._saving, None
                saving.result()

    def restore(
        self, template: Callable[[Mapping[str, Any]], TrainState], *, best: bool = False
    ) -> tuple[TrainState, Any, jax.Array] | None:
        """The state, history and root key of the last epoch, or None where no epoch was saved.

        Args:
          template: makes, from the stored description, a state of the structure and shapes that are
            expected; its values do not matter. The restored state is in host memory.
          best: of the best epoch instead of the last.

        Raises:
          ValueError: there are sealed checkpoints, and not one of them is good.
        """
        damaged, vanished = [], False
        for epoch in self._candidates(best):
            folder = self.folder / str(epoch)
            try:
                if not _seal_of(folder).exists():  # being written, or its process was killed
                    continue
                restored = self._restore(epoch, template)
            except Exception as error:  # of many kinds: Orbax, TensorStore, JSON, our own
                if not _seal_of(folder).exists():  # a run that goes on has removed it
                    vanished = True
                    continue
                reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
                damaged.append(f"checkpoint {folder} is damaged: {reason[:300]}")
                self._passed_over.add(epoch)
                continue
            for message in damaged:
                log.warning("%s; the one of epoch %d is used", message, epoch)
            return restored
        if damaged:
            raise ValueError("; ".join(damaged))
        return self.restore(template, best=best) if vanished else None

    def _candidates(self, best: bool) -> Iterator[int]:
        newest_first = self.epochs[::-1]
        for epoch in newest_first if best else ():
            # Every checkpoint has the whole history; damage that hides it here is reported below.
            with contextlib.suppress(Exception):
                chosen = _best_epoch(_read_history(self._read_run(epoch)))
                newest_first.sort(key=lambda epoch: epoch != chosen)
                break
        yield from newest_first

    def _restore(
        self, epoch: int, template: Callable[[Mapping[str, Any]], TrainState]
    ) -> tuple[TrainState, Any, jax.Array]:
        import orbax.checkpoint as ocp

        _check_seal(self.folder / str(epoch))
        run = self._read_run(epoch)
        state = template(run["description"])
        history = _read_history(run)
        members = np.shape(state.step)
        if _shape_of(history) != (*members, epoch):
            raise ValueError("its history is not that of its epochs")
        keys = jax.eval_shape(  # as many as there are networks
            lambda: jax.random.key_data(
                jax.random.split(jax.random.key(0, impl=run["key_impl"]), np.shape(state.step))
            )
        )
        expected = {**serialization.to_state_dict(state), "key": keys}
        folder = self.folder / str(epoch)
        alone = _alone()
        items = ocp.CompositeCheckpointHandler(
            state=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
            run=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
        )
        with ocp.Checkpointer(items, multiprocessing_options=alone) as reader:
            # What the files hold must be what is expected, before any memory is given to it.
            stored = reader.metadata(folder).item_metadata["state"]
            _check_shapes(stored, expected)
            _check_sizes(folder / "state", expected)
            zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), expected)
            wanted = ocp.args.Composite(state=ocp.args.StandardRestore(zeros))
            tree = reader.restore(folder, args=wanted)["state"]
        key = jax.random.wrap_key_data(tree.pop("key"), impl=run["key_impl"])
        return serialization.from_state_dict(state, tree), history, key

    def _read_run(self, epoch: int) -> dict[str, Any]:
        path = self.folder / str(epoch) / "run" / "metadata"
        run = read_json(path, max_bytes=_MAX_DESCRIPTION)
        if set(run) != {"description", "history", "key_impl"}:
            raise ValueError(f"{path} is no description of a run")
        return run

    def _write(self, epoch: int, arrays: Any, run: dict[str, Any], kept: set[int]) -> None:
        import orbax.checkpoint as ocp

        for later in [other for other in self.epochs if other >= epoch]:
            folder = self.folder / str(later)
            whole = _seal_of(folder).exists() or not (folder / "_CHECKPOINT_METADATA").exists()
            if whole and later not in self._passed_over:
                raise FileExistsError(errno.EEXIST, f"there is one of epoch {later} already")
            self._remove(later)
        if not self._made:  # once: where it is gone later, so is the run
            self.folder.mkdir(parents=True, exist_ok=True)
            self._made = True
        _check_room(self.folder, sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)))
        folder = self.folder / str(epoch)
        alone = _alone()
        items = ocp.CompositeCheckpointHandler(
            state=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
            run=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
            composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        )
        with ocp.Checkpointer(items, multiprocessing_options=alone) as writer:
            writer.save(
                folder,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays), run=ocp.args.JsonSave(run)
                ),
            )
        lines = [f"{_sha256(path)}  {path.relative_to(self.folder)}\n" for path in _files(folder)]
        write_atomically(_seal_of(folder), "".join(lines))
        for other in self.epochs:
            if other not in kept and (_seal_of(self.folder / str(other)).exists()):
                self._remove(other)
        self._remove_seals_of_nothing()

    def _remove(self, epoch: int) -> None:
        folder = self.folder / str(epoch)
        _seal_of(folder).unlink(missing_ok=True)  # first: what is half removed is not sealed
        shutil.rmtree(folder)

    def _remove_seals_of_nothing(self) -> None:
        for path in self.folder.glob("*.sha256*"):
            seal = re.fullmatch(r"(\d+)\.sha256|\.\d+\.sha256-\d+", path.name)
            if seal and not (seal[1] and (self.folder / seal[1]).is_dir()):
                path.unlink()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore have many kinds
            reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise OSError(
                f"a checkpoint could not be written in {self.folder}: {reason[:300]}"
            ) from error


def _to_tree(state: TrainState, key: jax.Array) -> dict[str, Any]:
    """What is stored: nested dicts of numpy arrays."""
    tree = {**serialization.to_state_dict(state), "key": jax.random.key_data(key)}
    return to_host(tree)


def _alone() -> Any:
    """Orbax's options for a process that meets no other one while it reads or writes."""
    import orbax.checkpoint as ocp

    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index,
        active_processes={index},
        barrier_sync_key_prefix=f"process-{index}",
    )


def _check_shapes(stored: Any, expected: Any) -> None:
    found, wanted = (
        {
            jax.tree_util.keystr(path): (tuple(leaf.shape), np.dtype(leaf.dtype))
            for path, leaf in leaves
        }
        for leaves in map(jax.tree.leaves_with_path, (stored, expected))
    )
    if found != wanted:
        differing = sorted(
            name for name in {*found, *wanted} if found.get(name) != wanted.get(name)
        )
        raise ValueError(f"it does not hold the arrays that are expected: {', '.join(differing)}")


def _check_room(folder: Path, size: int) -> None:
    """Raise ``OSError`` where writing is going to fail, of which TensorStore tells in many voices.

    Besides ``size`` bytes of arrays, a checkpoint is some thirty small files and folders.
    """
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, "the folder cannot be written")
    if shutil.disk_usage(folder).free < 2 * size + 2**18:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _check_sizes(folder: Path, expected: Any) -> None:
    """Raise ``ValueError`` where reading would take more memory than the arrays need.

    A chunk is decompressed as a whole, whatever part of it the array has; and what is compressed
    well, or a sparse file, can claim any size.
    """
    import tensorstore

    leaves = jax.tree.leaves_with_path(expected)
    needed = sum(4 * math.prod(leaf.shape) for _, leaf in leaves)
    on_disk = sum(512 * path.stat().st_blocks for path in _files(folder))
    if needed > max(_MAX_ARRAYS, 4 * on_disk):
        raise ValueError(f"{on_disk} bytes on disk cannot hold arrays of {needed} bytes")
    base = {"driver": "ocdbt", "base": f"file://{folder}/"}
    for path, leaf in leaves:
        name = ".".join(str(part.key) for part in path)
        spec = {"driver": "zarr", "kvstore": {**base, "path": f"{name}/"}}
        store: Any = tensorstore.open(spec, open=True).result()
        chunk = store.chunk_layout.read_chunk.shape or ()  # None of a scalar
        if math.prod(chunk) > max(1, math.prod(leaf.shape)):
            raise ValueError(f"{name} is stored in chunks of shape {tuple(chunk)}")


def _check_seal(folder: Path) -> None:
    """Raise ``ValueError`` unless the files of a checkpoint are those that were sealed.

    It comes before Orbax and TensorStore read anything: they tell of damage in many voices.
    """
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path.relative_to(folder.parent)} is neither file nor folder")
    seal = _seal_of(folder)
    if not seal.is_file() or seal.is_symlink():
        raise ValueError(f"{seal.name} is no file")
    with seal.open(errors="replace") as file:
        lines = file.read(_MAX_DESCRIPTION).splitlines()
    sealed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = {str(path.relative_to(folder.parent)): path for path in _files(folder)}
    for name in sorted({*sealed, *found}):
        if name not in found:
            raise ValueError(f"{name} is missing")
        if _sha256(found[name]) != sealed.get(name):
            raise ValueError(f"{name} does not have the SHA-256 that was stored for it")


def _seal_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.sha256")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_history(run: Mapping[str, Any]) -> Any:
    rows = run["history"]
    if rows and isinstance(rows[0], list):  # of several networks
        return tuple(map(History.from_rows, rows))
    return History.from_rows(rows)


def _shape_of(history: Any) -> tuple[int, ...] | None:
    """([networks,] epochs), or None where epochs are missing or the columns are not the same."""
    histories = history if isinstance(history, tuple) else (history,)
    epochs = list(range(1, len(histories[0]) + 1))
    first = [set(row) for row in histories[0]]
    for one in histories:
        if [row["epoch"] for row in one] != epochs or [set(row) for row in one] != first:
            return None
    return (len(histories), len(epochs)) if isinstance(history, tuple) else (len(epochs),)


def _best_epoch(history: Any) -> int:
    history = mean_history(history) if isinstance(history, tuple) else history
    for split in ("validation", "test", "train"):
        if history.measured(f"{split}_accuracy"):
            return int(history.best(f"{split}_accuracy")["epoch"])
    return len(history)
