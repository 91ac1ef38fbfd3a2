"""Count what one training step of a compiled program does, from the text of its optimized HLO."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

# What only names, groups or reserves buffers.
_FREE = {
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
}
_COLLECTIVES = {
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
}
_BITS = {"pred": 8, "s4": 4, "u4": 4, "token": 0}  # others have them in their name
_SLICES = {"dynamic-slice", "gather", "slice"}


@dataclass(frozen=True)
class Instruction:
    """One line of HLO: ``name = shape opcode(operands), attributes``."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def is_launched(self) -> bool:
        """Whether the device launches it separately, as a kernel, copy or library call.

        Scalar instructions don't count unless they are fusions, copies or collectives: a TPU
        computes the others on its scalar core, and GPU programs have no others.
        """
        if self.opcode in _FREE or self.opcode.endswith("-done"):
            return False
        if self.opcode == "copy":
            return "S(6)" not in self.shape  # the scalar memory of a TPU
        if self.opcode == "custom-call":
            return "AllocateBuffer" not in self.attributes
        scalar = re.fullmatch(r"\w+\[\](\{.*\})?", self.shape) is not None
        return not scalar or self.opcode == "fusion" or self.is_collective

    @property
    def is_collective(self) -> bool:
        """Whether devices exchange data."""
        return self.opcode.removesuffix("-start") in _COLLECTIVES

    def called(self, attribute: str) -> str | None:
        """The name of a computation in the attributes, such as ``body``."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else None


@dataclass(frozen=True)
class Module:
    """The computations of a program by name, and the name of the one that is run."""

    computations: dict[str, list[Instruction]]
    entry: str

    @cached_property
    def instructions(self) -> dict[str, Instruction]:
        """All instructions by name; names are unique in a module."""
        return {one.name: one for lines in self.computations.values() for one in lines}

    def trips(self, loop: Instruction) -> int:
        """Number of iterations of a loop: as noted by XLA, or the constant in its condition.

        Raises:
          ValueError: neither is known.
        """
        noted = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if noted:
            return int(noted[1])
        condition = self.computations[loop.called("condition") or ""]
        bounds = [one for one in condition if one.opcode == "constant"]
        if len(bounds) != 1:
            raise ValueError(f"the number of iterations of {loop.name} is unknown")
        return int(re.sub(r"\D.*", "", bounds[0].attributes))

    def step(self, steps: int) -> list[tuple[int, Instruction]]:
        """What one training step launches, and how often, in a program of ``steps`` steps.

        Raises:
          ValueError: the program has no loop of so many iterations.
        """
        for one in self.computations[self.entry]:
            if one.opcode == "while" and self.trips(one) == steps:
                return list(self._launched(one.called("body") or "", 1))
        raise ValueError(f"the program has no loop of {steps} steps")

    def _launched(self, computation: str, times: int) -> Iterator[tuple[int, Instruction]]:
        for one in self.computations[computation]:
            if one.opcode == "while":
                yield from self._launched(one.called("body") or "", times * self.trips(one))
            elif one.opcode == "call":
                yield from self._launched(one.called("to_apply") or "", times)
            elif one.is_launched:
                yield times, one

    def traffic(self, one: Instruction) -> int:
        """Bytes that an instruction reads from and writes to main memory.

        An operand of which only slices are used counts as the size of those slices. Accesses that a
        GPU serves from its caches count; those to a TPU's vector memory, which XLA manages, don't.
        """
        fused = self.computations[one.called("calls") or ""] if one.opcode == "fusion" else [one]
        inside = {parameter_number(line): line for line in fused if line.opcode == "parameter"}
        total = 0
        for number, name in enumerate(one.operands):
            outer = self.instructions[name]
            if is_in_main_memory(outer.shape):
                total += self._read(inside.get(number, outer), fused)
        return total + self._written(one, fused)

    def _read(self, source: Instruction, fused: list[Instruction]) -> int:
        users = [one for one in fused if source.name in one.operands]
        partly = 0
        for user in users:
            first = user.operands[0] == source.name
            if user.opcode == "bitcast":
                partly += self._read(user, fused)
            elif user.opcode in _SLICES and first:
                partly += size(user.shape)
            elif not (user.opcode == "dynamic-update-slice" and first):
                return size(source.shape)
        return min(partly, size(source.shape))

    def _written(self, one: Instruction, fused: list[Instruction]) -> int:
        if not is_in_main_memory(one.shape):
            return 0
        names = {line.name: line for line in fused}
        root = fused[-1]
        roots = (
            [names.get(name, root) for name in root.operands] if root.opcode == "tuple" else [root]
        )
        total = 0
        for line in roots:
            while line.opcode == "bitcast" and line.operands[0] in names:
                line = names[line.operands[0]]
            if line.opcode == "dynamic-update-slice":
                line = self.instructions[line.operands[1]]
            total += size(line.shape)
        return total


def parse(text: str) -> Module:
    """Read the text of an HLO module."""
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
            name, shape, opcode, rest = body.groups()
            inside, _, attributes = rest.partition(")")
            operands = tuple(re.findall(r"%([\w.\-]+)", inside))
            literal = inside if opcode in ("constant", "parameter") else ""
            current.append(Instruction(name, shape, opcode, operands, literal + attributes))
    return Module(computations, entry)


def parameter_number(parameter: Instruction) -> int:
    """The number of a parameter of its computation."""
    return int(re.match(r"\d+", parameter.attributes)[0])  # type: ignore[index]


def size(shape: str) -> int:
    """Bytes of an array or of a tuple of arrays, such as ``f32[150,10]{1,0}``."""
    total = 0
    for kind, axes in re.findall(r"(\w+)\[([\d,]*)\]", shape):
        bits = _BITS[kind] if kind in _BITS else int(re.search(r"\d+", kind)[0])  # type: ignore[index]
        total += math.prod(int(axis) for axis in axes.split(",") if axis) * bits // 8
    return total


def is_in_main_memory(shape: str) -> bool:
    """Whether a buffer is in main memory: on a TPU, space 1 is the vector memory of a core."""
    return "S(1)" not in shape
