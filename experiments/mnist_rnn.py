"""Train a recurrent network to name MNIST digits, read row by row.

    python -m experiments.mnist_rnn [fast|record|tf1|keras] [--options]
    python -m experiments.mnist_rnn evaluate WORKDIR

fast (the default): 3 epochs on all 60,000 training images, about 0.985 test accuracy.

record: 60 epochs, about 0.993; the most that this network of 28,360 parameters was seen to reach.

tf1, keras: the protocols of two published notebooks. tf1 is 100 epochs on the last 55,000 training
images, about 0.98 at best; keras 5 epochs on the first 48,000, about 0.96.

Every option changes one part of a preset. A run that was stopped goes on when it is started again
with its work dir, and ends with the same bits.
"""

import signal

if __name__ == "__main__":
    # Until training takes signals over, there is nothing to save: end at once, and in silence.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import difflib
import importlib
import math
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
import platformdirs
import tyro
from flax.training.train_state import TrainState
from scipy.special import stdtrit
from tqdm import tqdm

import jaxrnn
from experiments.configuration import (
    DEFAULT_PRESET,
    PRESETS,
    Config,
    Evaluation,
    check,
    check_configuration,
    command_line,
    from_json,
    to_json,
)
from experiments.interruption import Interruption, interruption
from experiments.processes import Stopped, from_first, is_first, processes, say, shared_workdir
from experiments.workdir import check_workdir, save, write_json
from jaxrnn import History, Source, Split
from jaxrnn.checkpoints import describe_run, read_json
from jaxrnn.parallel import (
    batch_mesh,
    distribute,
    member_mesh,
    replicate,
    to_host,
    use_cpu_cores,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; anything wrong with the input is one line on stderr and status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["evaluate"]:
        evaluate_run(arguments[1:])
    else:
        train(parse(arguments))


def train(config: Config) -> None:
    """Start the run that the configuration describes, or go on with it."""
    try:
        check(config)
        use_cpu_cores(config.devices)
        with processes(config):
            train_here(config)
    except (ValueError, OSError) as error:
        fail(str(error))


def train_here(config: Config) -> None:
    """This process's part in a run, of which it may be all."""
    clock = jaxrnn.Clock()
    with contextlib.ExitStack() as held:
        try:
            if config.workdir is not None:
                from_first(partial(check_workdir, config, config.workdir))
            keep_compiled_programs()
            if config.seeds % jax.process_count() and config.seeds > 1:
                raise ValueError(
                    f"--seeds {config.seeds} do not divide among {jax.process_count()} processes"
                )
            batch_mesh(config.seeds if config.seeds > 1 else config.batch_size, config.devices)
            with clock("preparation"):
                splits = load_splits(config)
            size, channels = len(splits["train"]), splits["train"].channels
            if config.batch_size > size:
                raise ValueError(
                    f"--batch-size {config.batch_size} is larger than the training split "
                    f"{config.train_split!r} of {size} examples"
                )
            if config.steps_per_epoch and not config.drop_remainder and size % config.batch_size:
                raise ValueError(
                    f"--steps-per-epoch counts batches of one size, and {size} examples leave one "
                    f"of {size % config.batch_size}; use --drop-remainder"
                )
            if channels > 1 and warp(config) is not None:
                raise ValueError(
                    f"images of {config.dataset!r} have {channels} channels, which "
                    "cannot be warped; use --shift 0 --rotation 0 --zoom 0 --shear 0 --elastic 0"
                )
            with clock("training"):
                state = initial_state(config, splits["train"])
            workdir = held.enter_context(shared_workdir(config))
            checkpoints = jaxrnn.Checkpoints(
                workdir / "checkpoints", describe(config, splits["train"], state)
            )
            state, history, key = restore(config, workdir, checkpoints, state)
            if is_first():
                write_json(workdir / "config.json", to_json(config))
        except (ValueError, OSError, ImportError) as error:
            fail_without_others(error, "")
            fail(str(error))
        except jax.errors.JaxRuntimeError as error:
            fail_without_others(error, "")
            fail(f"a network of this size does not fit in memory: {error}")

        again = f"to go on: {command_line(config, workdir)}"
        try:
            with interruption() as interrupted, checkpoints:
                results = run(
                    config, state, history, key, splits, workdir, checkpoints, interrupted, clock
                )
        except jaxrnn.NonFiniteLossError as error:
            kept = f"what came before is kept in {workdir}; " if checkpoints.epochs else ""
            fail(
                f"{error}; {kept}in another folder, try a --learning-rate below "
                f"{config.learning_rate} or a smaller --clip-norm",
                status=1,
            )
        except (ValueError, OSError) as error:
            fail_without_others(error, f"; {again}")
            kept = f"; what was saved before is kept; {again}" if checkpoints.epochs else ""
            fail(f"{error}{kept}", interrupted.exit_status or 1)
        except RuntimeError as error:
            fail_without_others(error, f"; {again}")
            if not config.workers:
                raise
            fail(f"a process that reads ended: {error}; {again}", status=1)
    if results is None:
        say(f"stopped; everything so far is in {workdir}\n{again}")
        # Where the signal went to another process, this one ends as that does.
        raise Stopped(interrupted.exit_status or 128 + signal.SIGTERM)
    if config.seeds > 1:
        for member in results["members"]:
            say(f"seed {member['seed']}: test accuracy {member['test_accuracy']:.4f}")
        low, high = results["test_accuracy_interval"]
        say(
            f"deviation {results['test_accuracy_deviation']:.4f}, "
            f"95 % interval of the mean {low:.4f} to {high:.4f}"
        )
    say(f"test accuracy {results['test_accuracy']:.4f}; everything is in {workdir}")


def fail_without_others(error: Exception, again: str) -> None:
    """End, if it is the way to other processes that failed."""
    # JAX raises either kind for it, the second where a result is fetched from a collective.
    of_runtime = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
    if jax.process_count() > 1 and of_runtime:
        fail(
            f"process {jax.process_index()} of {jax.process_count()} ends, as it lost the others: "
            f"{error}{again}",
            status=1,
        )


def evaluate_run(arguments: Sequence[str]) -> None:
    """Print the test metrics of a stored run, which are those of its ``results.json``."""
    options = tyro.cli(Evaluation, args=arguments, prog="python -m experiments.mnist_rnn evaluate")
    try:
        if not (options.workdir / "config.json").exists():
            raise FileNotFoundError(f"{options.workdir} holds no run")
        config = from_json(read_json(options.workdir / "config.json"))
        use_cpu_cores(config.devices)
        keep_compiled_programs()
        stored = jaxrnn.load_run(options.workdir)
        check_configuration(config, {**stored.config, "epochs": config.epochs})
        test = jaxrnn.load(
            config.dataset,
            split=config.test_split,
            data_dir=options.data_dir,
            archives=options.archives,
        )
        many = config.seeds > 1
        mesh = batch_mesh(config.seeds if many else config.batch_size, config.devices)
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))
    state = (distribute if many else replicate)(jaxrnn.averaged(stored.state), mesh)
    evaluate = jaxrnn.evaluate_each if many else jaxrnn.evaluate
    metrics = jax.device_get(evaluate(state, replicate(test, mesh), mesh=mesh))
    print(f"after epoch {len(mean(stored.history))}:")
    for name, values in (("test_loss", metrics.loss), ("test_accuracy", metrics.accuracy)):
        print(name, *np.atleast_1d(values).tolist())


