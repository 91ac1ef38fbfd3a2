"""The data of the classic experiments: drawn, read from text, or brought by other packages."""

import gzip
import lzma
import math

import chex
import numpy as np
import pytest

from jaxrnn.data import Adding, Copying, JapaneseVowels, Sunspots, Text
from jaxrnn.data.series import find_in_packages, read_ts


def test_adding():
    data = Adding(length=11, examples=400, held_out=50).build()
    inputs, targets = np.asarray(data.train.inputs), np.asarray(data.train.targets)
    numbers, marks = inputs[..., 0], inputs[..., 1]
    np.testing.assert_allclose((numbers * marks).sum(1), targets[:, 0], rtol=1e-6)
    assert (marks[:, :5].sum(1) == 1).all()
    assert (marks[:, 5:].sum(1) == 1).all()
    np.testing.assert_allclose([numbers.min(), numbers.max()], [0, 1], atol=0.01)
    assert np.square(targets - 1).mean() == pytest.approx(1 / 6, abs=0.05)
    assert data.baselines["loss"] == {"always 1": 1 / 6}
    splits = [data.train, *data.evals.values()]
    assert [len(split) for split in splits] == [400, 50, 50]
    rows = {row.tobytes() for split in splits for row in np.asarray(split.inputs)}
    assert len(rows) == 500  # none is in two splits


def test_copying():
    data = Copying(delay=6, examples=300, held_out=50).build()
    inputs, labels = np.asarray(data.train.inputs), np.asarray(data.train.labels)
    assert inputs.shape == labels.shape == (300, 26)
    np.testing.assert_array_equal(labels[:, -10:], inputs[:, :10])
    assert set(np.unique(inputs[:, :10])) == set(range(1, 9))
    assert (inputs[:, 15] == 9).all()
    for blanks in (inputs[:, 10:15], inputs[:, 16:], labels[:, :-10]):
        assert not blanks.any()
    (guessing,) = data.baselines["loss"].values()
    # Blanks for certain, and each symbol with a probability of an eighth, cost this much.
    assert guessing == pytest.approx(10 * math.log(8) / 26)
    assert data.baselines["accuracy"]["guessing"] == pytest.approx((16 + 10 / 8) / 26)


@pytest.mark.parametrize("kind", [Adding, Copying])
def test_other_seeds_draw_other_sequences(kind):
    first, again, other = (kind(examples=5, data_seed=n).build().train.inputs for n in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_text(tmp_path):
    text = "".join(np.random.default_rng(0).choice(list("abc é\n"), 5000))
    (tmp_path / "text").write_text(text, "utf-8")
    data = Text(text=tmp_path / "text", rows=7, held_out=0.1).build()
    names = data.train.class_names
    assert names == tuple(sorted(set(text)))
    assert data.outputs == 6
    rows = ["".join(names[token] for token in row) for row in data.train.inputs]
    assert "".join(rows) == text[: len("".join(rows))]
    assert 4000 - 7 <= len("".join(rows)) < 4000
    following = np.asarray(data.train.labels).ravel()
    assert "".join(names[token] for token in following) == text[1 : len(following) + 1]
    held_out = ["".join(names[t] for t in data.evals[n].inputs.ravel()) for n in data.evals]
    assert (held_out[0], held_out[1]) == (text[4000:4499], text[4500:4999])
    for name, compress in (("gzip", gzip.compress), ("xz", lzma.compress)):
        added = len(compress(text.encode())) - len(compress(text[:4500].encode()))
        assert data.baselines["bits"][name] == pytest.approx(8 * added / 500, rel=0.05)
        assert 2 < data.baselines["bits"][name] < 4  # log2 6 = 2.58 at best


def test_default_text():
    text = Text().read()
    assert len(text) > 200_000
    assert text.count('The "assert" statement\n') == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"short", "a text of 5 characters is too short for --rows 64"),
        (b"just a few words " * 2, "too short for --rows 2 and --held-out 0.05"),
    ],
)
def test_bad_texts(tmp_path, content, message):
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Text(text=tmp_path / "text", rows=64 if len(content) < 9 else 2).build()


def test_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "text").write_text("words " * 100, "utf-8-sig")
    assert Text(text=tmp_path / "text").read() == "words " * 100


HEADER = "# a comment\n@classLabel true 1 2\n@data\n"


def test_ts_files(tmp_path):
    path = tmp_path / "x.ts"
    path.write_text(HEADER + "1,2,3:4,5,6.5:two\n\n7,8:9,1e1:one\n")
    (first, second), names = read_ts(path)
    assert names == ["two", "one"]
    np.testing.assert_array_equal(first, [[1, 4], [2, 5], [3, 6.5]])
    np.testing.assert_array_equal(second, [[7, 9], [8, 10]])
    for line in ("1,?:2,3:one", "1,2:3:one", "1,2"):
        path.write_text(HEADER + line)
        with pytest.raises(ValueError, match=r"x.ts, line 4: expected channels of equal length"):
            read_ts(path)


