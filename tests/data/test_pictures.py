"""Pictures of every kind are read and fitted, and anything else is an error of one line."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxrnn.data.pictures import fit_picture, read_picture

RAMP = np.arange(0, 240, 2, dtype=np.uint8).reshape(10, 12)
GRAY = (10, 12, 1)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "PPM"])
def test_gray_files_are_read_exactly(kind, tmp_path):
    file = encoded(Image.fromarray(RAMP), kind)
    (tmp_path / "picture").write_bytes(file.getvalue())
    for picture in (tmp_path / "picture", file, file.getvalue(), RAMP):
        gray = read_picture(picture)
        assert gray.dtype == np.float32
        np.testing.assert_array_equal(np.round(255 * gray), RAMP)
        np.testing.assert_array_equal(fit_picture(picture, GRAY), RAMP)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_compressed_files_are_read(kind):
    gray = read_picture(encoded(Image.fromarray(RAMP).convert("RGB"), kind, quality=95))
    np.testing.assert_allclose(gray, RAMP / 255, atol=0.05)


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


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [  # 16 bits are kept; numbers of another unit are stretched
        (np.uint16([[0, 1000, 1001, 40000]]), np.array([[0, 1000, 1001, 40000]]) / 65535),
        (np.float32([[-5, 0, 15]]), [[0, 0.25, 1]]),
        (np.float32([[0.2, 0.3]]), [[0.2, 0.3]]),
    ],
)
def test_more_than_eight_bits(numbers, expected):
    gray = read_picture(encoded(Image.fromarray(numbers), "TIFF"))
    np.testing.assert_allclose(gray, expected, rtol=1e-6)


def test_camera_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter to the right
    content = encoded(Image.fromarray(RAMP), "PNG", exif=exif)
    np.testing.assert_array_equal(fit_picture(content, (12, 10, 1)), np.rot90(RAMP, -1))


def transparent(mode):
    if mode == "P":
        return encoded(Image.fromarray(RAMP).convert("P"), transparency=bytes([255] * 100 + [9]))
    image = Image.new(mode, (6, 6))
    if mode in ("L", "RGB", "I;16"):
        return encoded(image, transparency=(0, 0, 0) if mode == "RGB" else 0)
    image.putalpha(Image.fromarray(np.full((6, 6), 254, np.uint8)))
    return encoded(image)


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "I;16", "LA", "RGBA"])
def test_transparent_pictures_are_refused(mode):
    with pytest.raises(ValueError, match=r"^the picture has transparent pixels; .* or train"):
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


COLORS = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
NOISE = Image.fromarray(COLORS)


def bytes_of(image, kind="PNG"):
    return encoded(image, kind).getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a picture in one of the formats BMP"),
        (b"a text of no picture", "not a picture in one of the formats BMP"),
        (bytes_of(NOISE, "EPS"), "not a picture in one of the formats BMP"),  # a program
        (bytes_of(NOISE)[:2000], "the picture is damaged or incomplete"),
        (bytes_of(NOISE, "JPEG")[:900], "the picture is damaged or incomplete"),
        (bytes_of(NOISE, "WEBP")[:300], "picture"),
        (bytes_of(NOISE, "GIF")[:900], "the picture is damaged or incomplete"),
        *(
            (png_of_size(side, side), "the picture has over 50,000,000 pixels; shrink it first")
            for side in (7500, 10_000, 20_000, 2**31 - 1)
        ),
        (bytes_of(Image.fromarray(np.float32([[np.nan]])), "TIFF"), "pixels that are not finite"),
    ],
)
def test_invalid_pictures_give_one_line(content, message, recwarn):
    with pytest.raises(ValueError, match=message) as caught:
        read_picture(io.BytesIO(content))
    assert "\n" not in str(caught.value)
    assert not list(recwarn)


def test_damaged_files_give_one_line_or_a_picture():
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"):
        whole = np.frombuffer(bytes_of(NOISE, kind), np.uint8)
        for _ in range(30):
            damaged = whole[: rng.integers(1, len(whole) + 1)].copy()
            damaged[rng.integers(0, min(len(damaged), 200), 3)] = rng.integers(0, 256, 3)
            try:
                assert read_picture(io.BytesIO(damaged.tobytes())).ndim == 2
            except ValueError as error:
                assert "\n" not in str(error)  # noqa: PT017


def test_fit_picture_converts_and_resizes():
    np.testing.assert_array_equal(fit_picture(encoded(NOISE), (40, 40, 3)), COLORS)
    small = fit_picture(COLORS, (20, 10, 3))
    assert (small.shape, small.dtype) == ((20, 10, 3), np.uint8)
    assert small.std() < 0.6 * COLORS.std()  # every pixel counts
    repeated = np.repeat(RAMP[..., None], 3, -1)
    np.testing.assert_array_equal(fit_picture(RAMP, (10, 12, 3)), repeated)
    np.testing.assert_array_equal(fit_picture(RAMP[..., None] / 255, GRAY)[0], RAMP[0])
    np.testing.assert_array_equal(fit_picture(RAMP.astype(np.int64), GRAY), RAMP)
    np.testing.assert_array_equal(fit_picture(RAMP, GRAY, resize=False), RAMP)


@pytest.mark.parametrize(
    ("picture", "shape", "message"),
    [
        (RAMP, (10, 12, 4), r"gray.*RGB.*got 4"),
        (RAMP, (20, 28, 1), "28 pixels wide and 20 high; got 12 × 10"),
        (np.stack([RAMP, RAMP], -1), GRAY, r"got \(10, 12, 2\) uint8"),
    ],
)
def test_fit_picture_of_another_kind(picture, shape, message):
    with pytest.raises(ValueError, match=message):
        fit_picture(picture, shape, resize=False)
