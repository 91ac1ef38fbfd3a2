"""Files that are written as a whole, and JSON that is read without trusting it."""

import contextlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrnn.files import read_json, write_atomically, write_json


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    path = tmp_path / "history.csv"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_no_nan(tmp_path):
    content = {"loss": float("inf"), "runs": [{"loss": float("nan"), "epoch": 3}], "seed": 0}
    write_json(tmp_path / "results.json", content)
    expected = {"loss": None, "runs": [{"loss": None, "epoch": 3}], "seed": 0}
    assert read_json(tmp_path / "results.json") == expected


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
)


@given(content=st.binary(max_size=40) | json_like.map(lambda value: json.dumps(value).encode()))
def test_fuzz_json_reader(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_bytes(content)
    with contextlib.suppress(ValueError):  # the one error that it may raise
        assert isinstance(read_json(path), dict)


def test_deep_json_is_refused(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="damaged"):
        read_json(path)
