"""The contenders of the benchmark: the same network and protocol, each as its own users write it.

Each ``build`` function returns ``epoch``, a function without arguments that trains for one epoch in
random order and returns when the work is done, and ``predict``, from images to classes.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

Built = tuple[Callable[[], None], Callable[[Any], Any]]

SGEMM_SIZE, SGEMM_PRODUCTS = 2048, 10
GATES = {"simple": 1, "gru": 3, "lstm": 4}  # of each cell; their work grows with them


@dataclasses.dataclass(frozen=True)
class Options:
    """The network, and how it is trained."""

    hidden: int
    batch_size: int
    seed: int
    cell: str = "simple"


def build_jaxrnn(images: Any, labels: Any, of: Options, preset: str = "keras") -> Built:
    """``train_epoch`` on all devices, as ``fit`` calls it; the ``keras`` preset is plain Adam.

    Other presets have their own batch size.
    """
    import jax

    import jaxrnn
    from experiments.mnist_rnn import PRESETS
    from jaxrnn.parallel import batch_mesh, replicate, use_cpu_cores

    use_cpu_cores()
    experiment = PRESETS[preset]
    batch_size = of.batch_size if preset == "keras" else experiment.trainer.batch_size
    mesh = batch_mesh(batch_size)
    steps = experiment.trainer.epochs * (len(labels) // batch_size)
    network: Any = {"hidden": of.hidden, "cell": of.cell}
    model = dataclasses.replace(experiment.model, **network).build(10)
    init_key, data_key = jax.random.split(jax.random.key(of.seed))
    state = jaxrnn.create_train_state(
        init_key, model, experiment.optimizer.build(steps), images, experiment.task
    )
    state, split = replicate((state, jaxrnn.Split(images, labels)), mesh)
    options: Any = {"batch_size": batch_size, "drop_remainder": True, "mesh": mesh}
    options["augment"] = experiment.augment.build()
    keys = iter(jax.random.split(data_key, 1000))
    jaxrnn.train_epoch.lower(state, split, next(keys), **options).compile()

    def epoch() -> None:
        nonlocal state
        state, metrics = jaxrnn.train_epoch(state, split, next(keys), **options)
        jax.block_until_ready(metrics)

    def predict(images: Any) -> Any:
        return jaxrnn.predict(jaxrnn.averaged(state), replicate(jaxrnn.Split(images), mesh)).argmax(
            -1
        )

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


def build_pytorch(images: Any, labels: Any, of: Options) -> Built:
    """``torch.nn.RNN``, eager; cuDNN where there is a GPU."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = {"simple": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
            self.rnn = layers[of.cell](images.shape[-1], of.hidden, batch_first=True)
            self.head = torch.nn.Linear(of.hidden, 10)

        def forward(self, inputs: Any) -> Any:
            last = self.rnn(inputs)[1]  # of LSTMs, with their memory
            return self.head((last[0] if of.cell == "lstm" else last)[0])

    torch.manual_seed(of.seed)
    model = Classifier().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    inputs = torch.from_numpy(scaled(images)).to(device)
    targets = torch.from_numpy(labels.astype(np.int64)).to(device)

    def epoch() -> None:
        order = torch.randperm(len(targets), device=device)
        for batch in order[: len(order) // of.batch_size * of.batch_size].split(of.batch_size):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
            loss.backward()
            optimizer.step()
        loss.item()  # waits for the device

    def predict(images: Any) -> Any:
        with torch.no_grad():
            return model(torch.from_numpy(scaled(images)).to(device)).argmax(-1).cpu()

    return epoch, predict


def build_keras(images: Any, labels: Any, of: Options) -> Built:
    """Keras 3 ``SimpleRNN`` and ``fit``, on the backend that the environment names."""
    import keras

    keras.utils.set_random_seed(of.seed)
    layers = keras.layers
    layer = {"simple": layers.SimpleRNN, "gru": layers.GRU, "lstm": layers.LSTM}[of.cell](of.hidden)
    model = keras.Sequential([layers.Input(images.shape[1:]), layer, layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, optimizer=keras.optimizers.Adam(1e-3))
    whole = len(labels) // of.batch_size * of.batch_size
    inputs, targets = images[:whole].astype(np.float32) / 255, labels[:whole]

    def epoch() -> None:
        model.fit(inputs, targets, batch_size=of.batch_size, epochs=1, verbose=0)

    def predict(images: Any) -> Any:
        return model.predict(scaled(images), verbose=0).argmax(-1)

    return epoch, predict


def build_tf1(images: Any, labels: Any, of: Options) -> Built:
    """The graph of the TF1 notebook under ``tf.compat.v1``, fed from Python."""
    import tensorflow.compat.v1 as tf

    tf.disable_v2_behavior()
    tf.set_random_seed(of.seed)
    x = tf.placeholder(tf.float32, [None, *images.shape[1:]])
    y = tf.placeholder(tf.int32, [None])
    cells = tf.nn.rnn_cell
    cell = {"simple": cells.BasicRNNCell, "gru": cells.GRUCell, "lstm": cells.LSTMCell}[of.cell]
    _, last = tf.nn.dynamic_rnn(cell(of.hidden), x, dtype=tf.float32)
    logits = tf.layers.dense(last.h if of.cell == "lstm" else last, 10)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
    train = tf.train.AdamOptimizer(learning_rate=1e-3).minimize(loss)
    session = tf.Session()
    session.run(tf.global_variables_initializer())
    inputs = scaled(images)
    generator = np.random.default_rng(of.seed)

    def epoch() -> None:
        for batch in shuffled_batches(generator, len(labels), of.batch_size):
            session.run(train, feed_dict={x: inputs[batch], y: labels[batch]})

    def predict(images: Any) -> Any:
        return session.run(logits, feed_dict={x: scaled(images)}).argmax(-1)

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


def scaled(images: Any) -> Any:
    """Pixels as floats, 0 … 1."""
    return images.astype(np.float32) / 255


def shuffled_batches(generator: np.random.Generator, size: int, batch_size: int) -> Any:
    """Indices of the whole batches of one epoch."""
    order = generator.permutation(size)
    return np.split(order[: size // batch_size * batch_size], size // batch_size)


# name: the function that builds it, the packages it needs, and its process's environment.
CONTENDERS: dict[str, tuple[Callable[..., Built], tuple[str, ...], dict[str, str]]] = {
    "jaxrnn": (build_jaxrnn, (), {}),
    "jaxrnn fast": (partial(build_jaxrnn, preset="fast"), (), {}),
    "jaxrnn sprint": (partial(build_jaxrnn, preset="sprint"), (), {}),
    "Flax nn.RNN": (build_flax, (), {}),
    "PyTorch nn.RNN": (build_pytorch, ("torch",), {}),
    "Keras on TensorFlow": (build_keras, ("keras", "tensorflow"), {"KERAS_BACKEND": "tensorflow"}),
    "Keras on JAX": (build_keras, ("keras",), {"KERAS_BACKEND": "jax"}),
    "TF1 graph": (build_tf1, ("tensorflow", "tf_keras"), {"TF_USE_LEGACY_KERAS": "1"}),
    "sgemm": (build_sgemm, (), {}),
}
