"""The digit is found in photographs; frames, shadows and desks are no digits."""

import io

import numpy as np
import pytest
from PIL import Image

from experiments.digits.pictures import fit_digit, normalize_digit
from jaxrnn.data.pictures import read_picture
from tests.experiments.digits.test_pictures import likeness

SIDE = 240
NONE = r"^there (is no mark|are several marks) in the picture[^\n]*$"


def placed(image, height=SIDE, width=SIDE, tall=140, top=50, left=60):
    """A digit of MNIST on a page: ink from 0 to 1."""
    large = Image.fromarray(image).resize((tall, tall), Image.Resampling.BICUBIC)
    page = np.zeros((height, width))
    page[top : top + tall, left : left + tall] = np.asarray(large) / 255
    return page


def photograph(page, quality=85):
    """What is read from a JPEG file of a page from 0 to 255, with noise."""
    noisy = page + np.random.default_rng(0).normal(0, 4, page.shape)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return read_picture(file)


def framed(image, sides=(0, 1), width=5):
    page = 235 * (1 - 0.9 * placed(image))
    for side in sides:
        np.rot90(page, side)[:width] = 40
    return page


def shadowed(image, angle=0.5, soft=1.0):
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    distance = (np.cos(angle) * x + np.sin(angle) * y - 20) / soft
    shadow = 1 / (1 + np.exp(-np.clip(distance, -50, 50)))
    return 225 * (1 - 0.5 * shadow) * (1 - 0.8 * placed(image))


def on_desk(image, tilt=5, desk=60):
    sheet = Image.fromarray(225 * (1 - 0.85 * placed(image)))
    turned = sheet.rotate(tilt, Image.Resampling.BILINEAR, expand=True, fillcolor=-1)
    page = np.pad(np.asarray(turned), 40, constant_values=-1)
    return np.where(page < 0, desk, page)


def ruled(image):
    page = np.full((SIDE, SIDE), 230.0)
    page[9::24] = 170
    return np.minimum(page, 230 * (1 - 0.85 * placed(image)))


def squared(image):
    return np.minimum(ruled(image), ruled(image * 0).T)


def drawn_frame(image):
    page = 235 * (1 - 0.9 * placed(image))
    page[12:-12, [12, 13, -14, -13]] = page[[12, 13, -14, -13], 12:-12] = 60
    return page


def on_board(image):
    return 60 + 140 * placed(image)


def small(image):
    return 230 * (1 - 0.85 * placed(image, 800, 1000, 28, 300, 700))


PAGES = {
    "frame": framed,
    "one side": lambda image: framed(image, (2,), 12),
    "all sides": lambda image: framed(image, range(4), 3),
    "hard shadow": lambda image: shadowed(image, 0.0, 0.1),
    "shadow": shadowed,
    "soft shadow": lambda image: shadowed(image, 2.5, 9.0),
    "sheet": on_desk,
    "straight sheet": lambda image: on_desk(image, 0, 110),
    "ruled": ruled,
    "squared": squared,
    "drawn frame": drawn_frame,
    "board": on_board,
    "small": small,
}


@pytest.mark.parametrize("kind", PAGES)
def test_digit_is_found_in_photographs(digits, kind):
    least = {"sheet": 0.75, "small": 0.65}.get(kind, 0.85)  # tilted, and of few pixels
    for image in digits.inputs[:5]:
        found = normalize_digit(photograph(PAGES[kind](image)))
        assert likeness(found, fit_digit(image / 255)) > least


@pytest.mark.parametrize("kind", PAGES)
def test_blank_photographs_are_refused(kind):
    blank = np.zeros((28, 28), np.uint8)
    for quality in (50, 85, 95):
        with pytest.raises(ValueError, match=NONE):
            normalize_digit(photograph(PAGES[kind](blank), quality))


def test_several_marks_are_refused(digits):
    first, second = (placed(image, 200, 140, 100, 50, 20) for image in digits.inputs[:2])
    page = 235 * (1 - 0.9 * np.concatenate([first, second], axis=1))
    with pytest.raises(ValueError, match=r"^there are several marks in the picture; expected one"):
        normalize_digit(photograph(page))


def test_a_drawn_frame_is_named():
    with pytest.raises(ValueError, match=r"no mark in the picture except a frame or lines$"):
        normalize_digit(photograph(drawn_frame(np.zeros((28, 28), np.uint8))))


@pytest.mark.parametrize("scale", [1, 7])
def test_tightly_cropped_digits_are_found(digits, scale):
    for image in digits.inputs[:20]:
        rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
        box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        size = [scale * side for side in box.shape[::-1]]
        large = np.asarray(Image.fromarray(box).resize(size, Image.Resampling.BICUBIC))
        for picture in (large, 255 - large):
            assert likeness(normalize_digit(picture), fit_digit(box / 255)) > 0.85


@pytest.mark.parametrize("side", [8, 10, 12])
def test_tiny_digits_are_found(digits, side):
    likenesses = []
    for image in digits.inputs[:20]:
        rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
        box = Image.fromarray(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        size = [max(1, round(side * length / max(box.size))) for length in box.size]
        tiny = np.zeros((side, side), np.uint8)
        left = (side - size[0]) // 2
        tiny[: size[1], left : left + size[0]] = box.resize(size, Image.Resampling.BOX)
        likenesses.append(likeness(normalize_digit(tiny), fit_digit(image / 255)))
    assert np.median(likenesses) > 0.9
    assert min(likenesses) > 0.6
