"""The version of jaxrnn."""

__version__ = "0.2.0"
