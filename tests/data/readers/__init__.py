"""What the tests of readers share."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image


def idx(array: np.ndarray) -> bytes:
    """The content of an IDX file of uint8 or int32."""
    code, kind = (8, ">u1") if array.dtype == np.uint8 else (12, ">i4")
    header = struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(kind).tobytes()


def store(folder: Path, kind: str, **splits: tuple[np.ndarray, np.ndarray]) -> tuple[str, dict]:
    """Store images and labels as a dataset of a kind; returns its name and where it is."""
    folder.mkdir(exist_ok=True)
    if kind == "npz":
        images = {f"x_{split}": images for split, (images, _) in splits.items()}
        labels = {f"y_{split}": labels for split, (_, labels) in splits.items()}
        np.savez(folder / "mine.npz", **images, **labels)
        return str(folder / "mine.npz"), {}
    for split, (images, labels) in splits.items():
        images, labels = images.astype(np.uint8), labels.astype(np.uint8)
        if kind == "idx":
            for name, array in (("images", images), ("labels", labels)):
                (folder / f"{split}-{name}-idx-ubyte").write_bytes(idx(array))
            continue
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / split / str(label) / f"{index:02}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return ("idx", {"archives": folder}) if kind == "idx" else (f"{folder}/", {})
