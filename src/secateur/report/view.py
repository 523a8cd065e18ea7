"""What each part of the report says, as text in rows and cards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from secateur.core.metric import LOSS, Metric
from secateur.cost import compression_ratio, mac_reduction
from secateur.exports.checks import ExportCheck
from secateur.report import words
from secateur.report.schema import BlockRow, Network, Results
from secateur.runtimes import title_of
from secateur.timing.measurement import Measurement
from secateur.timing.timings import Speedup, Timing, speedups

__all__ = [
    "Card",
    "ChannelRow",
    "Table",
    "blocks",
    "cards",
    "channels",
    "claim",
    "comparison",
    "exports",
    "headline_speedup",
    "latency",
    "measured_speedups",
    "setting_label",
]

# A dash at which no line breaks.
_TO = "\N{WORD JOINER}–\N{WORD JOINER}"

_ORDER = ("dense", "pruned", "control", "scratch", "other")


@dataclass(frozen=True)
class Card:
    """One headline figure: what, the pruned value, what it was before, and whether it got ``worse``."""

    title: str
    value: str
    before: str = ""
    detail: str = ""
    worse: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text; ``roles`` colours the headers; the last row is a total if ``total``."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    roles: tuple[str, ...] = ()
    total: bool = False


def cards(results: Results) -> tuple[Card, ...]:
    """Returns the headline figures that the results hold."""
    dense, pruned = (_measurement(results.network(role)) for role in ("dense", "pruned"))
    found = [
        _metric_card(results.leading, dense, pruned),
        _ratio_card("Parameters", dense.params, pruned.params, compression_ratio, "compression ratio"),
        _ratio_card("MACs per sample", dense.macs, pruned.macs, mac_reduction, "MAC reduction"),
        _speed_card(results),
        _proof_card(results),
    ]
    return tuple(card for card in found if card)


def comparison(results: Results) -> Table | None:
    """Returns the table of all networks, with only the rows that some network has a value for."""
    # Dense beside pruned: on a phone there is room for two.
    networks = sorted(results.networks, key=lambda network: _ORDER.index(network.role))
    measured = [network.measurement for network in networks]
    dense = _measurement(results.network("dense"))
    rows = [
        (title, *(text(m, dense) for m in measured))
        for title, has, text in (*_qualities(results), *_COMPARISON)
        if any(has(m, dense) for m in measured)
    ]
    if not rows:
        return None
    headers = ("", *(network.label for network in networks))
    return Table(headers, tuple(rows), roles=("", *(network.role for network in networks)))


def blocks(results: Results) -> Table | None:
    """Returns the parameters per block before and after, and their total."""
    if not results.blocks:
        return None
    total = BlockRow(
        block="Total",
        before=sum(row.before for row in results.blocks),
        after=sum(row.after for row in results.blocks),
    )
    rows = [
        (row.block, words.exact(row.before), words.exact(row.after), _kept(row)) for row in (*results.blocks, total)
    ]
    return Table(("Block", "Dense", "Pruned", "Kept"), tuple(rows), ("", "dense", "pruned", ""), total=True)


@dataclass(frozen=True)
class ChannelRow:
    """A layer's output channels, and how long its bars are in percent of the widest layer's."""

    layer: str
    kind: str
    before: str
    after: str
    kept: str
    dense_share: str
    pruned_share: str


def channels(results: Results) -> tuple[ChannelRow, ...]:
    """Returns one row per layer, in the order of the network."""
    widest = max((row.before for row in results.layers), default=0) or 1
    return tuple(
        ChannelRow(
            row.layer,
            row.kind,
            words.exact(row.before),
            words.exact(row.after),
            f"{100 * row.after / row.before:.0f} %" if row.before else words.NOTHING,
            f"{100 * row.before / widest:.2f}",
            f"{100 * row.after / widest:.2f}",
        )
        for row in results.layers
    )


def latency(results: Results) -> Table | None:
    """Returns one row per setting: each network's median and spread, then the speed-ups."""
    if not results.latency:
        return None
    names = list(dict.fromkeys(timing.model for timing in results.latency))
    found = measured_speedups(results)
    faster = list(dict.fromkeys(entry.model for entry in found))
    headers = ("", *names, *(f"speed-up of {name}" for name in faster))
    rows = []
    for setting in dict.fromkeys(timing.setting for timing in results.latency):
        here = {timing.model: timing for timing in results.latency if timing.setting == setting}
        ratios = {s.model: s for s in found if (s.runtime, s.direction, s.batch) == setting[:3]}
        row = (setting_label(*setting[:3]), *(_time(here.get(name)) for name in names))
        rows.append((*row, *(_speedup(ratios.get(name)) for name in faster)))
    return Table(headers, tuple(rows), roles=("", *names, *("" for _ in faster)))


