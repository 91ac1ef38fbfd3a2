"""Raw records of prepared datasets, read in bulk."""

from collections.abc import Sequence
from typing import Any

import numpy as np


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
