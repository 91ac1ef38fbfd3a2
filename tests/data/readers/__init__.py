"""What the tests of readers share."""

import struct

import numpy as np


def idx(array: np.ndarray) -> bytes:
    """The content of an IDX file of uint8 or int32."""
    code, kind = (8, ">u1") if array.dtype == np.uint8 else (12, ">i4")
    header = struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(kind).tobytes()
