"""The contenders of the benchmark: the same network and protocol, each as its own users write it.

Each ``build`` function returns ``epoch``, a function without arguments that trains for one epoch in
random order and returns when the work is done, and ``predict``, from images to classes.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from experiments.benchmark.frameworks import build_keras, build_pytorch, build_tf1
from experiments.benchmark.protocol import Built, Options, scaled, shuffled_batches

SGEMM_SIZE, SGEMM_PRODUCTS = 2048, 10


def build_jaxrnn(images: Any, labels: Any, of: Options, preset: str = "keras") -> Built:
    """``train_epoch`` on all devices, as ``fit`` calls it; the ``keras`` preset is plain Adam.

    Other presets have their own batch size.
    """
    import jax

    import jaxrnn
    from experiments.mnist_rnn import PRESETS
    from jaxrnn.training.sharding import place, replicate, use_cpu_cores

    use_cpu_cores()
    experiment = PRESETS[preset]
    batch_size = of.batch_size if preset == "keras" else experiment.trainer.batch_size
    steps = experiment.trainer.epochs * (len(labels) // batch_size)
    network: Any = {"hidden": of.hidden, "cell": of.cell}
    model = dataclasses.replace(experiment.model, **network).build(10)
    init_key, data_key = jax.random.split(jax.random.key(of.seed))
    state = jaxrnn.create_train_state(
        init_key, model, experiment.optimizer.build(steps), images, experiment.task
    )
    mesh, state, data_key = place(state, data_key, batch_size, None)
    split = replicate(jaxrnn.Split(images, labels), mesh)
    options: Any = {"batch_size": batch_size, "drop_remainder": True, "mesh": mesh}
    options["augment"] = experiment.augment.build()
    keys = iter(jax.random.split(data_key, 1000))
    jaxrnn.train_epoch.lower(state, split, next(keys), **options).compile()

    def epoch() -> None:
        nonlocal state
        state, metrics = jaxrnn.train_epoch(state, split, next(keys), **options)
        jax.block_until_ready(metrics)

    def predict(images: Any) -> Any:
        return jaxrnn.predict(
            jaxrnn.training.averaged(state), replicate(jaxrnn.Split(images), mesh)
        ).argmax(-1)

    return epoch, predict


def build_flax(images: Any, labels: Any, of: Options) -> Built:
    """``flax.linen.RNN`` and one jitted step per batch, called from Python."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn
    from flax.training.train_state import TrainState

    cells = {"simple": nn.SimpleCell, "gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}
    cell: Any = cells[of.cell]

    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, inputs: jax.Array) -> jax.Array:
            return nn.Dense(10)(jnp.asarray(nn.RNN(cell(of.hidden))(inputs))[:, -1])

    @jax.jit
    def step(state: TrainState, inputs: jax.Array, labels: jax.Array) -> tuple[TrainState, Any]:
        def loss_fn(params: Any) -> jax.Array:
            logits = state.apply_fn({"params": params}, inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    model = Classifier()
    inputs = scaled(images)
    params = model.init(jax.random.key(of.seed), jnp.zeros((1, *images.shape[1:])))["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(1e-3))
    generator = np.random.default_rng(of.seed)

    def epoch() -> None:
        nonlocal state
        for batch in shuffled_batches(generator, len(labels), of.batch_size):
            state, loss = step(state, inputs[batch], labels[batch])
        jax.block_until_ready((state, loss))

    def predict(images: Any) -> Any:
        return jax.jit(model.apply)({"params": state.params}, scaled(images)).argmax(-1)

    return epoch, predict


def build_nnx(images: Any, labels: Any, of: Options) -> Built:
    """``flax.nnx.RNN``, Flax's newer API, with one jitted step per batch called from Python."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    cells = {"simple": nnx.SimpleCell, "gru": nnx.GRUCell, "lstm": nnx.OptimizedLSTMCell}
    cell: Any = cells[of.cell]

    class Classifier(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.rnn = nnx.RNN(cell(images.shape[-1], of.hidden, rngs=rngs), rngs=rngs)
            self.head = nnx.Linear(of.hidden, 10, rngs=rngs)

        def __call__(self, inputs: jax.Array) -> jax.Array:
            return self.head(self.rnn(inputs)[:, -1])

    model = Classifier(nnx.Rngs(of.seed))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        def loss_fn(model: Any) -> jax.Array:
            logits = model(inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return loss

    inputs = scaled(images)
    generator = np.random.default_rng(of.seed)

    def epoch() -> None:
        for batch in shuffled_batches(generator, len(labels), of.batch_size):
            loss = step(model, optimizer, inputs[batch], labels[batch])
        jax.block_until_ready((nnx.state(model), loss))

    def predict(images: Any) -> Any:
        return nnx.jit(lambda model, inputs: model(inputs))(
            model, jnp.asarray(scaled(images))
        ).argmax(-1)

    return epoch, predict


def build_sgemm(images: Any, labels: Any, of: Options) -> Built:
    """Not a contender: ten float32 products of 2048 × 2048, the rate that the machine offers."""
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


# name: the function that builds it, the packages it needs, and its process's environment.
CONTENDERS: dict[str, tuple[Callable[..., Built], tuple[str, ...], dict[str, str]]] = {
    "jaxrnn": (build_jaxrnn, (), {}),
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
