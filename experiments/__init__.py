"""Experiments to run: ``python -m experiments.mnist_rnn``."""
