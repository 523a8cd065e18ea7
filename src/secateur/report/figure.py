"""One small before/after figure for a README, without a browser."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from secateur.core.errors import InputError
from secateur.core.files import write_bytes
from secateur.report import view, words
from secateur.report.page import read_results
from secateur.report.schema import Results
from secateur.runtimes import title_of

__all__ = ["picture"]

_WIDTH, _TOP, _ROW, _LEFT = 760, 84, 62, 212
_BAR, _BAR_HEIGHT = 340, 18
_INK, _SOFT, _DENSE, _PRUNED, _PAGE, _EDGE = "#17211d", "#55615b", "#c3cbd0", "#15803d", "#ffffff", "#d8ded9"

# Pillow's own font has no more than the basic signs.
_PLAIN = str.maketrans({"×": "x", "−": "-", "±": "", "…": "..."})


@dataclass(frozen=True)
class _Bar:
    """A pair of bars: the length of each is a share of the longer one."""

    title: str
    dense: float
    pruned: float
    dense_text: str
    pruned_text: str
    verdict: str


@dataclass(frozen=True)
class _Box:
    x: float
    y: float
    width: float
    height: float
    fill: str
    radius: float = 3
    edge: str = ""


@dataclass(frozen=True)
class _Text:
    x: float
    y: float  # of the base line
    text: str
    size: int = 14
    fill: str = _INK
    bold: bool = False
    right: bool = False


def picture(results: Results | Mapping[str, Any], path: str | PathLike[str]) -> Path:
    """Draws one small figure: parameters, MACs, measured time and accuracy, dense beside pruned.

    Args:
        results: A :class:`~secateur.report.Results`, or its JSON form.
        path: Replaced where it is there: an ``.svg`` file, or a ``.png`` file of twice the size (needs Pillow).

    Returns:
        The path of the picture.

    Raises:
        InputError: When the ending is neither, the results hold nothing to draw, or Pillow is missing.
        OSError: When the file cannot be written.
    """
    path = Path(path)
    results = read_results(results)
    bars = _bars(results)
    if not bars:
        raise InputError("There is nothing to draw: the results hold no dense and pruned network.")
    height = _TOP + _ROW * len(bars) + 12
    shapes = _shapes(results, bars, height)
    if path.suffix.lower() == ".svg":
        return write_bytes(path, _svg(shapes, height).encode())
    if path.suffix.lower() == ".png":
        return write_bytes(path, _png(shapes, height))
    raise InputError(f"A picture is written as .svg or .png; got {str(path)!r}.")


def _bars(results: Results) -> list[_Bar]:
    dense, pruned = results.network("dense"), results.network("pruned")
    if dense is None or pruned is None:
        return []
    before, after = dense.measurement, pruned.measurement
    bars = []
    for title, a, b, better in (
        ("Parameters", before.params, after.params, "smaller"),
        ("MACs", before.macs, after.macs, "less work"),
    ):
        if a and b:
            bars.append(_Bar(title, a, b, words.count(a), words.count(b), f"{words.times(a / b)} {better}"))
    bars += _time_bar(results)
    metric = results.leading
    one, two = before.quality.get(metric.name), after.quality.get(metric.name)
    if one is not None and two is not None and min(one, two) >= 0:  # a bar has no length below zero
        bars.append(_Bar(metric.label, one, two, metric.words(one), metric.words(two), metric.change(one, two)))
    return bars


def _time_bar(results: Results) -> list[_Bar]:
    found = view.headline_speedup(results)
    if found is None:
        return []
    setting = (found.runtime, found.direction, found.batch)
    medians = {t.model: t.median_ms for t in results.latency if t.setting[:3] == setting}
    a, b = medians["dense"], medians["pruned"]
    title = f"{title_of(found.runtime)}, batch {found.batch}"
    return [_Bar(title, a, b, words.milliseconds(a), words.milliseconds(b), view.claim(found, results))]


def _shapes(results: Results, bars: Sequence[_Bar], height: float) -> list[_Box | _Text]:
    shapes: list[_Box | _Text] = [
        _Box(0.5, 0.5, _WIDTH - 1, height - 1, _PAGE, radius=10, edge=_EDGE),
        _Text(24, 38, _short(results.title or "Before and after", 60), 18, bold=True),
        _Box(24, 53, 10, 10, _DENSE),
        _Text(40, 62, "dense", 13, _SOFT),
        _Box(92, 53, 10, 10, _PRUNED),
        _Text(108, 62, _short(f"pruned: {results.pruning}" if results.pruning else "pruned", 84), 13, _SOFT),
    ]
    for index, bar in enumerate(bars):
        y, longest = _TOP + _ROW * index + 8, max(bar.dense, bar.pruned) or 1
        shapes += [
            _Text(24, y + _BAR_HEIGHT + 6, _short(bar.title, 24), 13, bold=True),
            _Text(_WIDTH - 24, y + _BAR_HEIGHT + 6, bar.verdict, 14, bold=True, right=True),
        ]
        for row, (value, text, fill) in enumerate(
            ((bar.dense, bar.dense_text, _DENSE), (bar.pruned, bar.pruned_text, _PRUNED))
        ):
            top, width = y + row * (_BAR_HEIGHT + 3), max(2.0, _BAR * value / longest)
            shapes.append(_Box(_LEFT, top, round(width, 1), _BAR_HEIGHT, fill))
            shapes.append(_Text(round(_LEFT + width + 8, 1), top + 14, text, 13))
    return shapes


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _svg(shapes: Sequence[_Box | _Text], height: float) -> str:
    font = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}"'
    lines = [f'{head} width="{_WIDTH}" height="{height:g}" font-family="{font}" role="img">']
    for shape in shapes:
        if isinstance(shape, _Box):
            edge = f' stroke="{shape.edge}"' if shape.edge else ""
            place = f'x="{shape.x:g}" y="{shape.y:g}" width="{shape.width:g}" height="{shape.height:g}"'
            lines.append(f'  <rect {place} rx="{shape.radius:g}" fill="{shape.fill}"{edge}/>')
        else:
            extra = ' font-weight="600"' * shape.bold + ' text-anchor="end"' * shape.right
            place = f'x="{shape.x:g}" y="{shape.y:g}" font-size="{shape.size}" fill="{shape.fill}"{extra}'
            lines.append(f"  <text {place}>{html.escape(shape.text)}</text>")
    return "\n".join([*lines, "</svg>", ""])


def _png(shapes: Sequence[_Box | _Text], height: float, scale: int = 2) -> bytes:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise InputError('A PNG picture needs Pillow: pip install "secateur[train]".') from error
    image = Image.new("RGB", (_WIDTH * scale, round(height * scale)), _PAGE)
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        if isinstance(shape, _Box):
            corners = (shape.x, shape.y, shape.x + shape.width, shape.y + shape.height)
            draw.rounded_rectangle(
                [scale * c for c in corners],
                radius=scale * shape.radius,
                fill=shape.fill,
                outline=shape.edge or None,
            )
        else:
            draw.text(
                (scale * shape.x, scale * shape.y),
                shape.text.translate(_PLAIN),
                fill=shape.fill,
                font=ImageFont.load_default(scale * shape.size),
                anchor="rs" if shape.right else "ls",
                stroke_width=scale / 6 if shape.bold else 0,
            )
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
