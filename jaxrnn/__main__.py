"""List the experiments and show how to write one: ``python -m jaxrnn``."""

import importlib.util
import runpy

PAGE = '''\
"""Classify images that are read row by row."""

from dataclasses import dataclass

from jaxrnn import Experiment, ImageSequences, RNNConfig, main


@dataclass(frozen=True, kw_only=True)
class Images(Experiment):
    """A recurrent network that reads images."""

    data: ImageSequences = ImageSequences(name="mnist")
    model: RNNConfig = RNNConfig(hidden=64)


if __name__ == "__main__":
    main({"small": Images()}, default="small", description=__doc__)
'''

if __name__ == "__main__":
    # A wheel holds the experiments inside the package, the repository beside it.
    for name in ("jaxrnn.experiments", "experiments"):
        if importlib.util.find_spec(name) and importlib.util.find_spec(f"{name}.mnist_rnn"):
            runpy.run_module(name, run_name="__main__")
            print()
            break
    print("To write one: save this as FILE.py, and run python FILE.py --help.\n")
    print(PAGE, end="")
