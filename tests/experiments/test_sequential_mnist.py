"""The page of sequential MNIST."""

from experiments.sequential_mnist import PRESETS


def test_default_reads_one_pixel_per_step():
    data = PRESETS["elman"].data.build()
    assert data.train.read([0])["inputs"].shape == (1, 784, 1)
    assert (len(data.train), len(data.evals["validation"])) == (50_000, 10_000)
