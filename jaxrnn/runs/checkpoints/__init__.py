from jaxrnn.runs.checkpoints.store import Checkpoints

__all__ = ["Checkpoints"]
