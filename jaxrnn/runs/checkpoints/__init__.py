"""Checkpoints: save and restore a run, so that it resumes bit for bit.

They are written by Orbax's ``Checkpointer``, in a thread of our own. With Orbax 0.12.8, a
``CheckpointManager`` with ``lightweight_initialize`` and preservation policies doesn't know the
metrics of earlier checkpoints after it is reopened, so it deletes nothing any more; it prints
tracebacks from its threads if the disk is full, and recreates a directory that was deleted. The v1
training ``Checkpointer`` can't save at all after it was reopened that way.
"""

from jaxrnn.runs.checkpoints.store import Checkpoints

__all__ = ["Checkpoints"]
