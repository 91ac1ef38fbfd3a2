"""Read IDX, the file format of the MNIST family, with numpy alone.

An IDX file is a four-byte magic number (two zero bytes, the element type, the rank), one big-endian
32-bit size per axis, and then the elements in C order.

References:
  Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits", section "File
  formats".
"""

import gzip
import hashlib
import math
import os
import zlib
from typing import Any

import numpy as np

ELEMENT_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
MAX_BYTES = 2**30  # of an array; EMNIST's largest has 547 MB


def read_idx(path: str | os.PathLike[str]) -> tuple[np.ndarray, str]:
    """Read one IDX file, compressed by gzip or not, without trusting its header.

    Returns:
      An array of native byte order, and the hexadecimal SHA-256 of the decompressed content.

    Raises:
      OSError: the file can't be read.
      ValueError: the file is not IDX, truncated, longer than its header says, or too large.
    """
    with open(path, "rb") as opened:
        compressed = opened.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if compressed else open(path, "rb") as file:
            header = _read(file, 4)
            code, rank = header[2:]
            if header[:2] != b"\0\0" or code not in ELEMENT_TYPES:
                raise ValueError(f"{path} is not an IDX file: its magic number is 0x{header.hex()}")
            sizes = _read(file, 4 * rank)
            shape = tuple(np.frombuffer(sizes, ">u4").tolist())
            kind = np.dtype(ELEMENT_TYPES[code])
            size = math.prod(shape) * kind.itemsize  # Python integers: cannot overflow
            if size > MAX_BYTES:
                raise ValueError(f"{path} declares {size} bytes; at most {MAX_BYTES} are read")
            data = _read(file, size)
            if file.read(1):
                raise ValueError(f"{path} continues after the {size} bytes of its shape {shape}")
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a valid gzip file: {error}") from error
    except EOFError as error:
        raise ValueError(f"{path} is truncated") from error
    digest = hashlib.sha256(header + sizes)
    digest.update(data)
    array = np.frombuffer(data, kind).reshape(shape).astype(kind.newbyteorder("="), copy=False)
    return array, digest.hexdigest()


def _read(file: Any, size: int) -> Any:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data
