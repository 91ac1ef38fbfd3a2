"""Compiling for accelerators, ``python -m experiments.accelerators``: see ``__main__``."""
