"""Read IDX, the file format of the MNIST family, with numpy alone.

An IDX file is a four-byte magic number (two zero bytes, the element type, the rank), one big-endian
32-bit size per axis, and then the elements in C order. Source: Yann LeCun, Corinna Cortes,
Christopher Burges, "The MNIST database of handwritten digits", section "File formats".
"""

import gzip
import hashlib
import math
import os
import zlib
from typing import Any

import numpy as np

ELEMENT_TYPES: dict[int, np.dtype] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
MAX_BYTES = 256 * 2**20  # five times the largest file of the MNIST family
MAX_RANK = 4
_CHUNK = 2**20


def read_idx(
    path: str | os.PathLike[str],
    *,
    dtype: np.dtype | type | None = np.uint8,
    rank: int | None = None,
    max_bytes: int = MAX_BYTES,
) -> tuple[np.ndarray, str]:
    """Read one IDX file, compressed by gzip or not, without trusting its header.

    Memory is bounded by the actual size of the data and by ``max_bytes``: the data is decompressed
    in chunks, up to the size that the header declares.

    Args:
      path: the file.
      dtype: the element type the file must have; any if ``None``.
      rank: the number of axes the file must have; any rank up to 4 if ``None``.
      max_bytes: the largest array, in bytes, that is read.

    Returns:
      An array of the file's shape and of native byte order; and the hexadecimal SHA-256 of the
      content of the file, decompressed.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not IDX, has another type or rank, is truncated, longer than its
        header says or larger than ``max_bytes``.
    """
    path = os.fspath(path)
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as opened:
            compressed = opened.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else open(path, "rb") as file:
            header = _read_exactly(file, 4, path, "magic number")
            zeros, code, file_rank = header[:2], header[2], header[3]
            if zeros != b"\0\0" or code not in ELEMENT_TYPES:
                raise ValueError(f"{path} is not an IDX file: its magic number is 0x{header.hex()}")
            file_dtype = ELEMENT_TYPES[code]
            if dtype is not None and file_dtype.newbyteorder("=") != np.dtype(dtype):
                raise ValueError(
                    f"{path} holds {file_dtype.name} elements; expected {np.dtype(dtype).name}"
                )
            if file_rank > MAX_RANK or (rank is not None and file_rank != rank):
                expected = f"at most {MAX_RANK}" if rank is None else rank
                raise ValueError(f"{path} has {file_rank} axes; expected {expected}")
            sizes = _read_exactly(file, 4 * file_rank, path, "axis sizes")
            shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
            size = math.prod(shape) * file_dtype.itemsize  # Python integers: cannot overflow
            if max(size, *shape, 0) > max_bytes:  # an axis of 0 must not hide the others
                raise ValueError(
                    f"{path} declares {size} bytes, shape {shape}; at most {max_bytes} are read"
                )
            data = _read_exactly(file, size, path, f"data of shape {shape}")
            if file.read(1):
                raise ValueError(f"{path} continues after the {size} bytes of its shape {shape}")
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a valid gzip file: {error}") from error
    except EOFError as error:
        raise ValueError(f"{path} is truncated: its gzip stream does not end") from error

    for part in (header, sizes, data):
        digest.update(part)
    array = np.frombuffer(data, file_dtype).reshape(shape)  # writable, as the bytearray is
    return array.astype(file_dtype.newbyteorder("="), copy=False), digest.hexdigest()


def _read_exactly(file: Any, size: int, path: str, what: str) -> bytearray:
    """Read ``size`` bytes in chunks, so that a wrong size can't claim memory ahead of the data."""
    data = bytearray()
    while len(data) < size:
        chunk = file.read(min(_CHUNK, size - len(data)))
        if not chunk:
            raise ValueError(
                f"{path} is truncated: {what} needs {size} bytes, but there are {len(data)}"
            )
        data += chunk
    return data
