"""Pictures of digits as people take them, drawn by a seeded generator: fonts and pens on paper.

    python -m tests.experiments.digits.drawn_digits WORKDIR OUT.png [SEED]

draws a sheet of 100, with what the run in WORKDIR reads in each, and prints its accuracy.
"""

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from scipy.interpolate import make_interp_spline

import jaxrnn
from experiments.digits.pictures import normalize_digit
from jaxrnn.data.pictures import read_picture

# Strokes of the pen in a unit square, y downwards: ~ is a curve through its points, - a polyline.
SKELETONS = [
    "~ 0.55,0 0.2,0.25 0.15,0.7 0.5,1 0.85,0.7 0.8,0.2 0.5,0",
    "- 0.5,0 0.47,0.5 0.45,1",
    "~ 0.15,0.25 0.4,0 0.78,0.15 0.7,0.5 0.4,0.8 0.1,1 | - 0.1,1 0.9,0.97",
    "~ 0.15,0.1 0.5,0 0.78,0.2 0.65,0.4 0.38,0.47 | ~ 0.38,0.47 0.7,0.52 0.85,0.75 0.55,1 0.1,0.9",
    "- 0.3,0 0.12,0.55 0.9,0.52 | - 0.75,0.05 0.68,1",
    "- 0.85,0 0.3,0.03 0.22,0.42 | ~ 0.22,0.42 0.6,0.38 0.83,0.65 0.6,0.95 0.12,0.95",
    "~ 0.7,0 0.35,0.3 0.15,0.7 0.4,1 0.78,0.8 0.55,0.55 0.2,0.7",
    "- 0.12,0.05 0.85,0.02 0.6,0.5 0.4,1",
    "~ 0.75,0.12 0.45,0 0.25,0.2 0.5,0.45 0.8,0.75 0.5,1 0.2,0.8 0.45,0.5 0.78,0.22 0.72,0.1",
    "~ 0.78,0.15 0.5,0 0.2,0.22 0.4,0.48 0.72,0.35 0.78,0.1 | - 0.78,0.1 0.75,0.5 0.68,1",
]
DETAIL = 240  # pixels of the height of a digit when it is drawn
FONTS = [
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
]


def drawn_digits(seed: int, count: int = 100) -> Iterator[tuple[int, Image.Image, str, np.ndarray]]:
    """Draw digits, 0 to 9 in turn, ten with a pen after ten of a font.

    Yields:
      The label, the picture, how it was drawn, and its ink before it was put on paper: floats from
      0 to 1 of the same size.
    """
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        label, pen = index % 10, index // 10 % 2 == 1
        longer = np.exp(rng.uniform(np.log(60), np.log(900)))
        shorter = longer * rng.uniform(0.67, 1)
        width, height = (round(side) for side in rng.permutation([longer, shorter]))
        tall = rng.uniform(0.4, 0.85) * min(width, height)
        drawing, tool = (_draw_pen if pen else _draw_font)(rng, label, tall)
        ink = _place(rng, drawing, tall / DETAIL, width, height)
        picture, paper = _put_on_paper(rng, ink)
        yield label, picture, f"{tool}, {width}×{height}, {paper}", ink


def _draw_font(rng: np.random.Generator, label: int, tall: float) -> tuple[Image.Image, str]:
    name = FONTS[rng.integers(len(FONTS))]
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    font = ImageFont.truetype(path, round(DETAIL / 0.73))  # whose digits are that much of its size
    mask = Image.new("L", (2 * DETAIL, 2 * DETAIL))  # with room to turn
    ImageDraw.Draw(mask).text((DETAIL, DETAIL), str(label), 255, font, anchor="mm")
    return mask, name


def _draw_pen(rng: np.random.Generator, label: int, tall: float) -> tuple[Image.Image, str]:
    share = np.exp(rng.uniform(np.log(0.03), np.log(0.16)))
    pen = round(DETAIL * max(share, 1.5 / tall))  # at least 1.5 pixels of the picture
    size = np.array([DETAIL * rng.uniform(0.5, 0.85), DETAIL - pen])
    mask = Image.new("L", (2 * DETAIL, 2 * DETAIL))
    draw = ImageDraw.Draw(mask)
    wobble = dict[str, np.ndarray]()  # strokes that meet still do
    for stroke in SKELETONS[label].split("|"):
        kind, *points = stroke.split()
        for point in points:
            place = np.array([float(number) for number in point.split(",")])
            wobble.setdefault(point, place - 0.5 + rng.normal(0, 0.05, 2))
        through = np.array([wobble[point] for point in points]) * size + DETAIL
        degree = min(len(points) - 1, 3 if kind == "~" else 1)
        spline = make_interp_spline(np.arange(len(points)), through, k=degree)
        for x, y in spline(np.linspace(0, len(points) - 1, 20 * DETAIL // pen)):
            draw.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), 255)
    return mask, f"pen of {pen * tall / DETAIL:.1f} px"


