"""Pictures: files of every kind are read, ink is found on paper, and digits become MNIST's."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from experiments.digits.ink import find_ink
from experiments.digits.pictures import fit_digit, fit_picture, normalize_digit, read_picture
from tests.experiments.digits.drawn_digits import drawn_with_ink

RAMP = np.arange(0, 240, 2, dtype=np.uint8).reshape(10, 12)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def drawn():
    """Of 100 drawn digits: the picture, how it was drawn, its ink, and the ink that is found."""
    return [
        (picture, words, ink, find_ink(read_picture(picture)))
        for _, picture, words, ink in drawn_with_ink(1, 100)
    ]


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
        expected = find_ink(read_picture(picture), words.split(", ")[2].split()[0])
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
        tolerance = 0.02 + 2 / min(picture.size)
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
    for grey in (0.9 - 0.7 * (ink + stroke + specks), 0.9 - 0.7 * (ink + stroke + specks) + noise):
        found = find_ink(grey)
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
    picture = Image.fromarray(np.uint8(255 - 255 * scene()))
    blurred = read_picture(encoded(picture, "JPEG", quality=20))
    assert ((blurred > 0) & (blurred < 1)).sum() > 1000
    np.testing.assert_allclose(box(find_ink(blurred)), box(scene()), atol=2 / 120)


def test_ink_is_chosen_against_the_border():
    grey = 0.2 + 0.6 * scene()
    np.testing.assert_allclose(find_ink(1 - grey), find_ink(grey), atol=1e-5)
    inside_out = find_ink(grey, "dark")
    assert inside_out[60, 70] == 1  # the hole of the ring
    assert not inside_out[scene() > 0].any()


def test_large_pictures_are_shrunk():
    ink = scene()
    large = np.kron(ink, np.ones((8, 8), np.float32))
    assert find_ink(large).size <= 202**2
    assert likeness(normalize_digit(large), normalize_digit(ink)) > 0.98
    assert find_ink(ink).shape == ink.shape


@pytest.mark.parametrize("value", [0, 100, 255])
@pytest.mark.parametrize("shape", [(1, 1), (28, 28), (1, 5000), (5000, 1), (0, 5), (300, 300)])
def test_nothing_on_it(shape, value):
    blank = np.full(shape, value, np.uint8)
    with pytest.raises(ValueError, match=r"^there is no ink in the picture$"):
        normalize_digit(blank)
    assert not find_ink(np.full(shape, value / 255)).any()


def test_noise_alone_is_nothing():
    noise = np.random.default_rng(0).normal(0.5, 0.05, (150, 200))
    assert not find_ink(noise).any()


def test_long_pictures():
    grey = np.ones((30, 3000), np.float32)
    grey[8:22, 1000:1003] = 0
    image = normalize_digit(grey)
    assert image.any(1).sum() == 20
    assert image.any(0).sum() <= 6
    dot = np.zeros((3, 5000))
    dot[1, 7] = 1
    assert normalize_digit(dot).max() == 255


@pytest.mark.parametrize("grey", [np.zeros((2, 3, 3)), np.full((4, 4), np.nan), np.zeros(5)])
def test_arrays_that_are_no_grey_pictures(grey):
    with pytest.raises(ValueError, match=r"^a picture must be .*\(height, width\).*got"):
        find_ink(grey)


def test_unknown_ink():
    with pytest.raises(ValueError, match="auto, bright or dark; got 'red'"):
        find_ink(scene(), "red")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "PPM"])
def test_grey_files_are_read_exactly(kind, tmp_path):
    content = encoded(Image.fromarray(RAMP), kind)
    (tmp_path / "picture").write_bytes(content)
    with (tmp_path / "picture").open("rb") as file:
        for source in (content, io.BytesIO(content), tmp_path / "picture", file, RAMP):
            grey = read_picture(source)
            assert grey.dtype == np.float32
            np.testing.assert_array_equal(np.round(255 * grey), RAMP)
            np.testing.assert_array_equal(fit_picture(source, 10, 12, 1), RAMP)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_compressed_files_are_read(kind):
    grey = read_picture(encoded(Image.fromarray(RAMP).convert("RGB"), kind, quality=95))
    np.testing.assert_allclose(grey, RAMP / 255, atol=0.05)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *(("1", "PNG"), ("P", "PNG"), ("P", "GIF"), ("RGB", "PNG"), ("RGBA", "PNG")),
        *(("LA", "PNG"), ("CMYK", "TIFF"), ("I;16", "PNG"), ("I;16B", "TIFF"), ("I", "TIFF")),
        *(("F", "TIFF"), ("RGBA", "WEBP"), ("YCbCr", "JPEG"), ("CMYK", "JPEG")),
    ],
)
def test_every_mode(mode, kind):
    white = np.zeros((8, 8), bool)
    white[:, 3:] = True
    if mode.startswith("I"):
        array = (65535 * white).astype({"I": np.int32, "I;16B": ">u2"}.get(mode, np.uint16))
        image = Image.fromarray(array)
    else:
        image = Image.fromarray(white).convert("RGB" if mode in ("P", "CMYK") else "L")
        image = image.convert(mode)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    np.testing.assert_allclose(read_picture(encoded(image, kind, **options)), white, atol=0.02)


def test_sixteen_bits_are_kept():
    grey = read_picture(encoded(Image.fromarray(np.array([[0, 1000, 1001, 40000]], np.uint16))))
    np.testing.assert_allclose(grey, np.array([[0, 1000, 1001, 40000]]) / 65535, rtol=1e-6)


def test_numbers_of_any_unit_are_stretched():
    tiff = encoded(Image.fromarray(np.array([[-5, 0, 15]], np.float32)), "TIFF")
    np.testing.assert_allclose(read_picture(tiff), [[0, 0.25, 1]])
    within = encoded(Image.fromarray(np.array([[0.2, 0.3]], np.float32)), "TIFF")
    np.testing.assert_allclose(read_picture(within), [[0.2, 0.3]])


def test_first_frame_is_read():
    frames = [Image.fromarray(np.full((4, 4), grey, np.uint8)) for grey in (51, 255)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(read_picture(gif), 0.2, atol=0.01)


def test_camera_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter to the right
    content = encoded(Image.fromarray(RAMP), "PNG", exif=exif)
    np.testing.assert_array_equal(fit_picture(content, 12, 10, 1), np.rot90(RAMP, -1))


def transparent(mode):
    image = Image.fromarray(RAMP)
    if mode == "P":
        return encoded(image.convert("P"), transparency=bytes([255] * 100 + [9]))
    image = Image.new(mode, (6, 6))
    if mode in ("L", "RGB", "I;16"):
        return encoded(image, transparency=(0, 0, 0) if mode == "RGB" else 0)
    image.putalpha(Image.fromarray(np.full((6, 6), 254, np.uint8)))
    return encoded(image)


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "I;16", "LA", "RGBA"])
def test_transparent_pictures_are_refused(mode):
    with pytest.raises(ValueError, match=r"^the picture is transparent .* on a background first$"):
        read_picture(transparent(mode))


def test_unused_transparency_is_fine():
    palette = Image.new("P", (6, 6), 1)
    assert read_picture(encoded(palette, transparency=0)).shape == (6, 6)
    assert read_picture(encoded(Image.new("RGBA", (6, 6), "white"))).min() == 1


def png_of_size(width, height):
    """The beginning of a PNG, which promises that many pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + header + b"\0\0\0\4IDAT" + b"\0" * 20


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a picture in one of the formats BMP"),
        (b"a text of no picture", "not a picture in one of the formats BMP"),
        (encoded(NOISE, "EPS"), "not a picture in one of the formats BMP"),  # a program
        (encoded(NOISE)[:2000], "the picture is damaged or incomplete"),
        (encoded(NOISE, "JPEG")[:900], "the picture is damaged or incomplete"),
        (encoded(NOISE, "WEBP")[:300], "picture"),
        (encoded(NOISE, "GIF")[:900], "the picture is damaged or incomplete"),
        *(
            (png_of_size(side, side), "the picture has over 50,000,000 pixels; shrink it first")
            for side in (7500, 10_000, 20_000, 2**31 - 1)
        ),
        (encoded(Image.fromarray(np.float32([[np.nan]])), "TIFF"), "pixels that are not finite"),
    ],
)
def test_files_that_are_no_pictures_give_one_line(content, message, recwarn):
    with pytest.raises(ValueError, match=message) as caught:
        read_picture(content)
    assert "\n" not in str(caught.value)
    assert not list(recwarn)


