"""Files given to predict: directories as people have them, arrays, pictures of any kind."""

import gzip
import re
from functools import partial

import numpy as np
import pytest
from PIL import Image

import jaxrnn
from experiments.mnist_rnn import MnistRNN
from jaxrnn.data.pictures import fit_picture
from jaxrnn.runs.verbs.predict import Predict
from jaxrnn.runs.verbs.reading import array_reader, image_reader, read_files
from tests.shared import mnist_rnn

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5), np.uint8)
SHAPE = (6, 5, 1)
READER = image_reader(SHAPE, partial(fit_picture, shape=SHAPE), lambda images: images)


def answers(*words):
    """What is read from files: images by name, and messages by name."""
    found = {}
    for examples in read_files([str(word) for word in words], READER):
        found |= examples
    images = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    return images, {name: str(found[name]) for name in found.keys() - images.keys()}


def test_directory_skips_what_is_no_picture_in_one_line(tmp_path, caplog):
    for name in ("a.png", "b.tif", "sub/c", "@eaDir/a.png", "__MACOSX/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(PIXELS).save(tmp_path / name, "PNG")
    np.save(tmp_path / "d.npy", np.stack([PIXELS] * 2))
    for name in ("notes.txt", "Thumbs.db", "x.tar.gz", "table.csv", "empty"):
        (tmp_path / name).write_bytes(gzip.compress(b"archive") if name == "x.tar.gz" else b"")
    images, errors = answers(tmp_path)
    assert errors == {}
    names = ["a.png", "b.tif", "d.npy[0]", "d.npy[1]", "sub/c"]
    assert sorted(images) == [f"{tmp_path}/{name}" for name in names]
    (line,) = caplog.messages
    assert "skipped" in line
    assert "notes.txt" in line


def test_directory_names_pictures_that_can_not_be_read(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    (tmp_path / "c.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    images, errors = answers(tmp_path)
    assert list(images) == [f"{tmp_path}/a.png"]
    assert sorted(errors) == [f"{tmp_path}/b.png", f"{tmp_path}/c.heic"]
    assert "HEIC" in errors[f"{tmp_path}/c.heic"]


def test_directory_without_pictures_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    _, errors = answers(tmp_path)
    assert errors == {str(tmp_path): "the directory contains no pictures"}


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "ICO", "TGA"])
def test_formats_are_not_taken_for_idx(tmp_path, kind):
    Image.fromarray(PIXELS).convert("RGB").save(tmp_path / "picture", kind)
    images, errors = answers(tmp_path / "picture")
    assert images or "not a picture in one of the formats" in errors[f"{tmp_path}/picture"]
    assert bool(images) == (kind != "TGA")


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_first_of_several_frames_is_read_and_said_once(tmp_path, caplog, kind):
    frames = [Image.fromarray(PIXELS // (1 + n)) for n in range(3)]
    for name in ("a", "b"):
        frames[0].save(tmp_path / name, kind, save_all=True, append_images=frames[1:])
    images, errors = answers(tmp_path / "a", tmp_path / "b")
    assert (len(images), errors) == (2, {})
    for image in images.values():
        np.testing.assert_allclose(image, PIXELS, atol=40 if kind == "WEBP" else 0)
    (line,) = caplog.messages
    assert "first" in line


def test_as_is_does_not_stretch():
    fit = partial(fit_picture, shape=SHAPE, resize=False)
    np.testing.assert_array_equal(fit(PIXELS.astype(np.float32)), PIXELS)
    np.testing.assert_array_equal(fit(PIXELS / 255), PIXELS)
    for picture in (PIXELS * 3.5, PIXELS / 255 - 0.5, Image.fromarray(PIXELS * np.float32(0.3))):
        with pytest.raises(ValueError, match="numbers from 0 to 1, or whole numbers from 0 to 255"):
            fit(np.asarray(picture))


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory):
    """A run on images of numbers from 0 to 15."""
    folder, part = tmp_path_factory.mktemp("sixteen"), jaxrnn.load("mnist", split="train[:60]")
    images = np.asarray(part.inputs)[:, 4:24] // 16
    arrays = {f"{kind}_{split}": array for split in ("train", "test")
              for kind, array in (("x", images), ("y", part.labels))}  # fmt: skip
    np.savez(folder / "sixteen.npz", **arrays)
    words = ["--epochs", 1, "--batch-size", 20, "--hidden", 4, "--workdir", folder / "run"]
    mnist_rnn("keras", "--name", folder / "sixteen.npz", "--train", "train", *words, "--validation",
              "None")  # fmt: skip
    return folder, images


def test_arrays_are_stretched_as_in_training(sixteen):
    folder, images = sixteen
    run = jaxrnn.load_run(folder / "run", MnistRNN)
    assert run.pixel_max == 15
    reader = Predict(workdir=folder, files=()).reader(run)
    np.testing.assert_array_equal(reader.convert(images[0]), np.round(images[0] * 17))
    np.testing.assert_array_equal(reader.convert(images[0].astype(np.float32)), images[0] * 17)
    with pytest.raises(ValueError, match="to 16; expected numbers from 0 to 15"):
        reader.convert(images[0] + images[0].max() // 15)
    Image.fromarray(images[0]).save(folder / "dark.png")
    np.testing.assert_array_equal(reader.convert(folder / "dark.png"), images[0])


@pytest.mark.parametrize("background", [None, "#ff0000"])
def test_pictures_are_prepared_as_in_training(tmp_path, background):
    """Dark, of color, turned by their EXIF orientation, and cut out."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        layers = np.stack([PIXELS // 10] * 3 + [np.where(PIXELS > 99, 255, 0)], -1)
        image = Image.fromarray(layers.astype(np.uint8))
        image = image if background else image.convert("RGB")
        image.save(tmp_path / "pets" / name / "0.png", exif=exif)
    words = ["--train", "train", "--validation", "None", "--test", "None", "--batch-size", 2]
    words += ["--epochs", 1, "--hidden", 4, "--background", background, "--workdir", tmp_path / "r"]
    mnist_rnn("keras", "--name", f"{tmp_path}/pets/", *words, "--data-dir", tmp_path / "data")
    trained = jaxrnn.load(
        f"{tmp_path}/pets/", split="train", data_dir=tmp_path / "data", background=background
    )
    reader = Predict(workdir=tmp_path, files=()).reader(jaxrnn.load_run(tmp_path / "r", MnistRNN))
    read = reader.convert(tmp_path / "pets" / "a" / "0.png")
    np.testing.assert_array_equal(read, trained.inputs[0])
    assert read.max() == 255


@pytest.mark.parametrize("text", ["1,2.5\n3,4\n", "1;2.5\n3;4", "1\t2.5\n3\t4", "\ufeff1 2.5\n3 4"])
def test_table_is_read_whatever_separates_its_fields(text, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(text, "utf-8")
    read = array_reader((9, 2)).convert(path)
    np.testing.assert_array_equal(read, np.array([[1, 2.5], [3, 4]], np.float32))


@pytest.mark.parametrize(
    "line", ["1,", "1,,2", "1\t\t2", "", " ", "1,5 2,5", "1,5;2", "a,b", "1", "1 2 3", "1_0,2"]
)
def test_line_of_a_table_that_is_no_row_of_numbers_is_an_error(line, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(f"1 2\n{line}\n3 4\n")
    expected = f"line 2: expected numbers, 2 in a line; got {line!r}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        array_reader((9, 2)).convert(path)


@pytest.mark.parametrize("text", ["1 0 2", "1,0,2\n", "1\n0\n2\n"])
def test_tokens_are_on_one_line_or_one_per_line(text, tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_text(text)
    assert array_reader((9,)).convert(path).tolist() == [1, 0, 2]
    path.write_text(f"1\n\n{text}")
    with pytest.raises(ValueError, match="line 2: expected integers"):
        array_reader((9,)).convert(path)


def test_byte_order_mark_is_no_character_of_a_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("ba", "utf-8-sig")
    assert array_reader((9,), ("a", "b")).convert(path).tolist() == [1, 0]
