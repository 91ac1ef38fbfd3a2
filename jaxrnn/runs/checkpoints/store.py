"""The checkpoints of a run: which are kept, which is good, and saving in the background."""

import contextlib
import errno
import logging
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

from jaxrnn.files import first_line, read_json
from jaxrnn.runs.checkpoints import arrays
from jaxrnn.runs.checkpoints.seals import check_seal, seal, seal_of
from jaxrnn.training.fitting import Record
from jaxrnn.training.history import History, best_epoch, mean_history
from jaxrnn.training.state import TrainState

_KEPT = 3
_MAX_BYTES = 16 * 2**20  # of JSON, far more than ten thousand epochs take

log = logging.getLogger("jaxrnn")


class Checkpoints:
    """The checkpoints of one run, the last three epochs and the best one; a hook of ``fit``.

    Saving is asynchronous and atomic: the checkpoint of epoch 7 is written under another name,
    renamed to ``7`` when it is complete, and sealed by ``7.sha256``. A checkpoint without a seal is
    ignored; one that doesn't match its seal is reported, and an earlier one is used. Nothing is
    unpickled. The best epoch is chosen by the task's own metric, on the first evaluated split.

    Of several processes, all call the same methods. Each has all parameters, so the first writes,
    and all read, from a directory that all can see. The number of processes may change.

    Args:
      folder: the directory of the checkpoints, one subdirectory per epoch; created by the first
        save.
      description: JSON that is stored with every checkpoint, such as what the model was built from.

    Raises:
      ValueError: ``folder`` is a symbolic link.

    >>> import tempfile
    >>> from jaxrnn import Adam, RNNModel, create_train_state
    >>> key = jax.random.key(0)
    >>> state = create_train_state(key, RNNModel(), Adam().build(), np.zeros((1, 28, 28)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Checkpoints(folder) as checkpoints:
    ...         checkpoints.save(state, History().append(epoch=1, train_accuracy=0.9), key)
    ...     restored, history, key = Checkpoints(folder).restore(lambda description: state)
    >>> len(history)
    1
    """

    def __init__(
        self, folder: str | os.PathLike[str], description: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = Path(folder).absolute()
        if self.folder.is_symlink():  # what it leads to would be written, and deleted
            raise ValueError(f"{self.folder} is a symbolic link; give the directory itself")
        self.description = dict(description or {})
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._saving: Future[None] | None = None
        self._made = False
        self._damaged: set[int] = set()

    def __enter__(self) -> "Checkpoints":
        if jax.process_index() == 0:
            with self._writing():
                for path in self.folder.glob("*.orbax-checkpoint-tmp*"):  # of a killed process
                    shutil.rmtree(path)
                self._remove_unused_seals()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                self.wait()
        finally:
            self._thread.shutdown()

    def __call__(self, record: Record) -> None:
        """Save an epoch of :func:`jaxrnn.fit`."""
        self.save(record.state, record.history, record.key)

    @property
    def epochs(self) -> list[int]:
        """The epochs that have a checkpoint, in order, whether or not it is good."""
        if not self.folder.is_dir():
            return []
        names = [path.name for path in self.folder.iterdir() if path.is_dir()]
        return sorted(int(name) for name in names if re.fullmatch(r"[1-9][0-9]{0,8}", name))

    def save(self, state: TrainState, history: Any, key: jax.Array) -> None:
        """Start to save an epoch, the last of ``history``; what is saved is ``state`` as of now.

        Waits for the previous save. Of N networks, ``history`` is a tuple and ``key`` an array, as
        in :func:`jaxrnn.fit`.

        Raises:
          OSError: the previous checkpoint could not be written.
        """
        epoch = len(mean_history(history))
        best = best_epoch(history, state.task)
        tree = jax.device_get(
            {**serialization.to_state_dict(state), "key": jax.random.key_data(key)}
        )
        run = {
            "description": self.description,
            "history": list(history) if isinstance(history, History) else [*map(list, history)],
            "key_impl": str(jax.random.key_impl(key)),
            "best": best,
        }
        self.wait()
        if jax.process_index() == 0:
            kept = {best, *range(epoch, epoch - _KEPT, -1)}
            self._saving = self._thread.submit(self._write, epoch, tree, run, kept)

    def wait(self) -> None:
        """Return when everything is on disk; raises ``OSError`` if it could not be written."""
        with self._writing():
            if self._saving is not None:
                saving, self._saving = self._saving, None
                saving.result()

    def restore(
        self, template: Callable[[Mapping[str, Any]], TrainState], *, best: bool = False
    ) -> tuple[TrainState, Any, jax.Array] | None:
        """Restore state, history and root key of the last epoch; None if no epoch was saved.

        Args:
          template: makes, from the stored description, a state of the expected structure and
            shapes; its values don't matter. The restored state is in host memory.
          best: restore the best epoch instead of the last.

        Raises:
          ValueError: there are sealed checkpoints, and all of them are damaged.
        """
        damaged, vanished = [], False
        for epoch in self._candidates(best):
            folder = self.folder / str(epoch)
            try:
                if not seal_of(folder).exists():  # being written, or its process was killed
                    continue
                restored = self._restore(epoch, template)
            except Exception as error:  # of many kinds: Orbax, TensorStore, JSON, our own
                if not seal_of(folder).exists():  # removed by a run that continues
                    vanished = True
                    continue
                damaged.append(f"checkpoint {folder} is damaged: {first_line(error)}")
                self._damaged.add(epoch)
                continue
            for message in damaged:
                log.warning("%s; falling back to epoch %d", message, epoch)
            return restored
        if damaged:
            raise ValueError("; ".join(damaged))
        return self.restore(template, best=best) if vanished else None

    def _candidates(self, best: bool) -> list[int]:
        """The epochs to try, newest first; before them, the best one."""
        newest_first = self.epochs[::-1]
        for epoch in newest_first if best else ():
            with contextlib.suppress(Exception):  # damage is reported when it is restored
                chosen = self._read_run(epoch)["best"]
                return sorted(newest_first, key=lambda epoch: epoch != chosen)
        return newest_first

    def _restore(
        self, epoch: int, template: Callable[[Mapping[str, Any]], TrainState]
    ) -> tuple[TrainState, Any, jax.Array]:
        folder = self.folder / str(epoch)
        check_seal(folder)
        run = self._read_run(epoch)
        state = template(run["description"])
        members = np.shape(state.step)
        history = _read_history(run["history"], members, epoch)
        impl = run["key_impl"]
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0, impl=impl), members))
        expected = serialization.to_state_dict(state) | {
            "key": jax.eval_shape(jax.random.key_data, keys)
        }
        tree = arrays.read(folder, expected)
        key = jax.random.wrap_key_data(tree.pop("key"), impl=impl)
        return serialization.from_state_dict(state, tree), history, key

    def _read_run(self, epoch: int) -> dict[str, Any]:
        path = self.folder / str(epoch) / "run" / "metadata"
        run = read_json(path, max_bytes=_MAX_BYTES)
        if set(run) != {"description", "history", "key_impl", "best"}:
            raise ValueError(f"{path} does not describe a run")
        return run

    def _write(self, epoch: int, tree: Any, run: dict[str, Any], kept: set[int]) -> None:
        for later in [other for other in self.epochs if other >= epoch]:
            folder = self.folder / str(later)
            whole = seal_of(folder).exists() or not (folder / "_CHECKPOINT_METADATA").exists()
            if whole and later not in self._damaged:
                raise FileExistsError(errno.EEXIST, f"epoch {later} exists already")
            self._remove(later)
        if not self._made:  # once: if it is deleted later, so is the run
            self.folder.mkdir(parents=True, exist_ok=True)
            self._made = True
        arrays.write(self.folder / str(epoch), tree, run)
        seal(self.folder / str(epoch))
        for other in self.epochs:
            if other not in kept and seal_of(self.folder / str(other)).exists():
                self._remove(other)
        self._remove_unused_seals()

    def _remove(self, epoch: int) -> None:
        folder = self.folder / str(epoch)
        seal_of(folder).unlink(missing_ok=True)  # first, so that what is half removed has no seal
        shutil.rmtree(folder)

    def _remove_unused_seals(self) -> None:
        for path in self.folder.glob("*.sha256*"):
            name = re.fullmatch(r"(\d+)\.sha256|\.\d+\.sha256-\d+", path.name)
            if name and not (name[1] and (self.folder / name[1]).is_dir()):
                path.unlink()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many kinds
            raise OSError(
                f"a checkpoint could not be written in {self.folder}: {first_line(error)}"
            ) from error


def _read_history(rows: Any, members: tuple[int, ...], epoch: int) -> Any:
    """The history of a checkpoint, or of each of its networks; raises ``ValueError``."""
    histories = tuple(map(History.from_rows, rows if members else [rows]))
    columns = [set(row) for row in histories[0]]
    for history in histories:
        epochs = [row["epoch"] for row in history]
        if epochs != list(range(1, epoch + 1)) or [set(row) for row in history] != columns:
            raise ValueError("its history does not match its epochs")
    if len(histories) != (members or (1,))[0]:
        raise ValueError("its history does not match its networks")
    return histories if members else histories[0]
