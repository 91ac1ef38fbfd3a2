"""Prepare a run: data, the state at step 0, and a description to recognize the data later."""

import dataclasses
import inspect
import math
import textwrap
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn.data import Datasets, ImageLayout, Source, Split, Stream, default_dirs, stream
from jaxrnn.files import Json
from jaxrnn.runs.config import Experiment, RuntimeConfig
from jaxrnn.training import History, TrainState, create_train_state
from jaxrnn.training.epochs import Augment, data_order
from jaxrnn.training.forward import check_fits
from jaxrnn.training.sharding import available_cores, batch_mesh, suitable_devices
from jaxrnn.training.steps import StepOptions, check_pieces


class Prepared(NamedTuple):
    """The built parts of an experiment; after restoring or training, with its state and history."""

    data: Datasets
    train: Split | Stream  # of data.train
    augment: Augment | None
    description: Json  # stored with every checkpoint
    key: jax.Array | None  # root of the data order of a split
    mesh: jax.sharding.Mesh  # devices that share each batch
    state: TrainState
    history: History = History()


def prepare(experiment: Experiment, data: Datasets | None = None) -> Prepared:
    """Build the parts of a checked experiment, whose ``data`` may have been built before.

    Raises ``ValueError`` if they don't fit each other, the processes, or the memory.
    """
    trainer, runtime = experiment.trainer, experiment.runtime
    data = data or build_data(experiment.data, runtime)
    description = {"config": experiment.identity, **describe_data(data)}
    time = description["input_shape"][0]
    layout = data.layout or ImageLayout((time, -1, description["channels"]))
    augment = experiment.augment and experiment.augment.build(layout)
    init_key, data_key = jax.random.split(jax.random.key(trainer.seed))
    key: jax.Array | None = data_key
    train: Any = data.train
    if runtime.stream or not isinstance(train, Split):
        names = ("batch_size", "drop_remainder", "steps_per_epoch")
        options = {name: getattr(trainer, name) for name in names}
        train, key = stream(train, key=key, workers=runtime.workers, **options), None
    elif trainer.steps_per_epoch is not None:
        raise ValueError("--steps-per-epoch is an option of streams; use --stream")
    order = data_order(train, key, trainer.batch_size, trainer.drop_remainder)
    chunks = math.ceil(time / (trainer.truncate or time))
    description["steps"] = trainer.epochs * len(order) * chunks
    state = initial_state(experiment, description, init_key)
    pieces = StepOptions(truncate=trainer.truncate, remat=trainer.remat)
    check_pieces(state, order.source.read([0]), pieces)
    mesh = batch_mesh(trainer.batch_size, suitable_devices(state.params, runtime.devices))
    check_fits(state, {"train": train, **data.evals})  # before files are created
    return Prepared(data, train, augment, description, key, mesh, state)


def build_data(group: Any, runtime: RuntimeConfig) -> Datasets:
    """Build the data, and read the training split into memory unless it is streamed."""
    with default_dirs(runtime.data_dir, runtime.archives):
        data: Datasets = group.build()
    if isinstance(data.train, Source) and not runtime.stream:
        return dataclasses.replace(data, train=data.train.load())
    return data


def describe_data(data: Datasets) -> Json:
    """Describe the data of a run, for its checkpoints."""
    inputs, train = data.train.read([0])["inputs"], data.train
    return {
        "input_shape": list(np.shape(inputs)[1:]),
        "outputs": data.outputs,
        "class_names": list(getattr(train, "class_names", ())),
        "channels": getattr(train, "channels", 1),
        "image_shape": list(data.layout.shape) if data.layout else None,
        "pixel_max": data.pixel_max,
        "pixels": np.ndim(inputs) == 3 and inputs.dtype == np.uint8,
        "splits": {name: _content(s) for name, s in {"train": train, **data.evals}.items()},
    }


def _content(split: Any) -> Json:
    """Return the shape and, if there is one, the digest of a split, to detect other examples."""
    source = split.source if isinstance(split, Stream) else split
    shape = np.shape(source.inputs if isinstance(source, Split) else source.read([0])["inputs"])
    return {"shape": [len(source), *shape[1:]], "digest": getattr(source, "digest", None)}


def check_same_data(stored: Json, here: Json) -> str:
    """Describe the splits whose examples differ from the stored ones; "" if none do.

    Raises ``ValueError`` if the network doesn't fit the data: other classes, or another shape.
    """
    fixed = 0 if stored["pixels"] else 1  # other sequences may have any number of time steps
    then, now = (
        {"classes": about["class_names"], "input shape": about["input_shape"][fixed:]}
        | {name: about[name] for name in ("outputs", "channels", "pixels")}
        for about in (stored, here)
    )
    different = [
        f"{name} ({_differing(then[name], now[name])})" for name in now if then[name] != now[name]
    ]
    if different:
        raise ValueError(f"the data has changed since training: {', '.join(different)}")
    changed = []
    for name, content in here["splits"].items():
        known = stored.get("splits", {}).get(name, content)  # earlier versions stored none
        if known["shape"] != content["shape"]:
            changed.append(f"{name} ({known['shape']} there, {content['shape']} here)")
        elif None not in (digests := {known["digest"], content["digest"]}) and len(digests) > 1:
            changed.append(f"{name} (different examples or order)")
    return ", ".join(changed)


def _differing(there: Any, here: Any) -> str:
    """Describe two values that differ; of long lists, only the entries that differ."""
    if isinstance(here, list) and len(f"{there}{here}") > 120:
        pairs = zip(there, here, strict=False)
        moved = {name for pair in pairs if pair[0] != pair[1] for name in pair}
        named = {*there} ^ {*here} or moved
        lists = ([name for name in names if name in named] for names in (there, here))
        there, here = (textwrap.shorten(str(names), 80, placeholder=" …") for names in lists)
    return f"{there} there, {here} here"


def initial_state(experiment: Experiment, description: Json, key: jax.Array | None) -> TrainState:
    """Build model and optimizer, and their state at step 0; without a key, only its shapes."""
    build: Any = experiment.model.build
    if "rngs" in inspect.signature(build).parameters:
        from flax import nnx  # slow to import

        build = partial(build, rngs=nnx.Rngs(jax.random.key(0) if key is None else key))
    example = jax.ShapeDtypeStruct((1, *description["input_shape"]), np.float32)
    optimizer = experiment.optimizer.build(description["steps"])
    try:
        model = build(description["outputs"])
        return create_train_state(key, model, optimizer, example, experiment.task)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(f"a network of this size does not fit in memory: {error}") from error


def describe_mesh(mesh: jax.sharding.Mesh) -> str:
    """Describe the number and kind of devices and, for a single CPU device, its cores."""
    devices = devices_of(mesh)
    count = available_cores()
    cores = f" ({count} core{'s' * (count > 1)})" if devices == ["cpu"] else ""
    return f"{len(devices)} × {devices[0]}{cores}"


def devices_of(mesh: jax.sharding.Mesh) -> list[str]:
    """Return the platform of each device and, if different, its kind."""
    devices = mesh.devices.flat
    return [" ".join(dict.fromkeys((device.platform, device.device_kind))) for device in devices]


def parameters(state: TrainState) -> int:
    """Return the number of parameters."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(state.params))
