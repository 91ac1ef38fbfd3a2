"""Which networks read digits: by the names of their classes and the size of their images."""

from types import SimpleNamespace

import pytest

from experiments.digits.verbs import reads_digits

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.mark.parametrize(
    "names",
    [
        *("0123456789", "123456789", "01234", "37", "2468", WORDS, WORDS[1:]),
        [word.title() for word in WORDS],
        [word.upper() for word in WORDS],
        [f"{digit:02}" for digit in range(10)],
        [f"digit_{digit}" for digit in range(10)],
        [f"Digit {digit}" for digit in range(1, 10)],
        [f"{digit} - {word}" for digit, word in enumerate(WORDS)],  # as torchvision names them
        ["zero", "one"],
    ],
)
def test_classes_that_are_digits(names):
    assert reads_digits(SimpleNamespace(image_shape=(28, 28, 1), class_names=tuple(names)))


@pytest.mark.parametrize(
    "names",
    [
        *("abc", "01", "0123456789a", ["cat", "dog"], ["8", "9", "10"], ["1", "one"], ["3", "x 3"]),
        [f"grade {grade}" for grade in range(5)],
        *(["no", "yes"], ["one hundred", "one"], ["1 - two", "2"], []),
    ],
)
def test_classes_that_are_not(names):
    assert not reads_digits(SimpleNamespace(image_shape=(28, 28, 1), class_names=tuple(names)))


@pytest.mark.parametrize("shape", [None, (28, 28, 3), (32, 32, 1)])
def test_digits_of_another_size(shape):
    digits = tuple("0123456789")
    assert not reads_digits(SimpleNamespace(image_shape=shape, class_names=digits))
