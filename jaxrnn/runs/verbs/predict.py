"""The predict verb: what a stored run predicts for files."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from annotated_types import Ge

from jaxrnn.data.files import Reader, array_reader, picture_reader, read_files, text_reader
from jaxrnn.groups import Count, Group
from jaxrnn.runs.options import Workdir
from jaxrnn.runs.trained import Run
from jaxrnn.training.evaluation import generate
from jaxrnn.training.tasks import LanguageModeling

_STEPS = 100_000  # time steps of a batch; bounds memory


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
    """Language modeling: number of tokens to continue each text by."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the sampled tokens."""


def predict_files(run: Run, options: Predict) -> bool:
    """Print what a run predicts for files; returns whether all of them could be read.

    Raises:
      ValueError: an option doesn't fit the run.
    """
    _check_options(run, options)
    whole = True
    for examples in _in_batches(
        _checked(run, read_files(options.files, choose_reader(run, options)))
    ):
        for name, answer in _answers(run, examples, options):
            name = quoted(name)
            if isinstance(answer, ValueError):
                whole = False
                print(f"error: {name}: {' '.join(str(answer).split())}", file=sys.stderr)
            elif options.json:
                print(json.dumps({"file": name, **answer}))
            else:
                print(f"{name}: {_in_words(answer)}")
        print(end="", flush=True)
    return whole


def _check_options(run: Run, options: Predict) -> None:
    """Raise ``ValueError`` for options that can't have an effect on this run."""
    run.network(options.member)  # raises if there is no such member
    if options.sample and not isinstance(run.experiment.task, LanguageModeling):
        raise ValueError("--sample needs a language model")
    if options.sample and run.networks > 1 and options.member is None:
        raise ValueError(f"--sample needs one network: --member 0 … {run.networks - 1}")
    if options.as_is and run.image_shape is None:
        raise ValueError("--as-is needs a network that reads images")
    if options.ink != "auto" and not run.reads_digits:
        raise ValueError("--ink needs a network that reads digits of 28 × 28 pixels")


def choose_reader(run: Run, options: Predict) -> Reader:
    """Choose how to read files as inputs of the network."""
    names_are_text = all(len(name) == 1 for name in run.class_names)
    if isinstance(run.experiment.task, LanguageModeling) and names_are_text:
        return text_reader(run.class_names)
    if run.image_shape is None:
        return array_reader(len(run.input_shape))
    return picture_reader(
        run.image_shape,
        digits=run.reads_digits,
        ink=options.ink,
        as_is=options.as_is,
        as_inputs=run.experiment.data.as_inputs,
    )


def _checked(run: Run, examples: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The examples, with an error in place of those that the network can't read."""
    for name, example in examples:
        try:
            if not isinstance(example, ValueError):
                run.split_of(example[None])
            yield name, example
        except ValueError as error:
            yield name, error


def _in_batches(examples: Iterator[tuple[str, Any]]) -> Iterator[list[tuple[str, Any]]]:
    """Lists of examples that have at most ``_STEPS`` time steps when padded to the longest."""
    batch: list[tuple[str, Any]] = []
    longest = 1
    for name, example in examples:
        length = 1 if isinstance(example, ValueError) else len(example)
        if batch and (len(batch) + 1) * max(longest, length) > _STEPS:
            yield batch
            batch, longest = [], 1
        batch.append((name, example))
        longest = max(longest, length)
    if batch:
        yield batch


def _answers(
    run: Run, examples: Sequence[tuple[str, Any]], options: Predict
) -> Iterator[tuple[str, Any]]:
    """The name of each example, and what the network predicts for it or a ``ValueError``."""
    good = [example for _, example in examples if not isinstance(example, ValueError)]
    if options.sample:
        outputs: Iterator[Any] = (_continue(run, example, options) for example in good)
    else:
        outputs = (_answer(run, output, options) for output in _outputs(run, good, options.member))
    for name, example in examples:
        yield name, example if isinstance(example, ValueError) else next(outputs)


def _outputs(run: Run, examples: Sequence[np.ndarray], member: int | None) -> Iterator[np.ndarray]:
    """The outputs for each example, computed together if the network can be told their lengths."""
    lengths = np.array([len(example) for example in examples], np.int32)
    if len({*lengths.tolist()}) == 1:
        yield from run.predict(np.stack(examples), member=member)
    elif run.takes_lengths and examples:
        time = 1 << int(lengths.max() - 1).bit_length()  # few sizes, so that few are compiled
        inputs = np.stack([_padded(example, time) for example in examples])
        for output, length in zip(
            run.predict(inputs, lengths, member=member), lengths, strict=True
        ):
            yield output[:length] if output.ndim > 1 else output
    else:
        for example in examples:
            yield run.predict(example[None], member=member)[0]


def _padded(example: np.ndarray, time: int) -> np.ndarray:
    return np.pad(example, [(0, time - len(example)), *[(0, 0)] * (example.ndim - 1)])


def _continue(run: Run, example: np.ndarray, options: Predict) -> dict[str, Any]:
    """How a language model continues a text."""
    key, state = jax.random.key(options.seed), run.network(options.member or 0)
    tokens = np.asarray(generate(state, example, key, count=options.sample))
    return {"continuation": "".join(run.class_names[token] for token in tokens)}


def _answer(run: Run, output: np.ndarray, options: Predict) -> Any:
    """What the outputs for one example say, as JSON, or a ``ValueError``."""
    if not np.isfinite(output).all():
        return ValueError("the outputs of the network are not finite")
    if not run.class_names:
        return {"outputs": output.tolist()}
    if isinstance(run.experiment.task, LanguageModeling):
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
    return ", ".join(f"{quoted(name)} {probability:.4f}" for name, probability in answer["top"])


def quoted(name: str) -> str:
    """A name in one line, as itself if all of it can be seen."""
    return name if name.isprintable() and name.strip() else repr(name)
