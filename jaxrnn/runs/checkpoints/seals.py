"""Seals: a checkpoint counts only with the SHA-256 of its files, in a list beside it.

``7.sha256`` seals the directory ``7``; ``sha256sum --check`` reads it too. The seal is checked
before Orbax and TensorStore read anything, as they report corruption in many different ways.
"""

import hashlib
from pathlib import Path

from jaxrnn.files import write_atomically

_MAX_BYTES = 16 * 2**20


def seal_of(folder: Path) -> Path:
    """The file that seals a checkpoint."""
    return folder.with_name(f"{folder.name}.sha256")


def seal(folder: Path) -> None:
    """Seal a checkpoint that is complete."""
    lines = [f"{_sha256(path)}  {path.relative_to(folder.parent)}\n" for path in files_of(folder)]
    write_atomically(seal_of(folder), "".join(lines))


def check_seal(folder: Path) -> None:
    """Raise ``ValueError`` unless the files of a checkpoint are those that were sealed."""
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path.relative_to(folder.parent)} is not a file or directory")
    path = seal_of(folder)
    if not path.is_file() or path.is_symlink():
        raise ValueError(f"{path.name} is not a file")
    with path.open(errors="replace") as file:
        lines = file.read(_MAX_BYTES).splitlines()
    sealed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = {str(path.relative_to(folder.parent)): path for path in files_of(folder)}
    for name in sorted({*sealed, *found}):
        if name not in found:
            raise ValueError(f"{name} is missing")
        if _sha256(found[name]) != sealed.get(name):
            raise ValueError(f"{name} does not have the SHA-256 that it was sealed with")


def files_of(folder: Path) -> list[Path]:
    """All files below a directory."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