def parse(arguments: Sequence[str]) -> Config:
    """The preset named first (``fast`` if none is), with the options that follow it."""
    arguments = list(arguments)
    named = bool(arguments) and not arguments[0].startswith("-")
    preset = arguments.pop(0) if named else DEFAULT_PRESET
    if preset not in PRESETS:
        close = difflib.get_close_matches(preset, PRESETS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        fail(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}{hint}")
    return tyro.cli(
        Config,
        default=PRESETS[preset],
        args=arguments,
        prog=f"python -m experiments.mnist_rnn {preset if named else '[fast|record|tf1|keras]'}",
        description=__doc__,
    )


def fail(message: str, status: int = 2) -> NoReturn:
    """End with one line that says what was wrong; status 2 is for what the user gave."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(status)


def keep_compiled_programs() -> None:
    """Keep what is compiled in the user's cache folder, unless JAX was told another place."""
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        folder = platformdirs.user_cache_dir("jaxrnn")
        jax.config.update("jax_compilation_cache_dir", f"{folder}/compiled")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def load_splits(config: Config) -> dict[str, Any]:
    """The splits that the run needs, by role: train, test and, where wanted, validation.

    The one to train on is a source, where it is not to be in memory.
    """
    names = {
        "train": config.train_split,
        "validation": config.validation_split,
        "test": config.test_split,
    }
    return {
        role: (jaxrnn.Source if config.stream and role == "train" else jaxrnn.load)(
            config.dataset, split=name, data_dir=config.data_dir, archives=config.archives
        )
        for role, name in names.items()
        if name is not None
    }


def example_inputs(train: Split | Source) -> Any:
    """Inputs of the shape that the network is to take, (1, time, features)."""
    return train.inputs[:1] if isinstance(train, Split) else train.read([0])["inputs"]


def make_model(config: Config, train: Split | Source) -> jaxrnn.RNNClassifier:
    """The network that the configuration describes."""
    return jaxrnn.RNNClassifier(
        hidden=config.hidden,
        classes=len(train.class_names),
        cell=config.cell,
        layers=config.layers,
        bidirectional=config.bidirectional,
        initializers=config.initializers,
        recurrent_gain=config.recurrent_gain,
        recurrence=config.recurrence,
    )


def optimizer_options(config: Config, train: Split | Source) -> dict[str, Any]:
    """The arguments of :func:`jaxrnn.make_optimizer`."""
    batches = len(train) / config.batch_size
    a_pass = (math.floor if config.drop_remainder else math.ceil)(batches)
    steps = config.epochs * (config.steps_per_epoch or a_pass)
    scheduled = config.schedule != "constant" or config.warmup > 0
    return {
        "optimizer": config.optimizer,
        "learning_rate": config.learning_rate,
        "muon_learning_rate": config.muon_learning_rate,
        "schedule": config.schedule,
        "warmup": config.warmup,
        "steps": steps if scheduled else None,
        "clip_norm": config.clip_norm,
        "weight_decay": config.weight_decay,
        "average": config.average,
        "epsilon": config.epsilon,
    }


def warp(config: Config) -> Any:
    """What is done to training images, or None."""
    return jaxrnn.random_warp(
        shift=config.shift,
        rotation=config.rotation,
        zoom=config.zoom,
        shear=config.shear,
        elastic=config.elastic,
    )


def member_seeds(config: Config) -> range:
    """The seed of each network."""
    return range(config.seed, config.seed + config.seeds)


def initial_state(config: Config, train: Split | Source) -> TrainState:
    """The state before the first step, of one network or of all: it follows from the seeds."""
    model = make_model(config, train)
    optimizer = jaxrnn.make_optimizer(**optimizer_options(config, train))
    example = example_inputs(train)
    states = [
        jaxrnn.create_train_state(
            jax.random.split(jax.random.key(seed))[0], model, optimizer, example
        )
        for seed in member_seeds(config)
    ]
    return (
        jax.tree.map(lambda *leaves: np.stack(leaves), *states) if config.seeds > 1 else states[0]
    )


def data_key(config: Config) -> jax.Array:
    """Root of the data order, one key for each network if there are several."""
    keys = [jax.random.split(jax.random.key(seed))[1] for seed in member_seeds(config)]
    return jnp.stack(keys) if config.seeds > 1 else keys[0]


def describe(config: Config, train: Split | Source, state: TrainState) -> dict[str, Any]:
    """What every checkpoint says of the run, for :func:`jaxrnn.load_run`."""
    return describe_run(
        to_json(config),
        make_model(config, train),
        optimizer_options(config, train),
        example_inputs(train),
        members=np.shape(state.step),
    )


def restore(
    config: Config, workdir: Path, checkpoints: jaxrnn.Checkpoints, state: TrainState
) -> tuple[TrainState, Any, jax.Array]:
    """State, history and root key of the last checkpoint; of the start, where there is none.

    Raises:
      ValueError: every checkpoint is damaged, or of another configuration; or there is none,
        though the run was further than its second epoch.
    """

    def template(description: Mapping[str, Any]) -> TrainState:
        # How many epochs were wanted when it was written does not matter.
        check_configuration(config, {**description["config"], "epochs": config.epochs})
        return state

    restored = checkpoints.restore(template)
    epochs = len(mean(restored[1])) if restored is not None else 0
    if from_first(lambda: epochs) != epochs:
        raise ValueError(
            f"process {jax.process_index()} found epoch {epochs} in {workdir}, and the first one "
            "another; all of them need the same folder"
        )
    if restored is not None:
        return restored
    curves = workdir / "history.csv"
    # The second epoch may be recorded before the first is on disk; the third is not.
    further = curves.exists() and len(History.from_csv(curves)) > 2
    if further or (workdir / "results.json").exists():
        raise ValueError(f"--workdir {workdir} holds a run without its checkpoints; name a new one")
    return state, None, data_key(config)


def run(
    config: Config,
    state: TrainState,
    history: Any,
    key: jax.Array,
    splits: dict[str, Any],
    workdir: Path,
    checkpoints: jaxrnn.Checkpoints,
    interrupted: Interruption,
    clock: jaxrnn.Clock,
) -> dict[str, Any] | None:
    """Train, evaluate and draw.

    Returns:
      What ``results.json`` holds, or None where a signal came before the last epoch.
    """
    many = config.seeds > 1
    train, test = splits["train"], splits["test"]
    mesh = batch_mesh(config.seeds if many else config.batch_size, config.devices)
    evaluate = jaxrnn.evaluate_each if many else jaxrnn.evaluate
    shared = member_mesh(config.seeds, config.devices)[0] if many else mesh
    devices = describe_devices(shared.devices.flat)
    sizes = [math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(state.params)]
    parameters = sum(sizes) // config.seeds
    networks = f"{config.seeds} networks of " if many else ""
    say(
        f"{config.preset}: {networks}{parameters:,} parameters, {len(train):,} training examples "
        f"of {config.dataset}, on {len(devices)} × {devices[0]}; files in {workdir}"
    )
    if history:
        say(f"going on after epoch {len(mean(history))}")
    if history and is_first():
        mean(history).to_csv(workdir / "history.csv")
        if len(mean(history)) < config.epochs:  # they are no longer the run's
            (workdir / "results.json").unlink(missing_ok=True)
    state = (distribute if many else replicate)(state, mesh)
    test_on_devices = replicate(test, mesh)
    with ThreadPoolExecutor() as pool:  # in the shadow of the training step's compilation
        if not config.test_every_epoch:  # else fit compiles it
            on_devices = jaxrnn.averaged(state), test_on_devices
            pool.submit(evaluate.lower(*on_devices, mesh=mesh).compile)
        pool.submit(importlib.import_module, "orbax.checkpoint")
        samples = pool.submit(save_first_images, train, workdir)
        state, history = jaxrnn.fit(
            state,
            jaxrnn.stream(
                train,
                batch_size=config.batch_size,
                key=key,
                drop_remainder=config.drop_remainder,
                steps_per_epoch=config.steps_per_epoch,
                workers=config.workers,
            )
            if config.stream
            else train,
            key=key,
            history=history,
            epochs=config.epochs,
            batch_size=config.batch_size,
            validation=splits.get("validation"),
            test=test_on_devices if config.test_every_epoch else None,
            drop_remainder=config.drop_remainder,
            train_curve=config.train_curve,
            augment=warp(config),
            label_smoothing=config.label_smoothing,
            on_epoch=print_like_tf1_notebook if config.preset == "tf1" and is_first() else None,
            stop=lambda history: interrupted.received is not None,
            checkpoints=checkpoints,
            workdir=workdir,
            progress=True,
            clock=clock,
            devices=config.devices,
        )
    samples.result()
    histories = history if many else (history,)
    if len(histories[0]) < config.epochs:
        return None
    with clock("evaluation"):
        if many:
            state = distribute(state, mesh)
        metrics = to_host(evaluate(jaxrnn.averaged(state), test_on_devices, mesh=mesh))
    losses, accuracies = (
        np.atleast_1d(value).tolist() for value in (metrics.loss, metrics.accuracy)
    )
    if config.preset == "keras" and not many:
        say(f"accuracy:  {accuracies[0]}")  # as its notebook does

    members = [
        {
            "seed": seed,
            **{k: v for k, v in one.rows[-1].items() if k.startswith(("train_", "validation_"))},
            "test_loss": loss,
            "test_accuracy": accuracy,
            **best(one, accuracy),
        }
        for seed, one, loss, accuracy in zip(
            member_seeds(config), histories, losses, accuracies, strict=True
        )
    ]
    results = {
        "preset": config.preset,
        "seed": config.seed,
        "epochs": len(histories[0]),
        "parameters": parameters,
        **(summarize(members) if many else members[0]),
        "seconds": clock.seconds,
        "versions": {
            "jaxrnn": jaxrnn.__version__,
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.version.__version__,
            "flax": flax.__version__,
            "optax": optax.__version__,
        },
        "devices": devices,
    }
    if is_first():
        save(jaxrnn.plot_history(histories), workdir / "curves.png")
        for member, one in zip(members, histories, strict=True):
            if many:
                one.to_csv(workdir / f"history-{member['seed']}.csv")
        write_json(workdir / "results.json", results)
    return results


def save_first_images(train: Split | Source, workdir: Path) -> None:
    """A picture of the first training examples."""
    if not is_first():
        return
    if not isinstance(train, Split):
        batch = train.read(range(min(36, len(train))))
        train = Split(**batch, class_names=train.class_names)
    save(jaxrnn.plot_samples(train), workdir / "samples.png")


def mean(history: Any) -> History:
    """The history, or the mean of several."""
    return history if isinstance(history, History) else jaxrnn.mean_history(history)


def summarize(members: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, deviation and the 95 % interval of the mean (Student's t) over several networks."""
    accuracies = np.array([member["test_accuracy"] for member in members])
    deviation = accuracies.std(ddof=1)
    half = stdtrit(len(members) - 1, 0.975) * deviation / math.sqrt(len(members))
    return {
        "members": members,
        "test_loss": float(np.mean([member["test_loss"] for member in members])),
        "test_accuracy": float(accuracies.mean()),
        "test_accuracy_deviation": float(deviation),
        "test_accuracy_interval": [
            float(accuracies.mean() - half),
            float(accuracies.mean() + half),
        ],
    }


def print_like_tf1_notebook(state: TrainState, history: Any) -> None:
    """A line every tenth epoch."""
    row = mean(history).rows[-1]
    if row["epoch"] % 10 == 0 and "test_accuracy" in row:
        train, test = row["train_accuracy"], row["test_accuracy"]
        tqdm.write(f"{row['epoch']} Train Accuracy: {train:0.4f}, Test Accuracy: {test:0.4f}")


def best(history: History, final_test_accuracy: float) -> dict[str, float]:
    """The best test accuracy and its epoch; the last epoch where no other one was tested."""
    if not history.measured("test_accuracy"):
        return {"best_test_accuracy": final_test_accuracy, "best_epoch": len(history)}
    row = history.best("test_accuracy")
    return {"best_test_accuracy": row["test_accuracy"], "best_epoch": row["epoch"]}


def describe_devices(devices: Iterable[jax.Device]) -> list[str]:
    """Each device's platform and, where that says more, its kind."""
    return [" ".join(dict.fromkeys((device.platform, device.device_kind))) for device in devices]


if __name__ == "__main__":
    main()