def exports(results: Results) -> Table | None:
    """Returns one row per exported and checked file."""
    if not results.exports:
        return None
    metric = results.leading
    headers = ("File", "Size", "Largest difference", "Same labels", "Samples", f"{metric.label} there", "Batch",
               "Run by")  # fmt: skip
    rows = [
        (
            check.path,
            words.size(check.bytes),
            _agreement(check),
            f"{100 * check.same_labels:.4g} %",
            words.exact(check.images),
            metric.words(check.quality.get(metric.name)),
            "any" if check.dynamic_batch else f"{check.batches[0]} only" if check.batches else words.NOTHING,
            check.runtime,
        )
        for check in results.exports
    ]
    return Table(headers, tuple(rows))


def _agreement(check: ExportCheck) -> str:
    """The difference beside what is allowed; of an int8 file, beside its signal-to-noise ratio."""
    if check.tolerance is not None:
        return f"{words.tiny(check.max_difference)} (allowed {words.tiny(check.tolerance)})"
    ratio = "no noise" if check.snr_db is None else f"{check.snr_db:.1f} dB"
    return f"{words.tiny(check.max_difference)} (int8: {ratio})"


def measured_speedups(results: Results) -> tuple[Speedup, ...]:
    """Returns the speed-ups over the network named ``dense``; none when it was not measured."""
    if not any(timing.model == "dense" for timing in results.latency):
        return ()
    return speedups(results.latency, "dense")


def headline_speedup(results: Results) -> Speedup | None:
    """Returns the pruned network's forward speed-up to show first: ONNX Runtime, then smallest batch."""
    forward = [s for s in measured_speedups(results) if s.model == "pruned" and s.direction == "forward"]
    return min(forward, key=lambda s: (s.runtime != "onnxruntime", s.batch), default=None)


_MORE = 1.5
"""How many times the MAC reduction a speed-up may be before it needs an explanation."""


def claim(found: Speedup, results: Results) -> str:
    """What is said of a speed-up, in few words: nothing where the machine was busy, and whether the MACs explain it."""
    if found.doubt:
        return "machine busy"
    text = f"{words.times(found.ratio.median)} as fast"
    dense, pruned = (_measurement(results.network(role)) for role in ("dense", "pruned"))
    if not dense.macs or not pruned.macs:
        return text
    beyond = found.ratio.median > _MORE * mac_reduction(dense.macs, pruned.macs)
    return f"{text}, more than the MACs explain" if beyond else text


def setting_label(runtime: str, direction: str, batch: int) -> str:
    """Words a setting.

    >>> setting_label("onnxruntime", "forward", 1)
    'ONNX Runtime forward, batch 1'
    """
    return f"{title_of(runtime)} {direction}, batch {batch}"


def _measurement(network: Network | None) -> Measurement:
    return network.measurement if network else Measurement()


def _ratio_card(
    title: str,
    dense: int | None,
    pruned: int | None,
    ratio: Callable[[float, float], float],
    detail: str,
) -> Card | None:
    if not dense or not pruned:
        return None
    return Card(title, words.count(pruned), words.count(dense), f"{detail} {words.times(ratio(dense, pruned))}")


def _metric_card(metric: Metric, dense: Measurement, pruned: Measurement) -> Card | None:
    before, after = dense.quality.get(metric.name), pruned.quality.get(metric.name)
    if after is None:
        return None
    if before is None:
        return Card(metric.label, metric.words(after))
    worse = metric.improves(before, after)
    return Card(metric.label, metric.words(after), metric.words(before), metric.change(before, after), worse=worse)