def test_damaged_files_give_one_line_or_a_picture():
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"):
        whole = np.frombuffer(encoded(NOISE, kind), np.uint8)
        for _ in range(30):
            damaged = whole[: rng.integers(1, len(whole) + 1)].copy()
            damaged[rng.integers(0, min(len(damaged), 200), 3)] = rng.integers(0, 256, 3)
            try:
                assert read_picture(damaged.tobytes()).ndim == 2
            except ValueError as error:
                assert "\n" not in str(error)  # noqa: PT017


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "missing.png")


def test_fit_picture_converts_and_resizes():
    colours = np.asarray(NOISE)
    np.testing.assert_array_equal(fit_picture(encoded(NOISE), 40, 40, 3), colours)
    small = fit_picture(NOISE, 20, 10, 3)
    assert (small.shape, small.dtype) == ((20, 10, 3), np.uint8)
    assert small.std() < 0.6 * colours.std()  # every pixel counts
    grey = fit_picture(RAMP, 10, 12, 3)
    np.testing.assert_array_equal(grey, np.repeat(RAMP[..., None], 3, -1))
    np.testing.assert_array_equal(fit_picture(RAMP[..., None] / 255, 10, 12, 1)[0], RAMP[0])
    np.testing.assert_array_equal(fit_picture(RAMP.astype(np.int64), 10, 12, 1), RAMP)


def test_fit_picture_of_another_kind():
    with pytest.raises(ValueError, match=r"gray.*RGB.*got 4"):
        fit_picture(RAMP, 10, 12, 4)
    with pytest.raises(ValueError, match="28 pixels wide and 20 high; got 12 × 10"):
        fit_picture(RAMP, 20, 28, 1, resize=False)
    with pytest.raises(ValueError, match=r"got \(10, 12, 2\) uint8"):
        fit_picture(np.stack([RAMP, RAMP], -1), 10, 12, 1)
    np.testing.assert_array_equal(fit_picture(RAMP, 10, 12, 1, resize=False), RAMP)
