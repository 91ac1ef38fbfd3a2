"""Data: splits in memory, sources on disk, streams, augmentation and built-in datasets."""

from jaxrnn.data.augment import ImageLayout, WarpConfig
from jaxrnn.data.batches import batches
from jaxrnn.data.images import ImageSequences, Source, default_dirs, load
from jaxrnn.data.readable import Datasets
from jaxrnn.data.series import JapaneseVowels, Sunspots
from jaxrnn.data.splits import Batch, Split
from jaxrnn.data.streams import Stream, stream
from jaxrnn.data.synthetic import Adding, Copying
from jaxrnn.data.text import Text

__all__ = [
    "Adding",
    "Batch",
    "Copying",
    "Datasets",
    "ImageLayout",
    "ImageSequences",
    "JapaneseVowels",
    "Source",
    "Split",
    "Stream",
    "Sunspots",
    "Text",
    "WarpConfig",
    "batches",
    "default_dirs",
    "load",
    "stream",
]