def vowels(folder):
    """Files of 12 sequences to train on and 5 to test, in the form of the real ones."""
    for part, count, longest in (("TRAIN", 12, 5), ("TEST", 5, 7)):
        channels = [",".join(["0.5"] * (longest - i % 3)) for i in range(count)]
        lines = [f"{channel}:{channel}:{i % 2}" for i, channel in enumerate(channels)]
        (folder / f"JapaneseVowels_{part}.ts").write_text(HEADER + "\n".join(lines))
    return folder


def test_japanese_vowels(tmp_path):
    data = JapaneseVowels(folder=vowels(tmp_path)).build()
    validation, test = data.evals["validation"], data.evals["test"]
    for split, size in ((data.train, 10), (validation, 2), (test, 5)):
        chex.assert_shape(split.inputs, (size, 7, 2))
    np.testing.assert_array_equal(test.lengths, [7, 6, 5, 7, 6])
    np.testing.assert_array_equal(test.labels, [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(validation.labels, [0, 0])  # every sixth
    np.testing.assert_array_equal(test.inputs[2, :, 1], [0.5] * 5 + [0] * 2)
    assert data.baselines["accuracy"]["chance"] == 1 / 2


def sunspots(path):
    years = np.arange(1700, 1960)
    numbers = 50 + 40 * np.sin(2 * np.pi * years / 11)
    rows = [f"{year},{number}" for year, number in zip(years, numbers, strict=True)]
    path.write_text("\n".join(["YEAR,SUNACTIVITY", *rows]))
    return path


def test_sunspots(tmp_path):
    path = sunspots(tmp_path / "sunspots.csv")
    data = Sunspots(file=path, window=11).build()
    splits = [data.train, *data.evals.values()]
    assert [np.shape(split.inputs) for split in splits] == [(190, 11, 1), (20, 11, 1), (35, 11, 1)]
    train = data.train
    np.testing.assert_array_equal(train.inputs[1:, -1], train.targets[:-1])
    np.testing.assert_allclose(train.targets[:, 0], train.inputs[:, 0, 0], atol=1e-5)  # a period
    assert float(np.std(train.targets)) == pytest.approx(1, abs=0.02)
    errors = data.baselines["rmse"]
    test = data.evals["test"]
    step = np.asarray(test.targets) - np.asarray(test.inputs[:, -1])
    assert errors["the year before"] == pytest.approx(np.sqrt(np.square(step).mean()), 1e-5)
    assert errors["linear regression"] < 1e-4  # a sine follows from its last two values
    for options, message in (
        ({"train_until": 1600}, "has no year up to 1600"),
        ({"window": 205}, "no year up to 1900 has 205 years before it; "),
    ):
        with pytest.raises(ValueError, match=message):
            Sunspots(file=path, **options).build()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:51], *lines[52:]], "line 52: expected the year 1750; got 1751"),
        (lambda lines: [*lines[:51], *lines[50:]], "line 52: expected the year 1750; got 1749"),
        (lambda lines: [lines[0], *lines[:0:-1]], "line 3: expected the year 1960; got 1958"),
        (lambda lines: ["1700,", *lines[2:]], "line 1: expected a year and a number; got 1700,"),
        (lambda lines: [*lines[:51], "1750,", *lines[52:]], "line 52: expected a year and a num"),
        (lambda lines: [*lines[:51], "1750,5,5", *lines[52:]], "line 52: expected a year and a n"),
        (lambda lines: [line.replace(",", ";") for line in lines], "line 2: expected a year and"),
        (lambda lines: [*lines[:51], "1750,nan", *lines[52:]], "line 52: expected a year and a "),
        (lambda lines: [line[:4] + ",5" for line in lines[1:]], "the numbers up to 1900 are all 5"),
    ],
)
def test_bad_series(tmp_path, change, message):
    path = sunspots(tmp_path / "sunspots.csv")
    path.write_text("\n".join(change(path.read_text().splitlines())))
    with pytest.raises(ValueError, match=f"sunspots.csv.*{message}"):
        Sunspots(file=path).build()


def test_series_without_a_header(tmp_path):
    path = sunspots(tmp_path / "sunspots.csv")
    expected = Sunspots(file=path).build().train
    path.write_text("\n".join([*path.read_text().splitlines()[1:], ""]), "utf-8-sig")
    np.testing.assert_array_equal(Sunspots(file=path).build().train.inputs, expected.inputs)


def test_packages_that_are_not_installed():
    with pytest.raises(ImportError, match=r"x comes with nothing_1 or nothing_2, .* pip install"):
        find_in_packages("data/x", ("nothing_1", "nothing_2"))
    assert find_in_packages("data/series.py", ("nothing_1", "jaxrnn")).is_file()
