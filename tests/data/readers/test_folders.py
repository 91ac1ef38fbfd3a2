"""Directories of images as people have them: what systems leave, nested, split and named anyhow."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

import jaxrnn
from jaxrnn.data.readers.folders import find_images, read_images

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5), np.uint8)


def draw(folder, *paths):
    """Save pictures, each of which differs from the others by its first pixel."""
    for index, path in enumerate(paths):
        pixels = PIXELS.copy()
        pixels[0, 0] = index
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / path)
    return folder


@pytest.fixture
def pets(tmp_path):
    """A directory of two classes with two pictures each."""
    return draw(tmp_path / "pets", "cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png")


def load(folder, split="train", **options):
    return jaxrnn.load(f"{folder}/", split=split, data_dir=folder.parent / "data", **options)


def counts(folder, split="train"):
    """The number of images of each class."""
    loaded = load(folder, split)
    numbers = np.bincount(loaded.labels, minlength=len(loaded.class_names))
    return dict(zip(loaded.class_names, numbers.tolist(), strict=True))


@pytest.mark.parametrize(
    "left",
    [".git", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "#recycle"],
)
def test_what_systems_leave_is_no_class(pets, left, caplog):
    draw(pets, f"{left}/0.png", f"cat/{left}/0.png")
    (pets / "cat" / "._0.png").write_bytes(b"resource fork")
    (pets / "cat" / "Thumbs.db").write_bytes(b"thumbnails")
    assert counts(pets) == {"cat": 2, "dog": 2}
    (line,) = [message for message in caplog.messages if "skipped" in message]
    assert left in line


def test_what_is_not_a_picture_is_named_in_one_line(pets, caplog):
    for name in ("a.txt", "b.svg", "c.heic", "d", "e.mov", "f.csv"):
        (pets / "dog" / name).write_bytes(b"no picture")
    (pets / "labels.csv").write_bytes(b"no picture")
    assert counts(pets) == {"cat": 2, "dog": 2}
    (line,) = [message for message in caplog.messages if "skipped" in message]
    assert "dog/a.txt" in line
    assert "7 " in line


@pytest.mark.parametrize(
    "suffix",
    ["tif", "tiff", "TIF", "jfif", "jpe", "jp2", "j2k", "avif", "ppm", "pgm", "dib", "apng"],
)
def test_what_pillow_reads_is_read(pets, suffix):
    color = Image.fromarray(PIXELS).convert("RGB" if suffix in ("avif", "ppm") else "L")
    color.save(pets / "cat" / f"x.{suffix}")
    assert counts(pets) == {"cat": 3, "dog": 2}


def test_files_below_the_directory_of_a_class_belong_to_it(pets):
    draw(pets, "cat/session1/0.png", "dog/2024/may/0.png", "ox/session1/0.png", "ox/session2/0.png")
    assert counts(pets) == {"cat": 3, "dog": 3, "ox": 2}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("training", "testing"), ("train", "test")),
        (("Train", "Val", "TEST"), ("train", "validation", "test")),
        (("train", "valid", "test"), ("train", "validation", "test")),
        (("train", "dev"), ("train", "validation")),
        (("training_set", "validation-set", "test_data"), ("train", "validation", "test")),
    ],
)
def test_directories_of_splits_by_any_name(tmp_path, names, expected):
    for number, name in enumerate(names, 1):
        draw(tmp_path / "pets", *(f"{name}/{c}/{n}.png" for c in ("a", "b") for n in range(number)))
    for number, split in enumerate(expected, 1):
        assert counts(tmp_path / "pets", split) == {"a": number, "b": number}


def test_splits_below_classes_are_splits(tmp_path):
    paths = [f"{name}/{split}/0.png" for name in ("a", "b") for split in ("train", "test")]
    draw(tmp_path / "pets", *paths)
    assert counts(tmp_path / "pets") == counts(tmp_path / "pets", "test") == {"a": 1, "b": 1}


def test_composed_and_decomposed_names_are_one_class(tmp_path):
    for split, form in (("train", "NFC"), ("test", "NFD")):
        name = unicodedata.normalize(form, "Käfer")
        draw(tmp_path / "pets", f"{split}/{name}/0.png", f"{split}/cat/0.png")
    expected = {"cat": 1, unicodedata.normalize("NFC", "Käfer"): 1}
    assert counts(tmp_path / "pets") == counts(tmp_path / "pets", "test") == expected


def refuse(folder, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_class_that_training_lacks(tmp_path):
    paths = ["train/cat/0.png", "train/dog/0.png", "test/cat/0.png", "test/ox/0.png"]
    refuse(draw(tmp_path / "pets", *paths), r"labels that are not among the class names: \['ox'\]")


def test_class_without_a_picture(pets):
    (pets / "ox").mkdir()
    refuse(pets, "class 'ox'.* no picture")
    (pets / "ox" / "a.heic").write_bytes(b"no picture")
    refuse(pets, "class 'ox'.* no picture")
    load(draw(pets, "ox/0.png"))
    (pets / "emu").mkdir()
    refuse(pets, "class 'emu'.* no picture")


def test_pictures_without_a_class(tmp_path):
    refuse(draw(tmp_path / "flat", "train/0.png", "test/0.png"), "no images in directories named")
    inner = draw(tmp_path / "zip", "zip/cat/0.png", "zip/dog/0.png", "__MACOSX/0.png")
    refuse(inner, f"give {inner}/zip")


def test_name_that_is_not_utf8(pets):
    (pets / "cat").rename(pets / "caf\udce9")
    refuse(pets, "is not UTF-8; rename it")


def test_all_splits_are_gray_or_all_in_color(tmp_path):
    folder = draw(tmp_path / "pets", *(f"{s}/{c}/0.png" for s in ("train", "test") for c in "ab"))
    Image.fromarray(PIXELS).convert("RGB").save(folder / "train/a/1.png")
    assert load(folder).inputs.shape == (3, 6, 15)
    assert load(folder, "test").inputs.shape == (2, 6, 15)


def cut_out(path):
    """Save black ink on transparent paper."""
    ink = PIXELS > 128
    layers = [np.zeros_like(PIXELS)] * 3 + [np.where(ink, 255, 0).astype(np.uint8)]
    Image.fromarray(np.stack(layers, -1)).save(path)
    return np.where(ink, 0, 255)


def test_cut_outs_are_put_on_a_background(pets):
    white = cut_out(pets / "cat" / "0.png")
    refuse(pets, r"0\.png .* has transparent pixels; .* train with --background")
    images = load(pets, background="white").inputs
    assert images.shape == (4, 6, 15)
    np.testing.assert_array_equal(images[0].reshape(6, 5, 3)[..., 0], white)
    images = load(pets, background="#102030").inputs[0].reshape(6, 5, 3)
    np.testing.assert_array_equal(np.unique(images), [0, 0x10, 0x20, 0x30])


def test_background_must_be_a_color():
    with pytest.raises(ValueError, match="unknown color specifier: 'whiet'"):
        jaxrnn.ImageSequences(background="whiet")


@pytest.mark.parametrize("name", ["pets/", "./pets", "pets//", "../here/pets", "pets/."])
def test_names_of_directories(tmp_path, monkeypatch, name):
    draw(tmp_path / "here" / "pets", "cat/0.png", "dog/0.png")
    monkeypatch.chdir(tmp_path / "here")
    loaded = jaxrnn.load(name, split="train", data_dir=tmp_path / "data")
    assert loaded.class_names == ("cat", "dog")
    monkeypatch.chdir("pets")
    loaded = jaxrnn.load(".", split="train", data_dir=tmp_path / "data")
    assert loaded.class_names == ("cat", "dog")


@pytest.mark.parametrize("name", ["pats/", "./pats", "/nowhere/pats", "~/pats.d"])
def test_directories_that_are_missing(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        jaxrnn.load(name, split="train", data_dir=tmp_path)


def test_directory_given_without_a_slash(pets, monkeypatch):
    monkeypatch.chdir(pets.parent)
    with pytest.raises(ValueError, match=r"no dataset 'pets'.*write pets/"):
        jaxrnn.load("pets", split="train", data_dir=pets.parent / "data")


def test_images_that_do_not_fit(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (6, 5)).astype(np.uint8)
    (tmp_path / "cat").mkdir()

    def fails(message):
        with pytest.raises(ValueError, match=message):
            read_images(find_images(tmp_path), tmp_path)

    fails("the class 'cat' has no picture in one of the formats")
    Image.fromarray(image).save(tmp_path / "cat" / "a.png")
    Image.fromarray(image.repeat(2, 0)).save(tmp_path / "cat" / "b.png")
    fails("differ in size")
    (tmp_path / "cat" / "b.png").write_bytes(b"nonsense")
    fails(r"b\.png cannot be read as an image")
    Image.fromarray(image.astype(np.uint16) * 257).save(tmp_path / "cat" / "b.png")
    fails(r"b\.png cannot be read as an image: its pixels have more than 8 bits")
    Image.fromarray(np.stack([image] * 3, -1)).save(tmp_path / "cat" / "b.png")
    ((arrays,),) = read_images(find_images(tmp_path), tmp_path).splits.values()
    assert arrays.images.shape == (2, 6, 5, 3)
