"""Tell handwriting on a page from the page's own frames, lines, sheets and shadows."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .paper import PHOTOGRAPH, Relief

_CORE = 0.3  # minimum ink of the core of a stroke, as a fraction of the strongest ink
_ABOVE_LINES = 0.6  # the same for strokes that cross the lines of ruled paper
NEAR = 2  # width of the soft edge around the core of a stroke, in pixels
_SPECK = 0.03  # components with less than this fraction of the most ink are dirt
_LINE = 1 / 40  # lines are thinner than this fraction of their length
_ALONG = 0.8  # frames touch the edge of the picture along this fraction of their length
_BLOB = 0.3  # blobs are thicker than this fraction of their length
_SHEET = 0.88  # sheets and drawn frames fill this fraction of the smallest rectangle around them
_DOT = 9  # minimum length of a stroke in photographs, in pixels
_LITTLE = 5.0  # minimum ink of a stroke in photographs, in black pixels
_CUT = 0.1  # maximum fraction of a stroke's outline on edges of the paper
_MANY = 100  # maximum number of strokes; more are noise or text
_WEAK = 0.2  # minimum ink of strokes beside frames and sheets, as a fraction of the strongest
_FAR = 0.5  # maximum gap between the strokes of a digit, as a fraction of its size
_TALL = 0.7  # a stroke beside the digit of more than this fraction of its height is another digit
_STRAY = 0.1  # strokes far from the digit with less than this fraction of its ink are dirt

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
    """Find the strokes on a page, removing what belongs to the page itself, strongest first."""
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
        """Return whether it is a line of the paper: too thin for its length to be a stroke."""
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
