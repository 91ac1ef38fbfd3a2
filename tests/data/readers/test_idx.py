"""The IDX reader, also against files whose headers lie."""

import contextlib
import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrnn.data.readers.files import ELEMENT_TYPES, content_sha256, read_idx

# One file, overwritten by each example: hypothesis need not warn of a folder that is shared.
reuse_tmp_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content, compresslevel=1))
    return path


def header(code: int, *shape: int) -> bytes:
    return struct.pack(f">4B{len(shape)}I", 0, 0, code, len(shape), *shape)


@reuse_tmp_path
@given(
    code=st.sampled_from(sorted(ELEMENT_TYPES)),
    shape=st.lists(st.integers(0, 4), min_size=0, max_size=4),
    seed=st.integers(0, 99),
)
def test_reads_what_was_written(tmp_path, code, shape, seed):
    dtype = np.dtype(ELEMENT_TYPES[code])
    data = np.random.default_rng(seed).integers(-100, 100, shape).astype(dtype)
    path = write(tmp_path / "a.gz", header(code, *shape) + data.tobytes())
    array = read_idx(path)
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, data)


@reuse_tmp_path
@given(data=st.data(), compressed=st.booleans())
def test_truncated_files(tmp_path, data, compressed):
    content = header(0x08, 4, 5) + bytes(range(20))
    content = gzip.compress(content) if compressed else content
    path = tmp_path / "a.gz"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ValueError, match="truncated"):
        read_idx(path)


@reuse_tmp_path
@given(position=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_flipped_byte_never_passes_for_the_file(tmp_path, position, flip):
    original = np.arange(20, dtype=np.uint8).reshape(4, 5)
    archive = bytearray(gzip.compress(header(0x08, 4, 5) + original.tobytes(), mtime=0))
    archive[position % len(archive)] ^= flip
    path = tmp_path / "a.gz"
    path.write_bytes(archive)
    try:
        array = read_idx(path)
    except ValueError:
        return
    np.testing.assert_array_equal(array, original)  # the byte was one of gzip's name or time


@reuse_tmp_path
@given(content=st.binary(max_size=64), compressed=st.booleans())
def test_fuzz_content_reads_or_raises_value_error(tmp_path, content, compressed):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(content, compresslevel=1) if compressed else content)
    with contextlib.suppress(ValueError):
        array = read_idx(path)
        assert array.nbytes == len(content) - 4 - 4 * array.ndim


@pytest.mark.parametrize("content", [b"\1\0\x08\0", b"\0\1\x08\0", b"\0\0\x0a\0", b"\0\0\0\1"])
def test_wrong_magic(tmp_path, content):
    with pytest.raises(ValueError, match=f"not an IDX file: its magic number is 0x{content.hex()}"):
        read_idx(write(tmp_path / "a.gz", content))


@reuse_tmp_path
@given(shape=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4))
def test_wrong_sizes_in_the_header(tmp_path, shape):
    path = write(tmp_path / "a.gz", header(0x08, *shape) + bytes(7))
    if np.prod([float(size) for size in shape]) != 7:
        with pytest.raises(ValueError, match=r"truncated|has data after"):
            read_idx(path)


def test_sha256_is_that_of_the_content(tmp_path):
    content = header(0x08, 3) + b"abc"
    plain = tmp_path / "a"
    plain.write_bytes(content)
    for path in (write(tmp_path / "a.gz", content), plain):
        assert content_sha256(path) == hashlib.sha256(content).hexdigest()
