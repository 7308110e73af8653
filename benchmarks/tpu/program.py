"""Memory traffic and communication of a program compiled for TPU, read from its text (`compiled.as_text()`).

Each instruction of the entry computation reads its operands from memory (HBM) and writes its results to it
once; values inside a fusion stay on the chip. So

    bytes = sum over instructions of the padded sizes of operands and results

An array is padded to the tiles of its layout: f32[64,257]{1,0:T(8,128)} has 64 x 384 elements. Arrays in
other memory (layouts with S(1) and so on) cost nothing, but a copy to that memory (`copy-start`) counts once.
An operand that is read in part counts in full.

In a ring of n devices, each device sends, for results (in a reduce-scatter: operands) of R bytes:

    all-reduce                                 2 (n - 1) / n R
    all-gather, reduce-scatter, all-to-all     (n - 1) / n R
    collective-permute                         R
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_SIZES = {
    **{"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "s64": 8, "u64": 8},
    **{"bf16": 2, "f16": 2, "f32": 4, "f64": 8},
}
_ARRAY = re.compile(rf"\b({'|'.join(_SIZES)})\[([\d,]*)\](?:\{{([^}}]*)\}})?")
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
# Instructions that move no data: names and views.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: name of the result.
        shape: type of the result, with layouts.
        kind: opcode, such as "fusion".
        rest: text after the opening parenthesis.
    """

    name: str
    shape: str
    kind: str
    rest: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.split(")")[0])

    @property
    def source(self) -> str:
        """Location in the model, with block_N for every block."""
        named = re.search(r'op_name="([^"]*)"', self.rest)
        return re.sub(r"block_\d+", "block_N", named[1]) if named else ""


def instructions(text: str) -> Iterator[Instruction]:
    """Instructions of all computations in a program's text."""
    for line in text.splitlines():
        found = _INSTRUCTION.match(line)
        if found:
            yield Instruction(*found.groups())


def entry(text: str) -> list[Instruction]:
    """Instructions of the entry computation."""
    start = text.index("\nENTRY ") if not text.startswith("ENTRY ") else 0
    return list(instructions(text[start:].partition("\n}")[0]))


def padded_bytes(shape: str, everywhere: bool = False) -> int:
    """Bytes of the arrays of a type in HBM, padded to tiles; with `everywhere` in any memory."""
    total = 0
    for dtype, sides, layout in _ARRAY.findall(shape):
        if "S(" in layout and not everywhere:
            continue
        sizes = [int(side) for side in sides.split(",") if side]
        order, _, tiling = layout.partition(":")
        tile = re.match(r"T\(([\d,]+)\)", tiling)
        if tile and sizes:
            minor_first = [int(axis) for axis in order.split(",")]
            lengths = [int(length) for length in tile[1].split(",")]
            for axis, length in zip(minor_first, reversed(lengths), strict=False):
                sizes[axis] = -(-sizes[axis] // length) * length
        total += math.prod(sizes) * _SIZES[dtype]
    return total


def traffic(text: str) -> dict[str, int]:
    """Bytes that each instruction of the entry computation moves, by name."""
    sizes, moved = {}, {}
    for one in entry(text):
        sizes[one.name] = padded_bytes(one.shape)
        if one.kind in _FREE or one.kind.endswith("-done"):
            continue
        if one.kind in ("copy-start", "slice-start", "async-start"):
            moved[one.name] = _copied_bytes(one.shape)
        elif one.kind.endswith("-start") and one.kind != "all-reduce-start":
            moved[one.name] = sizes[one.name]  # the type has operands and results
        else:
            moved[one.name] = sizes[one.name] + sum(sizes.get(name, 0) for name in one.operands)
    return moved


def _copied_bytes(shape: str) -> int:
    """Bytes moved by an asynchronous copy: its array on the chip, or all its arrays if none is there."""
    on_chip = [found[0] for found in _ARRAY.finditer(shape) if "S(" in (found[3] or "")]
    arrays = [padded_bytes(array, everywhere=True) for array in on_chip]
    return max(arrays) if arrays and max(arrays) > 4 else padded_bytes(shape)


def largest(text: str, count: int) -> list[tuple[str, int, int]]:
    """Groups of instructions that move most data: (kind and source, number of instructions, bytes)."""
    moved, numbers = Counter[str](), Counter[str]()
    by_name = traffic(text)
    for one in entry(text):
        if one.name in by_name:
            group = f"{one.kind} {re.sub(r'[0-9]+', '#', one.source)[-100:]}"
            moved[group] += by_name[one.name]
            numbers[group] += 1
    return [(group, numbers[group], size) for group, size in moved.most_common(count)]


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """Number of collectives of each kind in a program, and the bytes that a device sends for them."""
    found: dict[str, tuple[int, int]] = {}
    sizes = {}
    for one in instructions(text):
        sizes[one.name] = _plain_bytes(one.shape)
        kind = one.kind.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        if kind == "reduce-scatter":
            size = sum(sizes.get(name, 0) for name in one.operands)
        elif one.kind == "all-reduce-start" or not one.kind.endswith("-start"):
            size = sizes[one.name]
        else:  # (operands, results, ...)
            size = max(_plain_bytes(array[0]) for array in _ARRAY.finditer(one.shape))
        share = 1.0  # a collective-permute sends everything
        if kind != "collective-permute":
            devices = _group_size(one.rest)
            share = (devices - 1) / devices
        number, sent = found.get(kind, (0, 0))
        passes = 2 if kind == "all-reduce" else 1
        found[kind] = (number + 1, sent + round(passes * share * size))
    return found


def _plain_bytes(shape: str) -> int:
    return padded_bytes(re.sub(r"\{[^}]*\}", "", shape))


def _group_size(rest: str) -> int:
    """Number of devices in one group of a collective.

    The text has one of three forms: {{0,1},{2,3}}, its short form [2,2]<=[4], or mesh['a'=2,'b'=2] {'b'}
    (groups of devices that differ in these axes only, maybe with the order of the devices before the braces).

    Raises:
        ValueError: the text has another form.
    """
    if short := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(short[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(listed[1].split(","))
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = dict(axis.split("=") for axis in mesh[1].split(","))
        return math.prod(int(sizes[axis]) for axis in mesh[2].split(","))
    raise ValueError(f"Groups of devices in an unknown form: {rest[:200]}")
