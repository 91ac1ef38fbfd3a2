"""What is run: ``python -m experiments.mnist_rnn``."""
