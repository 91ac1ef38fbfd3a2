"""The version of jaxrnn."""

__version__ = "0.3.0"
