"""The contenders of the benchmark: the same network and protocol, each as its own users write it.

Each ``build`` function returns ``epoch``, a function without arguments that trains for one epoch of
random order over the training set and returns when the work is done, and ``predict``, from images
to classes. A contender runs in a process of its own, which this module is: it reads a line, trains
an epoch or tests, and answers. So thread pools don't fight, and a peer's memory is its own.

    python -m experiments.peers CONTENDER DATA.npz '{"hidden": 150, "batch_size": 150, "seed": 0}'
"""

import dataclasses
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

Epoch = Callable[[], None]
Predict = Callable[[np.ndarray], Any]


def build_jaxrnn(
    images: np.ndarray,
    labels: np.ndarray,
    hidden: int,
    batch_size: int,
    seed: int,
    preset: str = "keras",
    epochs: int | None = None,
) -> tuple[Epoch, Predict]:
    """``train_epoch`` on all devices, as ``fit`` calls it; the ``keras`` preset is plain Adam."""
    import jax

    import jaxrnn
    from experiments import mnist_rnn
    from jaxrnn.parallel import batch_mesh, replicate, use_cpu_cores

    use_cpu_cores()
    mesh = batch_mesh(batch_size)
    config = mnist_rnn.PRESETS[preset]
    config = dataclasses.replace(
        config,
        hidden=hidden,
        batch_size=batch_size,
        seed=seed,
        epochs=epochs or config.epochs,
    )
    options = {
        "batch_size": batch_size,
        "drop_remainder": True,
        "augment": mnist_rnn.warp(config),
        "label_smoothing": config.label_smoothing,
        "mesh": mesh,
    }
    split = jaxrnn.Split(images, labels, class_names=tuple("0123456789"))
    state, split = replicate((mnist_rnn.initial_state(config, split), split), mesh)
    keys = iter(jax.random.split(mnist_rnn.data_key(config), 1000))
    jaxrnn.train_epoch.lower(state, split, next(keys), **options).compile()

    def epoch() -> None:
        nonlocal state
        state, metrics = jaxrnn.train_epoch(state, split, next(keys), **options)
        jax.block_until_ready(metrics)

    def predict(images: np.ndarray) -> Any:
        unlabelled = replicate(jaxrnn.Split(images, np.zeros(len(images), np.int32)), mesh)
        return jaxrnn.predict(jaxrnn.averaged(state), unlabelled).argmax(-1)

    return epoch, predict


build_fast = partial(build_jaxrnn, preset="fast")
build_fastest = partial(build_jaxrnn, preset="fast", epochs=2)


def build_flax(
    images: np.ndarray, labels: np.ndarray, hidden: int, batch_size: int, seed: int
) -> tuple[Epoch, Predict]:
    """``flax.linen.RNN`` and one jitted step per batch, called from Python."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn
    from flax.training.train_state import TrainState

    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, inputs: jax.Array) -> jax.Array:
            return nn.Dense(10)(jnp.asarray(nn.RNN(nn.SimpleCell(hidden))(inputs))[:, -1])

    @jax.jit
    def step(state: TrainState, inputs: jax.Array, labels: jax.Array) -> tuple[TrainState, Any]:
        def loss_fn(params: Any) -> jax.Array:
            logits = state.apply_fn({"params": params}, inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    model = Classifier()
    inputs = images.astype(np.float32) / 255
    params = model.init(jax.random.key(seed), jnp.zeros((1, *images.shape[1:])))["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(1e-3))
    generator = np.random.default_rng(seed)

    def epoch() -> None:
        nonlocal state
        for batch in shuffled_batches(generator, len(labels), batch_size):
            state, loss = step(state, inputs[batch], labels[batch])
        jax.block_until_ready((state, loss))

    def predict(images: np.ndarray) -> Any:
        inputs = images.astype(np.float32) / 255
        return jax.jit(model.apply)({"params": state.params}, inputs).argmax(-1)

    return epoch, predict


def build_pytorch(
    images: np.ndarray, labels: np.ndarray, hidden: int, batch_size: int, seed: int
) -> tuple[Epoch, Predict]:
    """``torch.nn.RNN``, eager; cuDNN where there is a GPU."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = torch.nn.RNN(images.shape[-1], hidden, batch_first=True)
            self.head = torch.nn.Linear(hidden, 10)

        def forward(self, inputs: Any) -> Any:
            return self.head(self.rnn(inputs)[1][0])

    torch.manual_seed(seed)
    model = Classifier().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    inputs = torch.from_numpy(images.astype(np.float32) / 255).to(device)
    targets = torch.from_numpy(labels.astype(np.int64)).to(device)

    def epoch() -> None:
        order = torch.randperm(len(targets), device=device)
        for batch in order[: len(order) // batch_size * batch_size].split(batch_size):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
            loss.backward()
            optimizer.step()
        loss.item()  # waits for the device

    def predict(images: np.ndarray) -> Any:
        with torch.no_grad():
            return (
                model(torch.from_numpy(images.astype(np.float32) / 255).to(device)).argmax(-1).cpu()
            )

    return epoch, predict


def build_keras(
    images: np.ndarray, labels: np.ndarray, hidden: int, batch_size: int, seed: int
) -> tuple[Epoch, Predict]:
    """Keras 3 ``SimpleRNN`` and ``fit``, on the backend that the environment names."""
    import keras

    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.layers.Input(images.shape[1:]),
            keras.layers.SimpleRNN(hidden),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, optimizer=keras.optimizers.Adam(1e-3))
    whole = len(labels) // batch_size * batch_size
    inputs, targets = images[:whole].astype(np.float32) / 255, labels[:whole]

    def epoch() -> None:
        model.fit(inputs, targets, batch_size=batch_size, epochs=1, verbose=0)

    def predict(images: np.ndarray) -> Any:
        return model.predict(images.astype(np.float32) / 255, verbose=0).argmax(-1)

    return epoch, predict