def _place(
    rng: np.random.Generator, mask: Image.Image, scale: float, width: int, height: int
) -> np.ndarray:
    """Turn, slant and scale a drawing, and put it somewhere, all of it inside."""
    angle, slant = rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = turn @ [[1, slant], [0, 1]]
    middle = np.array(mask.size) / 2
    offset = middle - matrix @ middle
    rows = [*matrix[0], offset[0], *matrix[1], offset[1]]
    mask = mask.transform(mask.size, Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR)
    mask = mask.crop(mask.getbbox())
    scale = min(scale, 0.94 * width / mask.width, 0.94 * height / mask.height)
    mask = mask.resize(
        [max(1, round(scale * side)) for side in mask.size], Image.Resampling.BILINEAR
    )
    page = Image.new("L", (width, height))
    page.paste(mask, [rng.integers(1, a - b) for a, b in zip(page.size, mask.size, strict=True)])
    return np.asarray(page, np.float32) / 255


def _put_on_paper(rng: np.random.Generator, ink: np.ndarray) -> tuple[Image.Image, str]:
    """A photo of that ink in RGB, or a clean picture in gray; and its description."""
    bright = rng.random() < 0.4
    black, white = rng.uniform(0, 0.25), rng.uniform(0.7, 1)
    paper, pen = (black, white) if bright else (white, black)
    words = "bright on dark" if bright else "dark on bright"
    if rng.random() < 0.3:
        gray = paper + (pen - paper) * ink
        return Image.fromarray(np.round(255 * gray).astype(np.uint8)), f"{words}, clean"

    tints = rng.uniform(0.85, 1, (2, 3)).astype(np.float32)
    colour = tints[0] * paper + (tints[1] * pen - tints[0] * paper) * ink[..., None]
    noise = rng.uniform(0, 0.05)
    photo = colour * _light(rng, *ink.shape)[..., None] + noise * rng.standard_normal(
        colour.shape, np.float32
    )
    picture = Image.fromarray(np.round(255 * photo.clip(0, 1)).astype(np.uint8))
    words = f"{words}, noise {noise:.2f}"
    if rng.random() < 0.5:
        quality = int(rng.integers(30, 95))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file), f"{words}, JPEG {quality}"
    return picture, words


def _light(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A gradient, and a shadow with a soft edge: factors up to 1."""
    y, x = np.mgrid[:height, :width] / max(height, width)

    def along(angle: float) -> np.ndarray:
        distance = np.cos(angle) * x + np.sin(angle) * y
        return (distance - distance.min()) / max(np.ptp(distance), 1e-6)

    gradient = 1 - rng.uniform(0, 0.35) * along(rng.uniform(0, 2 * np.pi))
    edge = (along(rng.uniform(0, 2 * np.pi)) - rng.uniform(0.2, 0.8)) / rng.uniform(0.02, 0.1)
    return gradient * (1 - rng.uniform(0, 0.35) / (1 + np.exp(-edge)))


def gray(picture: Image.Image) -> np.ndarray:
    """Return what is read from a file of a picture, in grayscale."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=0)
    return read_picture(file)


def main(workdir: str, out: str, seed: str = "0") -> None:
    """Draw the sheet: each picture, and beside it what the network sees and reads."""
    labels, pictures, words, _ = zip(*drawn_digits(int(seed)), strict=True)
    seen = np.stack([normalize_digit(gray(picture)) for picture in pictures])
    read = jaxrnn.load_run(workdir).predict(seen).argmax(-1)
    right, pen = read == labels, np.array(["pen" in line for line in words])
    fonts, pens = right[~pen].mean(), right[pen].mean()
    print(f"accuracy: {right.mean():.2f}; fonts {fonts:.2f}, pens {pens:.2f}")
    for index in np.flatnonzero(~right):
        print(f"{index}: {labels[index]} read as {read[index]}: {words[index]}")
    draw_sheet(labels, pictures, seen, read).savefig(out)


def draw_sheet(
    labels: Sequence[int], pictures: Sequence[Image.Image], seen: np.ndarray, read: np.ndarray
) -> Figure:
    """Draw a figure of ten digits a row, twice: as given, and as the network sees it."""
    rows = -(-len(labels) // 10)
    figure = Figure(figsize=(16, 0.95 * rows), dpi=100)
    axes = figure.subplots(rows, 20, squeeze=False).reshape(-1)
    for axis in axes:
        axis.set_axis_off()
    for index, label in enumerate(labels):
        given, network = axes[2 * index : 2 * index + 2]
        small = pictures[index].convert("RGB")
        small.thumbnail((100, 100))
        given.imshow(small)
        network.imshow(seen[index], cmap="gray", interpolation="nearest")
        wrong = read[index] != label
        title = f"{read[index]}, not {label}" if wrong else f"{label}"
        network.set_title(title, fontsize=9, color="red" if wrong else "black", pad=2)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.97, wspace=0.1, hspace=0.3)
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:])