def _speed_card(results: Results) -> Card | None:
    found = headline_speedup(results)
    if found is None:
        return None
    setting = (found.runtime, found.direction, found.batch)
    medians = {t.model: t.median_ms for t in results.latency if t.setting[:3] == setting}
    detail = f"{claim(found, results)}, {setting_label(*setting)}"
    return Card(
        "Measured time",
        words.milliseconds(medians.get("pruned")),
        words.milliseconds(medians.get("dense")),
        detail,
        worse=found.ratio.median < 1 and not found.doubt,
    )


def _proof_card(results: Results) -> Card | None:
    proof = results.verification
    if proof is None:
        return None
    passed = proof.max_relative_error <= proof.tolerance
    if not proof.proven:
        return Card("Exactness", "not proven", detail=f"nothing moves {', '.join(proof.unproven)}", worse=True)
    verdict = "verified" if passed else "NOT within tolerance"
    value = f"{words.tiny(proof.max_relative_error)} {'≤' if passed else '>'} {words.tiny(proof.tolerance)}"
    return Card(
        "Exactness", value, detail=f"{verdict}: difference to the masked dense network, of what the input moves"
    )


def _kept(row: BlockRow) -> str:
    return f"{100 * row.after / row.before:.1f} %" if row.before else words.NOTHING


def _time(timing: Timing | None) -> str:
    if timing is None:
        return words.NOTHING
    found = timing.spread_ms
    low, high = (words.milliseconds(value).removesuffix(" ms") for value in (found.q05, found.q95))
    return f"{_unbroken(words.milliseconds(found.median))} ({low}{_TO}{high})"


def _speedup(found: Speedup | None) -> str:
    if found is None:
        return words.NOTHING
    text = f"{words.times(found.ratio.median)} ({found.ratio.q05:.2f}{_TO}{found.ratio.q95:.2f})"
    return f"{text}, busy" if found.doubt else text


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


_Has = Callable[[Measurement, Measurement], bool]
_Text = Callable[[Measurement, Measurement], str]


def _plain(name: str, text: Callable[[float | None], str]) -> tuple[_Has, _Text]:
    return lambda m, _: getattr(m, name) is not None, lambda m, _: text(getattr(m, name))


def _ratio(name: str, ratio: Callable[[float, float], float]) -> tuple[_Has, _Text]:
    def has(m: Measurement, dense: Measurement) -> bool:
        return bool(getattr(m, name) and getattr(dense, name))

    def text(m: Measurement, dense: Measurement) -> str:
        return words.times(ratio(getattr(dense, name), getattr(m, name))) if has(m, dense) else words.NOTHING

    return has, text


def _fixed(digits: int, unit: str = "") -> Callable[[float | None], str]:
    return lambda value: words.NOTHING if value is None else f"{value:.{digits}f}{unit}"


def _per_sample(seconds: float | None) -> str:
    return words.NOTHING if seconds is None else words.milliseconds(1e3 * seconds)


def _qualities(results: Results) -> list[tuple[str, _Has, _Text]]:
    """Rows of the metrics and the loss, and of how many samples they are."""

    def row(metric: Metric) -> tuple[str, _Has, _Text]:
        title = "Test loss" if metric is LOSS else metric.label
        has = lambda m, _: m.quality.get(metric.name) is not None  # noqa: E731
        return title, has, lambda m, _: metric.words(m.quality.get(metric.name))

    rows = [row(metric) for metric in (*results.metrics, LOSS)]
    rows.append((f"Test {results.unit}s", *_plain("samples", words.exact)))
    return [*rows, (f"Evaluation time per {results.unit}", *_plain("seconds_per_sample", _per_sample))]


_COMPARISON: Sequence[tuple[str, _Has, _Text]] = (
    ("Parameters", *_plain("params", words.exact)),
    ("Parameters that are not zero", lambda m, _: bool(m.sparse), lambda m, _: words.exact(m.nonzero_params)),
    ("Compression ratio (dense / this)", *_ratio("params", compression_ratio)),
    ("MACs per sample", *_plain("macs", words.exact)),
    ("MAC reduction (dense / this)", *_ratio("macs", mac_reduction)),
    ("NetScore", *_plain("netscore", _fixed(2))),
    ("Weights on disk", *_plain("weight_bytes", words.size)),
    ("Peak memory of one forward pass", *_plain("peak_memory_bytes", words.size)),
    ("Energy per sample (by a model, not measured)", *_plain("energy_mj", words.energy)),
)
