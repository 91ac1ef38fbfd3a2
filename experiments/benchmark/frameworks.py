"""Contenders written in other frameworks, each as its own users write it."""

from typing import Any

import numpy as np

from experiments.benchmark.protocol import Built, Options, scaled, shuffled_batches


def build_pytorch(
    images: np.ndarray, labels: np.ndarray, options: Options, *, compiled: bool = False
) -> Built:
    """Build ``torch.nn.RNN``, eager or with ``torch.compile``; it uses cuDNN on a GPU."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = {"simple": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
            self.rnn = layers[options.cell](images.shape[-1], options.hidden, batch_first=True)
            self.head = torch.nn.Linear(options.hidden, 10)

        def forward(self, inputs: Any) -> Any:
            last = self.rnn(inputs)[1]  # of an LSTM, a tuple with its cell state
            return self.head((last[0] if options.cell == "lstm" else last)[0])

    torch.manual_seed(options.seed)
    model = Classifier().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    inputs = torch.from_numpy(scaled(images)).to(device)
    targets = torch.from_numpy(labels.astype(np.int64)).to(device)
    whole = len(labels) // options.batch_size * options.batch_size

    def loss_of(inputs: Any, targets: Any) -> Any:
        return torch.nn.functional.cross_entropy(model(inputs), targets)

    if compiled:
        loss_of = torch.compile(loss_of)

    def epoch() -> None:
        order = torch.randperm(len(targets), device=device)[:whole]
        for batch in order.split(options.batch_size):
            optimizer.zero_grad()
            loss = loss_of(inputs[batch], targets[batch])
            loss.backward()
            optimizer.step()
        loss.item()  # waits for the device

    def predict(images: np.ndarray) -> Any:
        with torch.no_grad():
            return model(torch.from_numpy(scaled(images)).to(device)).argmax(-1).cpu()

    return epoch, predict


def build_keras(images: np.ndarray, labels: np.ndarray, options: Options) -> Built:
    """Build Keras 3 ``SimpleRNN`` and ``fit``, on the backend that the environment names."""
    import keras

    keras.utils.set_random_seed(options.seed)
    layers = keras.layers
    kinds = {"simple": layers.SimpleRNN, "gru": layers.GRU, "lstm": layers.LSTM}
    recurrent = kinds[options.cell](options.hidden)
    model = keras.Sequential([layers.Input(images.shape[1:]), recurrent, layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, optimizer=keras.optimizers.Adam(1e-3))
    whole = len(labels) // options.batch_size * options.batch_size
    inputs, targets = images[:whole].astype(np.float32) / 255, labels[:whole]

    def epoch() -> None:
        model.fit(inputs, targets, batch_size=options.batch_size, epochs=1, verbose=0)

    def predict(images: np.ndarray) -> Any:
        return model.predict(scaled(images), verbose=0).argmax(-1)

    return epoch, predict


def build_tf1(images: np.ndarray, labels: np.ndarray, options: Options) -> Built:
    """Build the graph of the TF1 notebook under ``tf.compat.v1``, fed from Python."""
    import tensorflow.compat.v1 as tf

    tf.disable_v2_behavior()
    tf.set_random_seed(options.seed)
    x = tf.placeholder(tf.float32, [None, *images.shape[1:]])
    y = tf.placeholder(tf.int32, [None])
    cells = tf.nn.rnn_cell
    kinds = {"simple": cells.BasicRNNCell, "gru": cells.GRUCell, "lstm": cells.LSTMCell}
    _, last = tf.nn.dynamic_rnn(kinds[options.cell](options.hidden), x, dtype=tf.float32)
    logits = tf.layers.dense(last.h if options.cell == "lstm" else last, 10)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
    train = tf.train.AdamOptimizer(learning_rate=1e-3).minimize(loss)
    session = tf.Session()
    session.run(tf.global_variables_initializer())
    inputs = scaled(images)
    generator = np.random.default_rng(options.seed)

    def epoch() -> None:
        for batch in shuffled_batches(generator, len(labels), options.batch_size):
            session.run(train, feed_dict={x: inputs[batch], y: labels[batch]})

    def predict(images: np.ndarray) -> Any:
        return session.run(logits, feed_dict={x: scaled(images)}).argmax(-1)

    return epoch, predict
