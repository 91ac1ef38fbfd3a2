"""The version of jaxrnn."""

__version__ = "0.7.0"
"""Version of the installed package."""
