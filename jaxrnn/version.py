"""The version of jaxrnn."""

__version__ = "0.4.0"
