"""History in memory and on disk."""

import math
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrnn import History
from jaxrnn.runs.history import COLUMNS, write_atomically

numbers = st.floats(allow_nan=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(st.sampled_from(COLUMNS[1:]), numbers), max_size=4))
def test_csv_gives_every_number_back_bit_for_bit(tmp_path, rows):
    history = History()
    for epoch, row in enumerate(rows, start=1):
        history = history.append(epoch=epoch, **row)
    history.to_csv(tmp_path / "history.csv")
    assert History.from_csv(tmp_path / "history.csv") == history


def test_csv_layout(tmp_path):
    history = History().append(epoch=1, train_loss=0.5, train_accuracy=0.25, seconds=1.5)
    history.to_csv(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text() == (
        "epoch,train_loss,train_accuracy,validation_loss,validation_accuracy,"
        "test_loss,test_accuracy,seconds\n"
        "1,0.5,0.25,,,,,1.5\n"
    )


def test_curves_and_best():
    history = History()
    for epoch, accuracy in enumerate((0.5, 0.9, 0.9, 0.7), start=1):
        history = history.append(epoch=epoch, test_accuracy=accuracy)
    np.testing.assert_array_equal(history["test_accuracy"], [0.5, 0.9, 0.9, 0.7])
    assert history.best("test_accuracy")["epoch"] == 2
    assert np.isnan(history["train_loss"]).all()
    assert not history.measured("train_loss")
    with pytest.raises(ValueError, match="no epoch measured train_accuracy"):
        history.best("train_accuracy")


def test_append_leaves_the_old_one():
    one = History().append(epoch=1)
    assert (len(one.append(epoch=2)), len(one)) == (2, 1)


def test_unknown_columns():
    with pytest.raises(ValueError, match="no such column: accuracy"):
        History().append(epoch=1, accuracy=0.5)
    with pytest.raises(ValueError, match="no such column: loss"):
        History()["loss"]
    for row in ({"train_loss": 0.5}, {"epoch": 1.7}):
        with pytest.raises(ValueError, match="needs its epoch, a whole number"):
            History().append(**row)


HEADER = ",".join(COLUMNS)


@pytest.mark.parametrize(
    "text",
    ["", "epoch,loss\n1,2\n"] + [f"{HEADER}\n{row}\n" for row in (
        "1,x,,,,,,", ",1,,,,,,", "1", "1,,,,,,,,9", "1.5,,,,,,,")],
)  # fmt: skip
def test_damaged_csv(tmp_path, text):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(ValueError, match=r"history\.csv"):
        History.from_csv(tmp_path / "history.csv")


def test_non_finite_numbers_survive(tmp_path):
    History().append(epoch=1, train_loss=math.inf).to_csv(tmp_path / "history.csv")
    assert History.from_csv(tmp_path / "history.csv")["train_loss"][0] == math.inf


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "history.csv"
    write_atomically(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_field_that_is_too_long_is_refused(tmp_path):
    path = tmp_path / "long.csv"
    History().append(epoch=1).to_csv(path)
    path.write_text(path.read_text() + "2," + "1" * 200_000 + ",,,,,,\n")
    with pytest.raises(ValueError, match="field larger than field limit"):
        History.from_csv(path)
