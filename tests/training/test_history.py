"""History in memory and on disk."""

import math
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrnn import Classification, History, Regression
from jaxrnn.training.history import best_epoch, has_stalled

COLUMNS = ("train_loss", "train_accuracy", "test_loss", "held_out_rmse", "seconds")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from(COLUMNS), st.floats(allow_nan=False)), max_size=4))
def test_csv_gives_every_number_back_bit_for_bit(tmp_path, rows):
    history = History()
    for epoch, row in enumerate(rows, start=1):
        history = history.append(epoch=epoch, **row)
    history.to_csv(tmp_path / "history.csv")
    assert History.from_csv(tmp_path / "history.csv") == history


def test_csv_layout(tmp_path):
    history = History().append(epoch=1, train_loss=0.5, seconds=1.5, test_rmse=math.inf)
    longer = history.append(epoch=2, train_loss=0.125)
    assert (len(longer), len(history)) == (2, 1)
    longer.to_csv(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text() == (
        "epoch,train_loss,test_rmse,seconds\n1,0.5,inf,1.5\n2,0.125,,\n"
    )


def test_best_epoch_is_chosen_by_the_first_evaluated_split():
    rows = [
        {"epoch": 1, "train_rmse": 3.0, "validation_rmse": math.nan, "test_rmse": 1.0},
        {"epoch": 2, "train_rmse": 2.0, "validation_rmse": 4.0, "test_rmse": 2.0},
        {"epoch": 3, "train_rmse": 1.0, "validation_rmse": 4.0, "test_rmse": 3.0},
    ]
    history = History.from_rows(rows)
    np.testing.assert_array_equal(history["train_rmse"], [3, 2, 1])
    assert history.best("test_rmse", maximize=False)["epoch"] == 1
    assert history.best("test_rmse")["epoch"] == 3
    assert best_epoch(history, Regression()) == 2  # the first of two
    train_only = History.from_rows({n: row[n] for n in ("epoch", "train_rmse")} for row in rows)
    assert best_epoch(train_only, Regression()) == 3
    assert best_epoch(train_only, Classification()) == 3  # not measured: the last
    stalling, rising = (
        History.from_rows({"epoch": n, "test_accuracy": a} for n, a in enumerate(values, start=1))
        for values in ([0.5, 0.9, 0.9, 0.7], [0.5, 0.9, 0.9, 1.0])
    )
    assert [best_epoch(history, Classification()) for history in (stalling, rising)] == [2, 4]
    row = {"train_top5_accuracy": 1, "train_accuracy": 0, "test_top5_accuracy": 1}
    two = History.from_rows([{"epoch": n, **row, "test_accuracy": n / 2} for n in (1, 2)])
    assert best_epoch(two, Classification()) == 2
    cases = ((stalling, 2), (stalling, None), (rising, 2))
    assert [has_stalled(curves, Classification(), n) for curves, n in cases] == [True, False, False]


def test_unknown_columns():
    history = History().append(epoch=1, train_loss=0.5)
    assert not history.measured("train_accuracy")
    with pytest.raises(ValueError, match="no epoch measured train_accuracy"):
        history.best("train_accuracy")
    with pytest.raises(ValueError, match="no column 'loss', only epoch, train_loss"):
        history["loss"]
    with pytest.raises(ValueError, match=r"'../../evil' is not a column name"):
        history.append(epoch=2, **{"../../evil": 1})
    for row in ({"train_loss": 0.5}, {"epoch": 1.7}):
        with pytest.raises(ValueError, match="needs its epoch, a whole number"):
            History().append(**row)


BAD_ROWS = ("1,x", ",1", "1", "1,2,9", "1.5,", "1" * 200_000)  # the last: a field that is too long


@pytest.mark.parametrize(
    "text",
    ["", "loss,epoch\n1,2\n", "epoch,a,a\n1,2,3\n", "epoch,a b\n1,2\n"]
    + [f"epoch,train_loss\n{row}\n" for row in BAD_ROWS],
    ids=range(10),
)
def test_damaged_csv(tmp_path, text):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(ValueError, match=r"history\.csv"):
        History.from_csv(tmp_path / "history.csv")


def test_notebooks_show_a_table_with_curves():
    history = History.from_rows(
        {"epoch": epoch, "train_loss": 1 / epoch, "test_rmse": 0.12345 if epoch == 20 else math.nan}
        for epoch in range(1, 21)
    )
    table = history._repr_html_()
    rows = re.findall(r"<tr>(.*?)</tr>", table)
    names, curves, *epochs = ([*re.findall(r"<t[hd]>(.*?)</t[hd]>", row)] for row in rows)
    assert names == ["epoch", "train loss", "test rmse"]
    assert [curve.count("currentColor") for curve in curves] == [0, 1, 0]  # a point is no curve
    (points,) = re.findall(r'points="0.0,2.0 (.*) 80.0,22.0"', curves[1])  # from its highest value
    assert points.count(",") == 18
    assert " ".join(row[0] for row in epochs) == "1 2 3 … 15 16 17 18 19 20"
    assert (epochs[2][1:], epochs[-1][1:]) == (["0.3333", ""], ["0.05", "0.1235"])
    assert History()._repr_html_().count("<tr>") == 2
