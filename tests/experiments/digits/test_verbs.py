"""Which networks read digits: by the names of their classes and the size of their images."""

from types import SimpleNamespace

import pytest

from experiments.digits.verbs import reads_digits

pytestmark = pytest.mark.xfail(reason="data as people have it is not read yet", strict=True)

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.mark.parametrize(
    "names",
    [
        *("123456789", "01234", "37", "2468", WORDS, WORDS[1:]),
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
