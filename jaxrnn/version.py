"""The version of jaxrnn."""

__version__ = "0.5.0"
