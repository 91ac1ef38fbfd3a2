"""History in memory and on disk."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrnn import History
from jaxrnn.training.history import best_epoch

COLUMNS = ("train_loss", "train_accuracy", "test_loss", "held_out_rmse", "seconds")
numbers = st.floats(allow_nan=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(st.sampled_from(COLUMNS), numbers), max_size=4))
def test_csv_gives_every_number_back_bit_for_bit(tmp_path, rows):
    history = History()
    for epoch, row in enumerate(rows, start=1):
        history = history.append(epoch=epoch, **row)
    history.to_csv(tmp_path / "history.csv")
    assert History.from_csv(tmp_path / "history.csv") == history


def test_csv_layout(tmp_path):
    history = History().append(epoch=1, train_loss=0.5, seconds=1.5, test_rmse=0.25)
    history.append(epoch=2, train_loss=0.125).to_csv(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text() == (
        "epoch,train_loss,test_rmse,seconds\n1,0.5,0.25,1.5\n2,0.125,,\n"
    )


def test_curves_and_best():
    history = History()
    for epoch, accuracy in enumerate((0.5, 0.9, 0.9, 0.7), start=1):
        history = history.append(epoch=epoch, test_accuracy=accuracy)
    np.testing.assert_array_equal(history["test_accuracy"], [0.5, 0.9, 0.9, 0.7])
    assert history.best("test_accuracy")["epoch"] == 2
    assert not history.measured("train_loss")
    with pytest.raises(ValueError, match="no epoch measured train_accuracy"):
        history.best("train_accuracy")


def test_append_leaves_the_old_one():
    one = History().append(epoch=1)
    assert (len(one.append(epoch=2)), len(one)) == (2, 1)


def test_best_epoch_is_chosen_by_the_first_evaluated_split():
    rows = [
        {"epoch": 1, "train_rmse": 3.0, "validation_rmse": math.nan, "test_rmse": 1.0},
        {"epoch": 2, "train_rmse": 2.0, "validation_rmse": 4.0, "test_rmse": 2.0},
        {"epoch": 3, "train_rmse": 1.0, "validation_rmse": 4.0, "test_rmse": 3.0},
    ]
    history = History.from_rows(rows)
    assert history.best("test_rmse", maximize=False)["epoch"] == 1
    assert best_epoch(history, "rmse", maximize=False) == 2  # the first of two
    assert best_epoch(history, "rmse", maximize=True) == 2
    train_only = History.from_rows({n: row[n] for n in ("epoch", "train_rmse")} for row in rows)
    assert best_epoch(train_only, "rmse", maximize=False) == 3
    assert best_epoch(train_only, "rmse", maximize=True) == 1
    assert best_epoch(train_only, "accuracy", maximize=True) == 3  # not measured: the last
    assert best_epoch((train_only, train_only), "rmse", maximize=True) == 1


def test_unknown_columns():
    history = History().append(epoch=1, train_loss=0.5)
    with pytest.raises(ValueError, match="no column 'loss', only epoch, train_loss"):
        history["loss"]
    with pytest.raises(ValueError, match=r"'../../evil' is not a column name"):
        history.append(epoch=2, **{"../../evil": 1})
    for row in ({"train_loss": 0.5}, {"epoch": 1.7}):
        with pytest.raises(ValueError, match="needs its epoch, a whole number"):
            History().append(**row)


@pytest.mark.parametrize(
    "text",
    ["", "loss,epoch\n1,2\n", "epoch,a,a\n1,2,3\n", "epoch,a b\n1,2\n"]
    + [f"epoch,train_loss\n{row}\n" for row in ("1,x", ",1", "1", "1,2,9", "1.5,")],
)
def test_damaged_csv(tmp_path, text):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(ValueError, match=r"history\.csv"):
        History.from_csv(tmp_path / "history.csv")


def test_non_finite_numbers_survive(tmp_path):
    History().append(epoch=1, train_loss=math.inf).to_csv(tmp_path / "history.csv")
    assert History.from_csv(tmp_path / "history.csv")["train_loss"][0] == math.inf


def test_a_field_that_is_too_long_is_refused(tmp_path):
    path = tmp_path / "long.csv"
    History().append(epoch=1).to_csv(path)
    path.write_text(path.read_text() + "1" * 200_000 + "\n")
    with pytest.raises(ValueError, match="field larger than field limit"):
        History.from_csv(path)
