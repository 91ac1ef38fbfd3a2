"""Contenders of the benchmark: one network and protocol, each as its own users write it."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState

import jaxrnn
import jaxrnn.nn.nnx
from experiments.benchmark.frameworks import build_keras, build_pytorch, build_tf1
from experiments.benchmark.protocol import Built, Options, scaled, shuffled_batches
from experiments.mnist_rnn import PRESETS
from jaxrnn.training.sharding import batch_mesh, replicate, suitable_devices, use_cpu_cores

SGEMM_SIZE, SGEMM_PRODUCTS = 2048, 10


class NNXClassifier(nnx.Module):
    """The network of all contenders as a module of Flax NNX."""

    def __init__(self, rnn: type[nnx.RNN], features: int, options: Options) -> None:
        cells = {"simple": nnx.SimpleCell, "gru": nnx.GRUCell, "lstm": nnx.OptimizedLSTMCell}
        cell: Any = cells[options.cell]
        rngs = nnx.Rngs(options.seed)
        self.rnn = rnn(cell(features, options.hidden, rngs=rngs), rngs=rngs)
        self.head = nnx.Linear(options.hidden, 10, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Compute the logits of each class from the last output."""
        return self.head(self.rnn(inputs)[:, -1])


def build_jaxrnn(
    images: np.ndarray,
    labels: np.ndarray,
    options: Options,
    preset: str = "keras",
    *,
    in_nnx: bool = False,
) -> Built:
    """Build ``train_epoch`` on all devices; ``keras`` is plain Adam, other presets set the batch.

    It is compiled here, whereas other contenders compile in their first epoch.
    """
    use_cpu_cores()
    experiment = PRESETS[preset]
    batch_size = options.batch_size if preset == "keras" else experiment.trainer.batch_size
    config = dataclasses.replace(experiment.model, hidden=options.hidden, cell=options.cell)
    model: Any = config.build(outputs=10)
    if in_nnx:
        model = NNXClassifier(jaxrnn.nn.nnx.RNN, images.shape[-1], options)
    optimizer = experiment.optimizer.build(experiment.trainer.epochs * (len(labels) // batch_size))
    init_key, data_key = jax.random.split(jax.random.key(options.seed))
    state = jaxrnn.create_train_state(init_key, model, optimizer, images, experiment.task)
    mesh = batch_mesh(batch_size, suitable_devices(state.params))
    state, split = replicate((state, jaxrnn.Split(images, labels)), mesh)
    fixed: Any = {"batch_size": batch_size, "drop_remainder": True, "mesh": mesh}
    fixed |= {"augment": experiment.augment.build()}
    keys = iter(jax.random.split(data_key, 1000))
    jaxrnn.train_epoch.lower(state, split, next(keys), **fixed).compile()

    def epoch() -> None:
        nonlocal state
        state, metrics = jaxrnn.train_epoch(state, split, next(keys), **fixed)
        jax.block_until_ready(metrics)

    def predict(images: np.ndarray) -> jax.Array:
        averaged = jaxrnn.training.averaged(state)
        return jaxrnn.predict(averaged, replicate(jaxrnn.Split(images), mesh)).argmax(-1)

    return epoch, predict


def build_flax(images: np.ndarray, labels: np.ndarray, options: Options) -> Built:
    """Build ``flax.linen.RNN`` and one jitted step per batch, called from Python."""
    cells = {"simple": nn.SimpleCell, "gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}
    cell: Any = cells[options.cell]

    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, inputs: jax.Array) -> jax.Array:
            return nn.Dense(10)(jnp.asarray(nn.RNN(cell(options.hidden))(inputs))[:, -1])

    @jax.jit
    def step(
        state: TrainState, inputs: jax.Array, labels: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        def loss_fn(params: chex.ArrayTree) -> jax.Array:
            logits = state.apply_fn({"params": params}, inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    model = Classifier()
    inputs = scaled(images)
    params = model.init(jax.random.key(options.seed), jnp.zeros((1, *images.shape[1:])))["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(1e-3))
    generator = np.random.default_rng(options.seed)

    def epoch() -> None:
        nonlocal state
        for batch in shuffled_batches(generator, len(labels), options.batch_size):
            state, loss = step(state, inputs[batch], labels[batch])
        jax.block_until_ready((state, loss))

    def predict(images: np.ndarray) -> jax.Array:
        return jax.jit(model.apply)({"params": state.params}, scaled(images)).argmax(-1)

    return epoch, predict


def build_nnx(images: np.ndarray, labels: np.ndarray, options: Options) -> Built:
    """Build ``flax.nnx.RNN``, Flax's newer API, and one jitted step per batch."""
    model = NNXClassifier(nnx.RNN, images.shape[-1], options)
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(
        model: NNXClassifier, optimizer: nnx.Optimizer, inputs: jax.Array, labels: jax.Array
    ) -> jax.Array:
        def loss_fn(model: NNXClassifier) -> jax.Array:
            logits = model(inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return loss

    inputs = scaled(images)
    generator = np.random.default_rng(options.seed)

    def epoch() -> None:
        for batch in shuffled_batches(generator, len(labels), options.batch_size):
            loss = step(model, optimizer, inputs[batch], labels[batch])
        jax.block_until_ready((nnx.state(model), loss))

    def predict(images: np.ndarray) -> jax.Array:
        logits = nnx.jit(lambda model, inputs: model(inputs))(model, jnp.asarray(scaled(images)))
        return logits.argmax(-1)

    return epoch, predict


def build_sgemm(images: np.ndarray, labels: np.ndarray, options: Options) -> Built:
    """Build the reference for the speed of the machine: float32 products of 2048 × 2048."""
    factor = jax.random.normal(jax.random.key(0), (SGEMM_SIZE, SGEMM_SIZE)) / SGEMM_SIZE**0.5
    product = jax.jit(jnp.matmul)

    def epoch() -> None:
        result = factor
        for _ in range(SGEMM_PRODUCTS):
            result = product(result, factor)
        jax.block_until_ready(result)

    return epoch, lambda images: np.zeros(len(images))


# By name: the function that builds it, the packages and the environment variables it needs.
CONTENDERS: dict[str, tuple[Callable[..., Built], tuple[str, ...], dict[str, str]]] = {
    "jaxrnn": (build_jaxrnn, (), {}),
    "jaxrnn in NNX": (partial(build_jaxrnn, in_nnx=True), (), {}),
    "jaxrnn fast": (partial(build_jaxrnn, preset="fast"), (), {}),
    "jaxrnn sprint": (partial(build_jaxrnn, preset="sprint"), (), {}),
    "Flax nn.RNN": (build_flax, (), {}),
    "Flax nnx.RNN": (build_nnx, (), {}),
    "PyTorch nn.RNN": (build_pytorch, ("torch",), {}),
    "torch.compile": (partial(build_pytorch, compiled=True), ("torch",), {}),
    "Keras on TensorFlow": (build_keras, ("keras", "tensorflow"), {"KERAS_BACKEND": "tensorflow"}),
    "Keras on JAX": (build_keras, ("keras",), {"KERAS_BACKEND": "jax"}),
    "TF1 graph": (build_tf1, ("tensorflow", "tf_keras"), {"TF_USE_LEGACY_KERAS": "1"}),
    "sgemm": (build_sgemm, (), {}),
}
