"""Count what one training step of a compiled program launches, from its optimized HLO."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Instructions that only name, group or reserve buffers.
_FREE = {
    *("after-all", "bitcast", "constant", "get-tuple-element", "opt-barrier", "parameter"),
    *("partition-id", "replica-id", "tuple"),
}
_COLLECTIVES = {*("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")}


@dataclass(frozen=True)
class Instruction:
    """A line of HLO: ``name = shape opcode(operands), attributes``."""

    name: str
    shape: str
    opcode: str
    rest: str
    """Operands and attributes."""

    @property
    def is_launched(self) -> bool:
        """Whether the device launches it separately, as a kernel, copy or library call.

        Scalar instructions count only if they are fusions, copies or collectives: a TPU computes
        the others on its scalar core, and GPU programs have no others.
        """
        if self.opcode in _FREE or self.opcode.endswith("-done"):
            return False
        if self.opcode == "copy":
            return "S(6)" not in self.shape  # the scalar memory of a TPU
        if self.opcode == "custom-call":
            return "AllocateBuffer" not in self.rest
        scalar = re.fullmatch(r"\w+\[\](\{.*\})?", self.shape) is not None
        return not scalar or self.opcode == "fusion" or self.is_collective

    @property
    def is_collective(self) -> bool:
        """Whether devices exchange data."""
        return self.opcode.removesuffix("-start") in _COLLECTIVES

    def called(self, attribute: str) -> str:
        """Return the name of the computation in an attribute such as ``body``."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""


@dataclass(frozen=True)
class Module:
    """The computations of a program by name, and the name of its entry computation."""

    computations: dict[str, list[Instruction]]
    entry: str

    def trips(self, loop: Instruction) -> int:
        """Return the trip count of a loop: XLA's annotation, or the constant in its condition.

        Raises:
          ValueError: neither is known.
        """
        noted = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
        if noted:
            return int(noted[1])
        condition = self.computations[loop.called("condition")]
        bounds = [line for line in condition if line.opcode == "constant"]
        if len(bounds) != 1:
            raise ValueError(f"the number of iterations of {loop.name} is unknown")
        return int(bounds[0].rest.partition(")")[0])

    def step(self, steps: int) -> list[tuple[int, Instruction]]:
        """Return what a training step launches, and how often, in a program of ``steps`` steps.

        Raises:
          ValueError: the program has no loop of that many iterations.
        """
        for line in self.computations[self.entry]:
            if line.opcode == "while" and self.trips(line) == steps:
                return list(self._launched(line.called("body"), 1))
        raise ValueError(f"the program has no loop of {steps} steps")

    def _launched(self, computation: str, times: int) -> Iterator[tuple[int, Instruction]]:
        for line in self.computations[computation]:
            if line.opcode == "while":
                yield from self._launched(line.called("body"), times * self.trips(line))
            elif line.opcode == "call":
                yield from self._launched(line.called("to_apply"), times)
            elif line.is_launched:
                yield times, line


def parse(text: str) -> Module:
    """Parse the text of an HLO module."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", []
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        # Shapes of tuples hold spaces, but no word before a parenthesis.
        body = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$", line)
        if body:
            current.append(Instruction(*body.groups()))
    return Module(computations, entry)
