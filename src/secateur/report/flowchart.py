"""Where a network's picture puts things: rows for its parts, and at their left the ways results take between them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, groupby

from secateur.graph.outline import Part
from secateur.report.parts import NetworkPart

__all__ = ["Edge", "Flowchart", "Row", "flowchart", "section_of"]

HEIGHTS = {Part.INPUT: 20, Part.LAYER: 22, Part.JOIN: 16, Part.OUTPUT: 20}
"""Pixels of a row."""

HEADING = 26
"""Pixels of the name of a section."""

_WIDEST = 64
"""Pixels that all lanes together take at most: a phone has 390."""

_LANE, _MARGIN, _BEND = 9.0, 8, 7


@dataclass(frozen=True)
class Row:
    """One line of the picture.

    Attributes:
        number: Of the part; −1 for the heading of a section.
        label: The name without that of its section, of what is no layer the operator; of a heading, the section's name.
        y: Middle of the row, in pixels.
        height: Pixels.
    """

    number: int
    label: str
    y: float
    height: int


@dataclass(frozen=True)
class Edge:
    """The way of one part's result to others: an SVG path, and the part that it comes from."""

    source: int
    path: str


@dataclass(frozen=True)
class Flowchart:
    """The whole picture.

    Attributes:
        rows: From the input to the output.
        edges: Between their dots.
        x: Of all dots, in pixels.
        width: Pixels that dots and lanes take.
        height: Pixels of all rows.
    """

    rows: tuple[Row, ...]
    edges: tuple[Edge, ...]
    x: float
    width: float
    height: int


def flowchart(parts: Sequence[NetworkPart]) -> Flowchart:
    """Lays a network out: one row for each part, sections by module, a lane for each result that skips rows.

    Results that go to the next row go straight down. All others go down a lane at the left, one lane for all that read
    the same result; the shorter its way, the nearer to the dots.
    """
    rows = _rows(parts)
    at = {row.number: row.y for row in rows if row.number >= 0}
    skips = {s: targets for s in range(len(parts)) if (targets := _targets(parts, s))}
    lanes = _lanes({s: targets[-1] for s, targets in skips.items()})
    many = 1 + max(lanes.values(), default=-1)
    step = min(_LANE, _WIDEST / max(1, many))
    x = _MARGIN + many * step
    edges = [Edge(k, f"M{x:g} {at[k]:g}V{at[k + 1]:g}") for k in range(len(parts) - 1) if k in parts[k + 1].sources]
    edges += [Edge(s, _path(x, x - (1 + lanes[s]) * step, at[s], [at[t] for t in ts])) for s, ts in skips.items()]
    return Flowchart(tuple(rows), tuple(edges), x, x + _MARGIN, sum(row.height for row in rows))


def section_of(name: str) -> str:
    """The module that a part is shown under: down to the first name that ends in a number and holds more.

    >>> [section_of(n) for n in ("layer1.0.conv1", "features.12.block.1", "encoder.layers.layer_0.mlp.3", "fc", "a.b")]
    ['layer1', 'features.12', 'encoder.layers.layer_0', '', 'a']
    """
    path = name.split(".")[:-1]
    numbered = next((k for k, part in enumerate(path, start=1) if re.search(r"\d$", part)), len(path))
    return ".".join(path[:numbered])


def _rows(parts: Sequence[NetworkPart]) -> list[Row]:
    rows: list[Row] = []
    sections, named = _sections(parts), Counter(part.name for part in parts if part.part is Part.LAYER)
    top, before = 0, ""
    for number, (part, section) in enumerate(zip(parts, sections, strict=True)):
        if section and section != before:
            rows.append(Row(-1, section, top + HEADING / 2, HEADING))
            top += HEADING
        before, height = section, HEIGHTS[part.part]
        label = part.name.removeprefix(f"{section}.") if section else part.name
        if part.part is not Part.LAYER:
            label = part.operator
        elif named[part.name] > 1 or not label:
            label = f"{label} ({part.operator})".strip()
        rows.append(Row(number, label, top + height / 2, height))
        top += height
    return rows


def _sections(parts: Sequence[NetworkPart]) -> list[str]:
    """The section of every part: joins stay in that of the layer before; one with a single layer is none."""
    found: list[str] = []
    for part in parts:
        join = part.part is Part.JOIN and found
        found.append(found[-1] if join else section_of(part.name) if part.part is Part.LAYER else "")
    runs = [list(run) for _, run in groupby(range(len(parts)), key=lambda k: found[k])]
    for run in runs:
        if sum(parts[k].part is Part.LAYER for k in run) < 2:
            for k in run:
                found[k] = ""
    return found


def _targets(parts: Sequence[NetworkPart], source: int) -> list[int]:
    """Parts that read a result and are not the next one."""
    return [k for k in range(source + 2, len(parts)) if source in parts[k].sources]


def _lanes(ends: dict[int, int]) -> dict[int, int]:
    """A lane for each way from a row to another: the first in which nothing else is between them."""
    taken: list[list[tuple[int, int]]] = []
    found: dict[int, int] = {}
    for start, end in sorted(ends.items(), key=lambda way: way[1] - way[0]):
        lane = next(k for k in count() if k == len(taken) or all(end <= a or b <= start for a, b in taken[k]))
        if lane == len(taken):
            taken.append([])
        taken[lane].append((start, end))
        found[start] = lane
    return found


def _path(x: float, lane: float, start: float, ends: Sequence[float]) -> str:
    """Out to the lane, down it, and back to every reader."""
    last, b = ends[-1], _BEND
    way = f"M{x:g} {start:g}Q{lane:g} {start:g} {lane:g} {start + b:g}V{last - b:g}Q{lane:g} {last:g} {x:g} {last:g}"
    return way + "".join(f"M{lane:g} {end - b:g}Q{lane:g} {end:g} {x:g} {end:g}" for end in ends[:-1])
