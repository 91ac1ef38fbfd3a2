"""The version of jaxrnn."""

__version__ = "0.6.0"
"""Version of the installed package."""