def build_tf1(
    images: np.ndarray, labels: np.ndarray, hidden: int, batch_size: int, seed: int
) -> tuple[Epoch, Predict]:
    """The graph of the TF1 notebook under ``tf.compat.v1``, fed from Python."""
    import tensorflow.compat.v1 as tf

    tf.disable_v2_behavior()
    tf.set_random_seed(seed)
    x = tf.placeholder(tf.float32, [None, *images.shape[1:]])
    y = tf.placeholder(tf.int32, [None])
    cell = tf.nn.rnn_cell.BasicRNNCell(num_units=hidden)
    _, last = tf.nn.dynamic_rnn(cell, x, dtype=tf.float32)
    logits = tf.layers.dense(last, 10)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
    train = tf.train.AdamOptimizer(learning_rate=1e-3).minimize(loss)
    session = tf.Session()
    session.run(tf.global_variables_initializer())
    inputs = images.astype(np.float32) / 255
    generator = np.random.default_rng(seed)

    def epoch() -> None:
        for batch in shuffled_batches(generator, len(labels), batch_size):
            session.run(train, feed_dict={x: inputs[batch], y: labels[batch]})

    def predict(images: np.ndarray) -> Any:
        return session.run(logits, feed_dict={x: images.astype(np.float32) / 255}).argmax(-1)

    return epoch, predict


def build_sgemm(
    images: np.ndarray, labels: np.ndarray, hidden: int, batch_size: int, seed: int
) -> tuple[Epoch, Predict]:
    """No contender: ten float32 products of 2048 × 2048, the rate that the machine has to give."""
    import jax
    import jax.numpy as jnp

    factor = jax.random.normal(jax.random.key(0), (SGEMM_SIZE, SGEMM_SIZE)) / SGEMM_SIZE**0.5
    product = jax.jit(jnp.matmul)

    def epoch() -> None:
        result = factor
        for _ in range(SGEMM_PRODUCTS):
            result = product(result, factor)
        jax.block_until_ready(result)

    return epoch, lambda images: np.zeros(len(images))


SGEMM_SIZE, SGEMM_PRODUCTS = 2048, 10


def shuffled_batches(
    generator: np.random.Generator, size: int, batch_size: int
) -> list[np.ndarray]:
    """Indices of the whole batches of one epoch."""
    order = generator.permutation(size)
    return np.split(order[: size // batch_size * batch_size], size // batch_size)


# name: what builds it, the packages it needs, and what its process's environment must say.
CONTENDERS: dict[str, tuple[Callable[..., Any], tuple[str, ...], dict[str, str]]] = {
    "jaxrnn": (build_jaxrnn, (), {}),
    "jaxrnn fast": (build_fast, (), {}),
    "jaxrnn fast --epochs 2": (build_fastest, (), {}),
    "Flax nn.RNN": (build_flax, (), {}),
    "PyTorch nn.RNN": (build_pytorch, ("torch",), {}),
    "Keras on TensorFlow": (
        build_keras,
        ("keras", "tensorflow"),
        {"KERAS_BACKEND": "tensorflow"},
    ),
    "Keras on JAX": (build_keras, ("keras",), {"KERAS_BACKEND": "jax"}),
    "TF1 graph": (build_tf1, ("tensorflow", "tf_keras"), {"TF_USE_LEGACY_KERAS": "1"}),
    "sgemm": (build_sgemm, (), {}),
}


def main() -> None:
    """Build a contender; then train an epoch for every line ``epoch``, test for any other."""
    name, data, options = sys.argv[1:]
    # What libraries print goes to stderr; stdout carries the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with np.load(data) as arrays:
        images, labels = arrays["images"], arrays["labels"]
        test_images, test_labels = arrays["test_images"], arrays["test_labels"]
    build, _, _ = CONTENDERS[name]
    epoch, predict = build(images, labels, **json.loads(options))
    for line in sys.stdin:
        if line.strip() != "epoch":
            accuracy = float(np.mean(np.asarray(predict(test_images)) == test_labels))
            print(json.dumps({"accuracy": accuracy}), file=answers)
            continue
        start = time.perf_counter()
        epoch()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak}), file=answers)


if __name__ == "__main__":
    main()
