"""Experiments, which ``python -m experiments`` lists."""
