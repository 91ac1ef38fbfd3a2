"""Ink is found on paper, and digits become those of MNIST."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from experiments.digits.ink import find_ink
from experiments.digits.pictures import fit_digit, normalize_digit
from jaxrnn.data.pictures import read_picture
from tests.experiments.digits.drawn_digits import drawn_digits, gray


@pytest.fixture(scope="module")
def drawn():
    """Of 50 drawn digits: the picture, how it was drawn, its ink, and the ink that is found."""
    digits = [(gray(picture), words, ink) for _, picture, words, ink in drawn_digits(1, 50)]
    return [(picture, words, ink, find_ink(picture)) for picture, words, ink in digits]


def likeness(image, other):
    """The correlation of two images, one of them moved by up to a pixel."""
    moved = [np.roll(other, (down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return max(np.corrcoef(image.ravel(), one.ravel())[0, 1] for one in moved)


def test_digits_on_paper_look_like_their_ink(drawn):
    likenesses = [likeness(fit_digit(found), fit_digit(ink)) for *_, ink, found in drawn]
    assert min(likenesses) > 0.7
    assert np.median(likenesses) > 0.95


def test_polarity_is_found(drawn):
    for picture, words, _, found in drawn:
        expected = find_ink(picture, words.split(", ")[2].split()[0])
        np.testing.assert_array_equal(found, expected, words)


def box(ink):
    """Top, bottom, left and right, as fractions of the picture."""
    edges = []
    for axis, size in ((1, ink.shape[0]), (0, ink.shape[1])):
        inside = np.flatnonzero(ink.any(axis))
        edges += [inside[0] / size, (inside[-1] + 1) / size]
    return np.array(edges)


def test_box_fits_the_digit(drawn):
    for picture, words, ink, found in drawn:
        tolerance = 0.02 + 2 / min(picture.shape)
        np.testing.assert_allclose(box(found), box(ink > 0.5), atol=tolerance, err_msg=words)


def test_mnist_digits_stay_as_they_are(digits):
    for image in digits.inputs[:10]:
        np.testing.assert_array_equal(normalize_digit(image), fit_digit(image / np.float32(255)))
        np.testing.assert_allclose(normalize_digit(255 - image), normalize_digit(image), atol=1)
    same = [(normalize_digit(image) == image).all() for image in digits.inputs[:100]]
    assert np.mean(same) > 0.75  # dust beside others is left out


def scene(height=120, width=160):
    """The ink of a ring, 0 or 1."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - 60, x - 70)
    return (np.abs(distance - 30) < 5).astype(np.float32)


def around(ink):
    """Where ink is within four pixels."""
    return ndimage.binary_dilation(ink > 0, np.ones((9, 9)))


def test_specks_are_left_out_and_detached_strokes_are_not():
    ink = scene()
    stroke = np.zeros_like(ink)
    stroke[40:80, 130:135] = 1
    specks = np.zeros_like(ink)
    specks[3:6, 3:6] = specks[110:113, 150:153] = 1
    noise = np.random.default_rng(0).normal(0, 0.03, ink.shape).astype(np.float32)
    clean = 0.9 - 0.7 * (ink + stroke + specks)
    for picture in (clean, clean + noise):
        found = find_ink(picture)
        assert not found[specks > 0].any()
        assert found[stroke > 0].mean() > 0.7
        assert not found[~around(ink + stroke)].any()


def test_noise_and_shadows_become_exactly_zero():
    ink = scene()
    shadow = 1 / (1 + np.exp((np.arange(160) - 80) / 4)).astype(np.float32)
    light = 1 - 0.4 * shadow - 0.2 * np.linspace(0, 1, 120, dtype=np.float32)[:, None]
    noise = np.random.default_rng(0).normal(0, 0.03, ink.shape)
    found = find_ink((0.9 - 0.7 * ink) * light + noise)
    assert not found[~around(ink)].any()
    assert found[ink > 0].min() > 0.1
    assert np.quantile(found[ink > 0], 0.75) > 0.7


def test_coarse_grain_is_smoothed():
    ink = scene()
    found = find_ink(0.9 - 0.7 * ink + np.random.default_rng(0).normal(0, 0.2, ink.shape))
    assert not found[~around(ink)].any()
    np.testing.assert_allclose(box(found), box(ink), atol=0.04)
    assert (found[ink > 0] > 0.3).mean() > 0.8


def test_ringing_of_jpeg_does_not_enlarge_the_box():
    file = io.BytesIO()
    Image.fromarray(np.uint8(255 - 255 * scene())).save(file, "JPEG", quality=20)
    blurred = read_picture(file)
    assert ((blurred > 0) & (blurred < 1)).sum() > 1000
    np.testing.assert_allclose(box(find_ink(blurred)), box(scene()), atol=2 / 120)


def test_ink_is_chosen_against_the_border():
    picture = 0.2 + 0.6 * scene()
    np.testing.assert_allclose(find_ink(1 - picture), find_ink(picture), atol=1e-5)
    np.testing.assert_array_equal(find_ink(picture, "bright"), find_ink(picture))
    with pytest.raises(ValueError, match=r"^there is no mark in the picture$"):
        find_ink(picture, "dark")  # the hole of the ring


def test_large_pictures_are_shrunk():
    ink = scene()
    large = np.kron(ink, np.ones((16, 16), np.float32))
    assert find_ink(large).shape == (1500, 2000)
    assert likeness(normalize_digit(large), normalize_digit(ink)) > 0.98
    assert find_ink(ink).shape == ink.shape


@pytest.mark.parametrize("value", [0, 100, 255])
@pytest.mark.parametrize("shape", [(1, 1), (28, 28), (1, 5000), (5000, 1), (0, 5), (300, 300)])
def test_blank_picture(shape, value):
    blank = np.full(shape, value, np.uint8)
    with pytest.raises(ValueError, match=r"^there is no mark in the picture$"):
        normalize_digit(blank)


def test_noise_alone_is_not_ink():
    noise = np.random.default_rng(0).normal(0.5, 0.05, (150, 200))
    with pytest.raises(ValueError, match=r"^there is no mark in the picture$"):
        find_ink(noise)


def test_long_pictures():
    picture = np.ones((30, 3000), np.float32)
    picture[8:22, 1000:1003] = 0
    image = normalize_digit(picture)
    assert image.any(1).sum() == 20
    assert image.any(0).sum() <= 6
    dot = np.zeros((3, 5000))
    dot[1, 7] = 1
    assert normalize_digit(dot).max() == 255


@pytest.mark.parametrize("picture", [np.zeros((2, 3, 3)), np.full((4, 4), np.nan), np.zeros(5)])
def test_invalid_arrays(picture):
    with pytest.raises(ValueError, match=r"^a picture must be .*\(height, width\).*got"):
        find_ink(picture)


def test_unknown_ink():
    with pytest.raises(ValueError, match="auto, bright or dark; got 'red'"):
        find_ink(scene(), "red")
