"""The predict verb: what a stored run predicts for files."""

import json
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from annotated_types import Ge

from jaxrnn.data.pictures import fit_picture
from jaxrnn.files import Json
from jaxrnn.groups import Count, Group
from jaxrnn.runs.options import Workdir
from jaxrnn.runs.results import draw_sample
from jaxrnn.runs.trained import Ensemble, Run
from jaxrnn.runs.verbs.reading import Reader, array_reader, image_reader, read_files
from jaxrnn.training import LanguageModeling


@dataclass(frozen=True)
class Predict(Group):
    """Predict with a stored run, and print a line for each example."""

    workdir: Workdir
    """Directory of the run, or of a sweep, whose runs predict together."""
    files: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE…")]] = ()
    """Pictures, texts, .npy or IDX files, directories of them, or - for standard input."""
    json: bool = False
    """Print one JSON object for each example."""
    top: Count = 2
    """Number of classes to print, most likely first."""
    best: bool = False
    """Use the best epoch instead of the last."""
    as_is: bool = False
    """Pictures: read them unchanged; they must have the size of the training images."""
    sample: Annotated[int, Ge(0)] = 0
    """Language modeling: number of tokens to continue each text by."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the sampled tokens."""

    def reader(self, run: Run) -> Reader:
        """Return the reader of files; a page may override this."""
        if shape := run.image_shape:
            data = run.experiment.data
            fit = partial(
                fit_picture, shape=shape, resize=not self.as_is, background=data.background
            )
            is_folder = re.match(r"[.~]|.*/", data.name) and not data.name.lower().endswith(".npz")
            picture_max = run.pixel_max if is_folder else 255
            return image_reader(shape, fit, data.as_inputs, run.pixel_max, picture_max)
        if self.as_is:
            raise ValueError("--as-is requires a network that reads images")
        is_text = isinstance(run.experiment.task, LanguageModeling) and all(
            len(name) == 1 for name in run.class_names
        )
        return array_reader(run.input_shape, run.class_names if is_text else ())


def predict_files(run: Run, options: Predict) -> bool:
    """Print what a run predicts for files; returns whether all of them could be read."""
    if options.sample and not isinstance(run.experiment.task, LanguageModeling):
        raise ValueError("--sample needs a language model")
    if options.sample and isinstance(run, Ensemble):
        raise ValueError("--sample needs one network; give the directory of one run of the sweep")
    reader = options.reader(run)

    def convert(item: Path | np.ndarray) -> np.ndarray:
        inputs = reader.convert(item)
        run.split_of(inputs[None])  # raises if the network can't read it
        return inputs

    complete = True
    for examples in read_files(options.files, Reader(convert, reader.is_single)):
        good = [example for example in examples.values() if not isinstance(example, ValueError)]
        outputs = iter([] if options.sample or not good else _outputs(run, np.stack(good)))
        for name, example in zip(map(quoted, examples), examples.values(), strict=True):
            if isinstance(example, ValueError):
                complete = False
                print(f"error: {name}: {' '.join(str(example).split())}", file=sys.stderr)
                continue
            if options.sample:
                count, seed = options.sample, options.seed
                text = draw_sample(run.network, run.class_names, count, seed, example)
                answer: Json = {"continuation": text}
                words = json.dumps(text, ensure_ascii=False)
            else:
                answer, words = _answer(run, next(outputs), options.top)
            line = json.dumps({"file": name, **answer}) if options.json else f"{name}: {words}"
            print(line, flush=True)
    return complete


def _outputs(run: Run, inputs: np.ndarray) -> np.ndarray:
    """Compute the outputs for a batch, padded to one of few lengths, to compile for few."""
    if run.pixels or "lengths" not in run.state.takes:
        return run.predict(inputs)
    count, time = inputs.shape[:2]
    padding = (1 << (time - 1).bit_length()) - time
    padded = np.pad(inputs, [(0, 0), (0, padding), *[(0, 0)] * (inputs.ndim - 2)])
    outputs = run.predict(padded, np.full(count, time, np.int32))
    return outputs[:, :time] if outputs.ndim > 2 else outputs


def _answer(run: Run, output: np.ndarray, count: int) -> tuple[Json, str]:
    """Return the answer for one example, with the ``count`` likeliest classes, as JSON and text."""
    names = run.class_names
    if not names:
        return {"outputs": output.tolist()}, " ".join(f"{x:.6g}" for x in output.ravel().tolist())
    if isinstance(run.experiment.task, LanguageModeling):
        output = output[-1]
    probabilities = np.asarray(jax.nn.softmax(output))
    if probabilities.ndim > 1:  # a class for each time step
        classes = [names[label] for label in probabilities.argmax(-1)]
        answer = {"classes": classes, "probabilities": probabilities.max(-1).tolist()}
        return answer, " ".join(classes)
    likeliest = np.argsort(-probabilities, kind="stable")[:count]
    top = [[names[label], float(probabilities[label])] for label in likeliest]
    words = ", ".join(f"{quoted(name)} {probability:.4f}" for name, probability in top)
    return {"class": top[0][0], "probability": top[0][1], "top": top}, words


def quoted(name: str) -> str:
    """Return a name, quoted unless it is printable."""
    return name if name.isprintable() and name.strip() else repr(name)
