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
import zlib
from pathlib import Path

import numpy as np

ELEMENT_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file, compressed by gzip or not.

    Raises:
      OSError: the file can't be read.
      ValueError: the file is not IDX, truncated, or longer than its header says.
    """
    content = _read(path)
    magic = content[:4]
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in ELEMENT_TYPES:
        raise ValueError(f"{path} is not an IDX file: its magic number is 0x{magic.hex()}")
    kind, start = np.dtype(ELEMENT_TYPES[magic[2]]), 4 + 4 * magic[3]
    sizes = content[4:start]
    shape = [int.from_bytes(sizes[at : at + 4]) for at in range(0, len(sizes), 4)]
    size = start + math.prod(shape) * kind.itemsize
    if len(content) != size:
        what = "is truncated" if len(content) < size else "has data after its end"
        raise ValueError(f"{path} {what}: expected {size} bytes; got {len(content)}")
    array = np.frombuffer(content, kind, offset=start).reshape(shape)
    return array.astype(kind.newbyteorder("="), copy=False)


def content_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of the content of a file, decompressed."""
    return hashlib.sha256(_read(path)).hexdigest()


def _read(path: Path) -> bytes:
    """Read a file, compressed by gzip or not."""
    content = path.read_bytes()
    try:
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a valid gzip file: {error}") from error
    except EOFError as error:
        raise ValueError(f"{path} is truncated") from error
