"""Raw records of prepared datasets, written and read in bulk."""

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tensorflow_datasets.proto import tf_example_pb2


def serialize(images: np.ndarray, labels: np.ndarray) -> Iterator[bytes]:
    """Serialize examples as tfds does; those of one label differ in their pixels alone."""
    around: dict[int, tuple[bytes, bytes]] = {}
    for image, label in zip(images, labels.tolist(), strict=True):
        if label not in around:
            example = tf_example_pb2.Example()
            feature, white = example.features.feature, b"\xff" * image.nbytes
            feature["image"].bytes_list.value.append(white)
            feature["label"].int64_list.value.append(label)
            before, _, after = example.SerializeToString(deterministic=True).partition(white)
            around[label] = before, after
        before, after = around[label]
        yield before + image.tobytes() + after


def write_records(path: str | os.PathLike[str], images: np.ndarray, labels: np.ndarray) -> int:
    """Write examples to an ArrayRecord file; return the total size of the records in bytes."""
    from array_record.python.array_record_module import ArrayRecordWriter

    # Small records are written and read in order faster if they are compressed in groups, and in
    # random order no slower. Of large ones, a random read would decompress too much.
    group_size = min(16, max(1, 2**14 // math.prod(images.shape[1:])))
    writer, size = ArrayRecordWriter(os.fspath(path), f"group_size:{group_size}"), 0
    for record in serialize(images, labels):
        writer.write(record)
        size += len(record)
    writer.close()
    return size


class Records:
    """Random access to the raw records of ArrayRecord files, read in bulk.

    The data sources of tfds and ArrayRecord look up and read one record at a time in Python, which
    takes half as long again as reading itself.

    Args:
      instructions: tfds's file instructions, which say which records of which files these are.
    """

    def __init__(self, instructions: Sequence[Any]) -> None:
        self._paths = [str(one.filename) for one in instructions]
        self._skipped = [one.skip for one in instructions]
        self._ends = np.cumsum([0, *(one.take for one in instructions)])
        self._readers: dict[int, Any] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, places: np.ndarray) -> list[bytes]:
        """Read the records at ``places``, (N,) integers, in this order.

        Raises:
          IndexError: a position is negative, or not below the number of records.
          OSError, RuntimeError, ValueError: a file is missing or damaged.
        """
        if places.size and not 0 <= places.min() <= places.max() < len(self):
            raise IndexError(f"places must be between 0 and {len(self) - 1}")
        files = np.searchsorted(self._ends, places, side="right") - 1
        records = np.empty(len(places), object)
        for file in np.unique(files):
            here = files == file
            within = places[here] - self._ends[file] + self._skipped[file]
            records[here] = self._reader(int(file)).read(within.tolist())
        return records.tolist()

    def _reader(self, file: int) -> Any:
        if file not in self._readers:
            from array_record.python.array_record_module import ArrayRecordReader

            # Positions are far apart, so reading ahead would be wasted.
            options = "readahead_buffer_size:0"
            self._readers[file] = ArrayRecordReader(self._paths[file], options=options)
        return self._readers[file]
