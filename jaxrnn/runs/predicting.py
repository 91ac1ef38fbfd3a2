"""The predict verb: what a stored run predicts for files."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from annotated_types import Ge

from jaxrnn.constraints import Count, Group
from jaxrnn.data import ImageSequences
from jaxrnn.data.arrays import as_sequences
from jaxrnn.data.files import Reader, array_reader, picture_reader, read_files, text_reader
from jaxrnn.generation import generate
from jaxrnn.runs.options import Workdir
from jaxrnn.runs.trained import Run
from jaxrnn.tasks import LanguageModelling, Regression

_AT_ONCE = 1000  # files


@dataclass(frozen=True)
class Predict(Group):
    """Predict with a stored run, and print a line for each example."""

    workdir: Workdir
    """Directory of the run."""
    files: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE…")]]
    """Pictures, texts, .npy or IDX files, directories of them, or - for standard input."""
    json: bool = False
    """Print one JSON object for each example."""
    top: Count = 2
    """Number of classes to print, most likely first."""
    best: bool = False
    """Use the best epoch instead of the last."""
    member: Annotated[int, Ge(0)] | None = None
    """Index of one of several networks, from 0; None to average over all of them."""
    ink: Literal["auto", "bright", "dark"] = "auto"
    """Digits: whether ink is brighter or darker than the paper; auto decides by the border."""
    as_is: bool = False
    """Pictures: read them unchanged; they must have the size of the training images."""
    sample: Annotated[int, Ge(0)] = 0
    """Language modelling: number of tokens to continue each text by."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the sampled tokens."""


def predict_files(run: Run, options: Predict) -> bool:
    """Print what a run predicts for files; returns whether all of them could be read.

    Raises:
      ValueError: an option doesn't fit the run.
    """
    if options.sample and not isinstance(run.experiment.task, LanguageModelling):
        raise ValueError("--sample needs a language model")
    run.network(options.member)  # raises if there is no such member
    whole = True
    for examples in _in_batches(read_files(options.files, choose_reader(run, options))):
        good = [
            (name, example) for name, example in examples if not isinstance(example, ValueError)
        ]
        answers = iter(_answers(run, [example for _, example in good], options))
        for name, example in examples:
            answer = example if isinstance(example, ValueError) else next(answers)
            if isinstance(answer, ValueError):
                whole = False
                print(f"error: {name}: {' '.join(str(answer).split())}", file=sys.stderr)
            elif options.json:
                print(json.dumps({"file": name, **answer}))
            else:
                print(f"{name}: {_in_words(answer)}")
        print(end="", flush=True)
    return whole


def choose_reader(run: Run, options: Predict) -> Reader:
    """Choose how to read files as inputs of the network.

    Raises:
      ValueError: the size of its images is not known.
    """
    names_are_text = all(len(name) == 1 for name in run.class_names)
    if isinstance(run.experiment.task, LanguageModelling) and names_are_text:
        return text_reader(run.class_names)
    if not run.pixels:
        return array_reader(len(run.input_shape))
    data, time = run.experiment.data, run.input_shape[0]
    images = isinstance(data, ImageSequences)
    as_inputs = data.as_inputs if images else lambda image: as_sequences(image, time)
    return picture_reader(
        image_shape(run),
        digits=images and data.name == "mnist",
        ink=options.ink,
        as_is=options.as_is,
        as_inputs=as_inputs,
    )


def image_shape(run: Run) -> tuple[int, int, int]:
    """(height, width, channels) of the images that a network was trained on.

    Raises:
      ValueError: they were not read row by row, and are not square.
    """
    time, features = run.input_shape
    if getattr(run.experiment.data, "rows", None) is None:
        return time, features // run.channels, run.channels
    side = math.isqrt(time * features // run.channels)
    if side * side * run.channels != time * features:
        raise ValueError("the images of this run are not square, so their size is unknown")
    return side, side, run.channels


def _in_batches(examples: Iterator[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for example in examples:
        batch.append(example)
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _answers(run: Run, examples: Sequence[np.ndarray], options: Predict) -> Iterator[Any]:
    """What the network predicts for each example, or a ``ValueError``."""
    if not examples:
        return
    lengths = np.array([len(example) for example in examples], np.int32)
    same = len(set(lengths.tolist())) == 1
    try:
        if not (same or run.takes_lengths):
            raise ValueError("the network reads sequences of one length at a time")
        inputs = np.stack([_padded(example, lengths.max()) for example in examples])
        outputs = run.predict(inputs, None if same else lengths, member=options.member)
    except ValueError as error:
        if len(examples) == 1:
            yield error
            return
        for example in examples:  # a bad one must not affect the others
            yield from _answers(run, [example], options)
        return
    for example, output in zip(examples, outputs, strict=True):
        per_step = output.ndim > 1
        yield _answer(run, example, output[: len(example)] if per_step else output, options)


def _padded(example: np.ndarray, time: int) -> np.ndarray:
    return np.pad(example, [(0, time - len(example)), *[(0, 0)] * (example.ndim - 1)])


def _answer(run: Run, example: np.ndarray, output: np.ndarray, options: Predict) -> Any:
    """The answer that the outputs for one example give, as JSON."""
    task = run.experiment.task
    if isinstance(task, Regression) or not run.class_names:
        return {"outputs": output.tolist()}
    if isinstance(task, LanguageModelling):
        if options.sample:
            key = jax.random.key(options.seed)
            state = run.network(options.member or 0)
            tokens = np.asarray(generate(state, example, key, count=options.sample))
            return {"continuation": "".join(run.class_names[token] for token in tokens)}
        output = output[-1]
    probabilities = np.asarray(jax.nn.softmax(output))
    if probabilities.ndim > 1:  # a class for each time step
        likeliest = probabilities.argmax(-1)
        classes = [run.class_names[one] for one in likeliest]
        return {"classes": classes, "probabilities": probabilities.max(-1).tolist()}
    top = np.argsort(-probabilities, kind="stable")[: options.top]
    named = [[run.class_names[one], float(probabilities[one])] for one in top]
    return {"class": named[0][0], "probability": named[0][1], "top": named}


def _in_words(answer: Mapping[str, Any]) -> str:
    """An answer as one line."""
    if "outputs" in answer:
        return " ".join(f"{number:.6g}" for number in np.ravel(answer["outputs"]))
    if "continuation" in answer:
        return json.dumps(answer["continuation"], ensure_ascii=False)
    if "classes" in answer:
        return " ".join(answer["classes"])
    return ", ".join(f"{_quoted(name)} {probability:.4f}" for name, probability in answer["top"])


def _quoted(name: str) -> str:
    return name if name.isprintable() and name.strip() else repr(name)
