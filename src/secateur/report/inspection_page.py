"""One page to look at before a cut: the groups as a picture, costs by layer, curves, and a slider of planned cuts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from secateur.budget.latency.estimate import LatencyEstimate
from secateur.budget.planned import PlannedCut
from secateur.core.files import write_bytes
from secateur.core.tables import plain
from secateur.graph.outline import Part
from secateur.report import words
from secateur.report.flowchart import Flowchart, flowchart
from secateur.report.inspection import Inspection
from secateur.report.page import render
from secateur.report.parts import NetworkPart
from secateur.report.sensitivity import curves_chart
from secateur.report.view import Card, Table
from secateur.runtimes import title_of

__all__ = ["write_inspection"]

_TURN = 137.5
"""Degrees between the hues of one group and the next: neighbours look least alike."""

TITLES = {"local": "The same share of every group", "global": "The lowest scores of all groups"}


@dataclass(frozen=True)
class _LayerRow:
    """A line of the table of costs."""

    name: str
    operator: str
    group: str
    hue: int | None
    channels: str
    params: str
    macs: str
    share: str
    stays: str


@dataclass(frozen=True)
class _Drawn:
    """A line of the picture: a part, or the heading of a section."""

    y: float
    height: int
    label: str
    part: Part | None = None
    group: int = -1
    hue: int | None = None
    pinned: bool = False
    macs_share: str = "0"
    params_share: str = "0"
    cost: str = ""
    title: str = ""


@dataclass(frozen=True)
class _GroupRow:
    """A group, with its width."""

    number: int
    name: str
    layers: int
    units: str
    hue: int | None
    share: str


def write_inspection(found: Inspection, path: str | PathLike[str], command: Sequence[str] = ()) -> Path:
    """Writes the page of an inspection; see :meth:`~secateur.report.inspection.Inspection.save_html`."""
    hues, chart = _hues(found), flowchart(found.parts)
    sensitivity = found.sensitivity
    curves = {"curves": curves_chart(sensitivity)} if sensitivity is not None and sensitivity.curves else {}
    text = render(
        "inspection.html",
        curves,
        title=f"{plain(found.name)} before a cut",
        found=found,
        sensitivity=sensitivity,
        cards=_cards(found),
        chart=chart,
        coloured=bool(hues),
        drawn=[_drawn(found, chart, hues, k) for k in range(len(chart.rows))],
        ways=[(edge.path, hues.get(_group(found.parts[edge.source]))) for edge in chart.edges],
        layers=_layer_rows(found, hues),
        groups=_group_rows(found, hues),
        points=[(TITLES[scope], _points_table(found, cuts)) for scope, cuts in found.plans.items()],
        titles=TITLES,
        latency=None if found.latency is None else _setting(found.latency),
        planned=_planned(found, command),
    )
    return write_bytes(Path(path), text.encode())


# ------------------------------------------------------------------------------------------------------- headline


def _cards(found: Inspection) -> tuple[Card, ...]:
    dense, groups = found.dense, found.analysis.groups
    cards = [
        Card("Parameters", words.count(dense.params), detail=words.exact(dense.params)),
        Card("MACs per sample", words.count(dense.macs), detail="1 MAC = 2 FLOPs"),
        Card("File of weights", words.size(dense.size), detail="safetensors"),
        Card("Units that may go", words.exact(groups.units), detail=f"in {len(groups.items):,} groups"),
    ]
    if found.latency is not None:
        time = words.milliseconds(found.latency.dense_ms)
        cards.append(Card("Time of a call", time, detail=f"measured, {_setting(found.latency)}"))
    return tuple(cards)


def _setting(latency: LatencyEstimate) -> str:
    where = latency.setting
    return f"{title_of(where.runtime)}, batch {where.batch}, {where.threads} thread{'s' * (where.threads != 1)}"


# -------------------------------------------------------------------------------------------------------- picture


def _group(part: NetworkPart) -> int:
    return part.groups[0] if part.groups else -1


def _hues(found: Inspection) -> dict[int, int]:
    """A hue for every group that several parts are of; those of one layer need none to be found again."""
    shared = [
        number for number in range(len(found.analysis.groups.items))
        if sum(part.part is Part.LAYER and _group(part) == number for part in found.parts) > 1
    ]  # fmt: skip
    return {number: round(210 + _TURN * place) % 360 for place, number in enumerate(shared)}


def _drawn(found: Inspection, chart: Flowchart, hues: dict[int, int], place: int) -> _Drawn:
    row = chart.rows[place]
    if row.number < 0:
        return _Drawn(row.y, row.height, plain(row.label))
    part = found.parts[row.number]
    most_macs, most_params = (
        max((getattr(p, name) for p in found.parts), default=0) or 1 for name in ("macs", "params")
    )
    return _Drawn(
        row.y, row.height, plain(row.label), part.part, _group(part), hues.get(_group(part)), part.pinned,
        _percent(part.macs, most_macs), _percent(part.params, most_params),
        words.count(part.macs) if part.part is Part.LAYER else "", _title(found, part),
    )  # fmt: skip


def _percent(value: float, of: float) -> str:
    """The length of a bar."""
    return f"{100 * value / of:.2f}"


def _title(found: Inspection, part: NetworkPart) -> str:
    """What a pointer that rests on a row is told."""
    if part.part in (Part.INPUT, Part.OUTPUT):
        return f"{part.part.value} of the network"
    lines = [f"{part.name or '(top level)'}: {part.operator}, {part.channels:,} channels"]
    if part.part is Part.LAYER:
        lines.append(f"{part.macs:,} MACs, {part.params:,} parameters")
    lines += [f"group {found.analysis.groups.items[number].name}" for number in part.groups[:3]]
    lines += [f"stays: {part.reason}"] * bool(part.reason)
    return plain("; ".join(lines))


# --------------------------------------------------------------------------------------------------------- tables


def _layer_rows(found: Inspection, hues: dict[int, int]) -> list[_LayerRow]:
    total = found.dense.macs or 1
    return [
        _LayerRow(
            plain(part.name or "(top level)"), plain(part.operator), _group_name(found, part), hues.get(_group(part)),
            _channels(part), words.exact(part.params), words.exact(part.macs), f"{100 * part.macs / total:.1f} %",
            plain(part.reason),
        )
        for part in found.parts if part.part is Part.LAYER
    ]  # fmt: skip


def _channels(part: NetworkPart) -> str:
    some = 0 < part.free < part.channels
    return f"{part.channels:,}" + f", {part.free:,} may go" * some


def _group_name(found: Inspection, part: NetworkPart) -> str:
    if not part.groups:
        return "pinned"
    more = len(part.groups) - 1
    return plain(found.analysis.groups.items[part.groups[0]].name) + f" and {more} more" * bool(more)


def _group_rows(found: Inspection, hues: dict[int, int]) -> list[_GroupRow]:
    items = found.analysis.groups.items
    widest = max(map(len, items), default=1)
    return [
        _GroupRow(k, plain(group.name), len(group.producers), words.exact(len(group)), hues.get(k),
                  _percent(len(group), widest))
        for k, group in enumerate(items)
    ]  # fmt: skip


def _points_table(found: Inspection, cuts: Sequence[PlannedCut]) -> Table:
    timed = found.latency is not None
    rows = [
        (_kept(found, cut), words.count(cut.macs), words.count(cut.params), words.size(cut.size),
         *([_milliseconds(found, cut)] if timed else []))
        for cut in cuts
    ]  # fmt: skip
    headers = ("MACs kept", "MACs", "Parameters", "File of weights", *(["Time, estimated"] if timed else []))
    return Table(headers, tuple(rows))


def _kept(found: Inspection, cut: PlannedCut) -> str:
    share = 100 * cut.macs / (found.dense.macs or 1)
    return f"{share:.0f} %" if share >= 9.95 or not share else f"{share:.2g} %"


def _milliseconds(found: Inspection, cut: PlannedCut) -> str:
    return words.NOTHING if found.latency is None else words.milliseconds(found.latency.ms(cut.keep))


# --------------------------------------------------------------------------------------------------------- slider


def _planned(found: Inspection, command: Sequence[str]) -> list[dict[str, Any]]:
    """What the slider shows, by scope, worded here: the page computes nothing."""
    return [
        {"scope": scope, "points": [_point(found, scope, cut, command) for cut in cuts], "start": _start(cuts)}
        for scope, cuts in found.plans.items()
    ]


def _start(cuts: Sequence[PlannedCut]) -> int:
    """The point at which the slider stands at first: the one nearest to half of the MACs."""
    return min(range(len(cuts)), key=lambda k: abs(cuts[k].macs - cuts[0].macs / 2))


def _point(found: Inspection, scope: str, cut: PlannedCut, command: Sequence[str]) -> dict[str, Any]:
    dense = found.dense
    figures = {
        "macs": _change(words.count(cut.macs), cut.macs, dense.macs),
        "params": _change(words.count(cut.params), cut.params, dense.params),
        "size": _change(words.size(cut.size), cut.size, dense.size),
    }
    if found.latency is not None:
        time = found.latency.ms(cut.keep)
        figures["latency"] = _change(words.milliseconds(time), time, found.latency.dense_ms)
    whole, items = cut.macs == dense.macs, found.analysis.groups.items
    return {"kept": _kept(found, cut), "figures": figures, "widths": [f"{width:,}" for width in cut.widths],
            "bars": [_percent(k, len(g)) for k, g in zip(cut.widths, items, strict=True)],
            "command": "" if whole or not command else _command(found, scope, cut, command)}  # fmt: skip


def _change(text: str, now: float, dense: float) -> str:
    return f"{text} ({100 * now / dense:.3g} %)" if dense and now != dense else text


def _command(found: Inspection, scope: str, cut: PlannedCut, command: Sequence[str]) -> str:
    """The command that makes this cut."""
    amount = f"{100 * cut.asked:.0f}%" if cut.asked <= 1 else f"{cut.asked:.0f}"
    options = ["--criterion", found.criterion] * (found.criterion != "l2")
    options += ["--scope", scope] * (scope != "local") + ["--round-to", str(found.round_to)] * (found.round_to > 1)
    return shlex.join([*command, "--macs", amount, *options, "--out", "small"])
