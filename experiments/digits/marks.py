"""Marks: tell what is drawn on a page from the page's own frames, lines, sheets and shadows."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from experiments.digits.paper import PHOTOGRAPH, Relief

_CORE = 0.3  # every stroke has ink of at least this fraction of the strongest
_ABOVE_LINES = 0.6  # and is this much stronger than the lines of ruled paper
NEAR = 2  # pixels by which the soft edge of a stroke extends beyond such ink
_SPECK = 0.03  # less than this fraction of the largest stroke's ink is dirt
_LINE = 1 / 40  # of their length is the thickness of lines; strokes are thicker
_ALONG = 0.8  # of their length is along the edge of the picture only in frames
_BLOB = 0.3  # of their length is the thickness of blobs; strokes are thinner
_SHEET = 0.88  # of the smallest rectangle around them is filled by sheets and drawn frames
_DOT = 9  # pixels; in photographs, strokes are longer
_LITTLE = 5.0  # black pixels; and have more ink
_CUT = 0.1  # more of the outline without a change in the picture is none of ink
_MANY = 100  # strokes; more are noise or text
_WEAK = 0.2  # what is left beside frames and sheets is at least this strong
_FAR = 0.5  # strokes of a digit are nearer to each other than this fraction of its size
_TALL = 0.7  # digits beside each other are of about the same height
_STRAY = 0.1  # far from the digit, less than this fraction of its ink is dirt

_Box = tuple[slice, slice]


@dataclass
class Stroke:
    """A connected component of ink."""

    label: int
    box: _Box
    amount: float


@dataclass
class Strokes:
    """The strokes of a picture, and the label of each pixel."""

    strokes: list[Stroke]
    labels: np.ndarray
    lines: bool = False
    """Whether lines or a frame were left out."""

    @property
    def amount(self) -> float:
        """The sum of the ink."""
        return sum(stroke.amount for stroke in self.strokes)

    @property
    def area(self) -> int:
        """The area of the bounding box of the stroke with the most ink."""
        rows, columns = max(self.strokes, key=lambda stroke: stroke.amount).box
        return (rows.stop - rows.start) * (columns.stop - columns.start)


def find_strokes(relief: Relief) -> Strokes:
    """Find the strokes of a page; what belongs to the page itself is left out, strongest first."""
    ink = relief.certain.copy()
    first, lines = ink.max(), False
    while (strongest := ink.max()) > _WEAK * first:
        found, page = _components(ink, _CORE * strongest, relief.cut)
        if not page:
            return found
        if any(line for _, line in page):  # what crosses the lines is darker than they are
            darker, rest = _components(ink, _ABOVE_LINES * strongest, relief.cut)
            if darker.strokes and not rest:
                return darker
            lines = True
        ink[np.isin(found.labels, [label for label, _ in page])] = 0
    return Strokes([], np.zeros(ink.shape, int), lines)


def _components(
    ink: np.ndarray, threshold: float, cut: np.ndarray
) -> tuple[Strokes, list[tuple[int, bool]]]:
    """Return the strokes, and the labels of components of the page, and whether they are lines."""
    strong = np.where(ink > threshold, ink, 0)
    labels, count = ndimage.label(ndimage.binary_dilation(strong > 0, iterations=NEAR))
    amounts = ndimage.sum(strong, labels, np.arange(1, count + 1))
    large = [int(k) + 1 for k in np.flatnonzero(amounts >= _SPECK * amounts.max())]
    if len(large) > _MANY:
        return Strokes([], labels), [(label, False) for label in large]
    boxes, strokes, page = ndimage.find_objects(labels), [], []
    for label in large:
        box = boxes[label - 1]
        shape = _Shape((labels[box] == label) & (strong[box] > 0), box, ink.shape)
        dirt = min(ink.shape) >= PHOTOGRAPH and amounts[label - 1] < _LITTLE
        if dirt or shape.is_line() or shape.is_page(cut[box]):
            page.append((label, shape.is_line()))
        else:
            strokes.append(Stroke(label, box, float(amounts[label - 1])))
    return Strokes(strokes, labels), page


class _Shape:
    """The shape of a component."""

    def __init__(self, inside: np.ndarray, box: _Box, size: tuple[int, ...]) -> None:
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        self.inside = inside
        self.longest = max(np.ptp(rows), np.ptp(columns)) + 1
        padded = np.pad(inside, 1)
        self.edge = (padded & ~ndimage.binary_erosion(padded))[1:-1, 1:-1]
        self.thickness = 2 * inside.sum() / self.edge.sum()
        self.small = min(size) < PHOTOGRAPH
        ends = [
            end for side, n in zip(box, size, strict=True) for end in (side.start, side.stop - n)
        ]
        sides = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
        runs = [side.sum() for side, end in zip(sides, ends, strict=True) if end == 0]
        self.along = max(runs, default=0)  # the edge of the picture

    def is_line(self) -> bool:
        """Return whether it is a line of the paper: thinner for its length than a pen's."""
        return bool(self.thickness < _LINE * self.longest)

    def is_page(self, cut: np.ndarray) -> bool:
        """Return whether it is a part of the page, or noise."""
        if self.longest > 3 and self.along >= _ALONG * self.longest:
            return True
        if self.small:
            return False
        return bool(
            self.longest < _DOT
            or cut[self.edge].mean() > _CUT  # not all around is paper
            or (self.longest > 20 and (self.thickness > _BLOB * self.longest or self._is_sheet()))
        )

    def _is_sheet(self) -> bool:
        """Return whether the outline is a rectangle, of any angle, that is not a bar."""
        y, x = np.nonzero(self.edge)
        area = ndimage.binary_fill_holes(self.inside).sum()
        for angle in np.deg2rad(np.arange(0, 90, 3)):
            across = np.ptp(np.cos(angle) * x + np.sin(angle) * y) + 1
            along = np.ptp(np.cos(angle) * y - np.sin(angle) * x) + 1
            if area > _SHEET * across * along and max(across, along) < 2 * min(across, along):
                return True
        return False


def one_mark(found: Strokes) -> np.ndarray:
    """Return the mask of the strokes that form one mark.

    Raises:
      ValueError: there are several marks.
    """
    main, *others = sorted(found.strokes, key=lambda stroke: -stroke.amount)
    (top, bottom), (left, right) = ((side.start, side.stop) for side in main.box)
    kept = [main.label]
    for stroke in others:
        rows, columns = stroke.box
        aside = max(columns.start - right, left - columns.stop)
        gap = max(aside, rows.start - bottom, top - rows.stop)
        beside = aside > 0 and rows.stop - rows.start > _TALL * (bottom - top)
        if gap <= _FAR * max(bottom - top, right - left) and not beside:
            kept.append(stroke.label)
        elif stroke.amount > _STRAY * main.amount:
            raise ValueError("there are several marks in the picture; expected one digit")
    return np.isin(found.labels, kept)
