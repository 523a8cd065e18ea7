"""`secateur prune`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from secateur.budget.sensitivity import read_ratios
from secateur.cli.commands.networks import Opened, labelled
from secateur.cli.commands.show import change, console, error, integer, ratio, say, table, tell
from secateur.cli.commands.transformers import save_for_transformers
from secateur.core.errors import InputError, SecateurError
from secateur.core.files import disk_errors, refuse_existing
from secateur.core.progress import working
from secateur.core.types import Counts, ExampleInputs, Target, Unsupported
from secateur.cut.artifact import save_what_fits
from secateur.cut.prune import prune as cut
from secateur.cut.pruned import Pruned
from secateur.exports import ExportCheck, export
from secateur.models.transformer import is_transformer_name
from secateur.recipe.folder import refuse_used
from secateur.runtimes.formats import writers

__all__ = [
    "calibration",
    "is_file_name",
    "keep",
    "parse_aim",
    "parse_amount",
    "parse_latency",
    "parse_ratio",
    "parse_step",
    "prune",
    "refuse_taken",
    "show_unsupported",
    "target",
    "tell_cut",
]


def parse_amount(option: str, text: str | None) -> float | None:
    """Reads ``0.5`` (a share), ``1200000``, ``1.2M``, ``1.2MB`` or ``50%``.

    >>> parse_amount("--macs", "1.2M"), parse_amount("--macs", "50%"), parse_amount("--size", "800 kB")
    (1200000.0, 0.5, 800000.0)
    """
    if text is None:
        return None
    factors = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "%": 0.01}
    number, factor = text.strip().replace("_", ""), 1.0
    if number[-2:].lower() in ("kb", "mb", "gb"):
        number = number[:-1]
    if number[-1:].lower() in factors:
        number, factor = number[:-1], factors[number[-1].lower()]
    try:
        value = float(number) * factor
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(
            f"{option} is what to keep (--ratio is what to remove): a share up to 1 (0.5, 50%) or a count (1200000, "
            f"1.2M); got {text!r}."
        )
    return value


def parse_latency(text: str) -> dict[str, float]:
    """Reads ``0.5`` or ``50%`` (a share), or ``12ms``, as the fields of a target.

    >>> parse_latency("50%"), parse_latency("12 ms")
    ({'latency': 0.5}, {'latency_ms': 12.0})
    """
    plain = text.strip().lower()
    in_ms = plain.endswith("ms")
    try:
        value = parse_amount("--latency", plain.removesuffix("ms").strip() if in_ms else plain)
    except InputError:
        value = None
    if value is None or (not in_ms and value > 1):
        raise InputError(
            "--latency is the time to keep (--ratio is what to remove): a share up to 1 (0.5, 50%) or milliseconds "
            f"(12ms); got {text!r}."
        )
    return {"latency_ms" if in_ms else "latency": value}


def parse_ratio(option: str, given: list[str] | None) -> float | dict[str, float] | None:
    """Reads ``0.9``, or ``LAYER=0.9`` given several times.

    >>> parse_ratio("--ratio", ["0.9"]), parse_ratio("--ratio", ["fc1=0.92", "fc2=0.5"])
    (0.9, {'fc1': 0.92, 'fc2': 0.5})
    """
    if not given:
        return None
    found = {}
    for text in given:
        name, equals, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            found[name] = float("nan")
        if found[name] != found[name] or (len(given) > 1 and not equals):
            raise InputError(f"{option} wants one number, or LAYER=NUMBER for every layer; got {' '.join(given)!r}.")
    return found.get("", found)


def parse_aim(given: list[str] | None) -> float | dict[str, float] | None:
    """Reads ``--ratio`` of a cut: what :func:`parse_ratio` reads, or the name of a file of `secateur sensitivity`."""
    if given is not None and len(given) == 1 and given[0].lower().endswith(".json"):
        return read_ratios(given[0])
    return parse_ratio("--ratio", given)


def target(
    ratio: float | Mapping[str, float] | None,
    std: float | None = None,
    *,
    latency: str | None = None,
    where: Mapping[str, Any] | None = None,
    **amounts: str | None,
) -> Target | None:
    """Reads the options that say how much is cut, by name (``macs="50%"``); exactly one has to be given.

    Args:
        ratio: Share of the units to remove.
        std: Threshold in standard deviations.
        latency: Time to keep.
        where: Runtime, batch and threads that the latency is of; left out by commands that have no latency.
        amounts: What else may be kept.
    """
    if where is not None:
        amounts["latency"] = latency
    options = {"ratio": ratio, "std": std, **amounts}
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if len(given) != 1:
        *names, last = (f"--{name}" for name in options)
        raise InputError(
            f"Give one of {', '.join(names)} and {last}; got {' and '.join(given) or 'none'}. --ratio is the share of "
            "the units that is removed, --std a threshold; the others say what is kept."
        )
    if where is not None and where.get("runtime") and latency is None:
        raise InputError("--runtime says where --latency is measured; give --latency with it (0.5, 12ms).")
    if ratio is not None or std is not None:
        return None
    if latency is not None:
        fields: Mapping[str, Any] = {**parse_latency(latency), **(where or {})}
        return Target(**fields)
    read: Mapping[str, Any] = {name: parse_amount(f"--{name}", text) for name, text in amounts.items()}
    return Target(**read)


def parse_step(text: str | None) -> int | str | None:
    """Reads ``--round-to``: a number, or ``auto``.

    >>> parse_step("16"), parse_step("auto")
    (16, 'auto')
    """
    return int(text) if text is not None and text.strip().isdecimal() else text


def calibration(
    opened: Opened, data: str | None, images: int, task: str | None = None
) -> tuple[Iterable[tuple[ExampleInputs, Any]] | None, Any]:
    """Batches of training samples with their targets, as the network expects them, and the loss of their task.

    Args:
        opened: The network; one of a run brings its task with it.
        data: A data set as the task takes it.
        images: How many of the training samples.
        task: The kind of task; classification by default.

    Returns:
        Both ``None`` without a data set.
    """
    if images < 1:
        raise InputError(f"--images is at least 1; got {images}.")
    found = labelled([opened], data, opened.inputs, task=task)
    if found is None:
        return None, None
    if opened.tokenizer is not None:  # tokens are small, and what goes through them twice keeps more of the network
        return list(found.calibration(images)), found.loss if found.has_loss else None
    return found.calibration(images), found.loss if found.has_loss else None


def prune(opened: Opened, out: Path, **options: Any) -> None:
    """Cuts, verifies, saves and shows what came of it; ``out`` is a folder, or a file for a runtime."""
    refuse_taken(out)
    goal: Target | None = options.get("target")
    in_runtime = f"Measuring layers and networks in {goal.runtime}" if goal is not None and goal.measured else ""
    with working(in_runtime or "Cutting and verifying", after_s=0):
        pruned = cut(opened.model, opened.called_with, **options)
    keep(opened, pruned, out)


def refuse_taken(out: Path) -> None:
    """Raises :class:`InputError` where something lies in the place of a result."""
    if is_file_name(out):
        refuse_existing(out, "--out")
    refuse_used(out)


COMMANDS = "what measures, exports or inspects the folder"


def is_file_name(out: Path) -> bool:
    """Whether a result is wanted as a file for a runtime, by its ending.

    >>> is_file_name(Path("small.onnx")), is_file_name(Path("small"))
    (True, False)
    """
    return out.suffix.lower() in {one.suffix for one in writers().values()}


def _write(pruned: Pruned, out: Path) -> ExportCheck | None:
    """Writes a result where it is wanted, whole or not at all."""
    try:
        with disk_errors(out):
            if is_file_name(out):
                return export(pruned, out)
            save_what_fits(pruned, out, COMMANDS, 1)  # without it no other command could open the folder
    except SecateurError:
        with contextlib.suppress(OSError):
            out.rmdir()  # only ever an empty folder
        raise
    return None


def keep(opened: Opened, pruned: Pruned, out: Path) -> None:
    """Saves a cut and shows what came of it."""
    check = _write(pruned, out)
    tell_cut(opened, pruned)
    if check is not None:
        tell(check, "random inputs")
        return
    if is_transformer_name(opened.name):
        save_for_transformers(pruned, out, opened.tokenizer, opened.name)
    say(f"Saved: {out} ({', '.join(sorted(p.name for p in out.iterdir()))})")


def tell_cut(opened: Opened, pruned: Pruned) -> None:
    """Shows what came of a cut: sizes before and after, the proof, notes, and what was pinned."""
    before, after, show = pruned.before, pruned.after, console()
    rows = [
        _row("Parameters", before.params, after.params),
        _row("MACs per sample", before.macs, after.macs),
        _row("Output channels", _channels(before), _channels(after)),
    ]
    show.print(table([opened.name, "Dense", "Pruned", "Change", "Dense / pruned"], rows))
    show.print()
    proof = pruned.verification
    if proof is not None and proof.proven:
        say(
            f"Verified: differs from the masked dense network by {proof.max_relative_error:.1e} at most of what the "
            f"input moves, in double precision (accepted: {proof.tolerance:.0e}); {pruned.backend} back end."
        )
    elif proof is not None:
        error(f"nothing moves {', '.join(proof.unproven)}, so the cut is not proven.", label="Warning")
    for note in pruned.notes:
        say(f"Note: {note}")
    show_unsupported(pruned.unsupported)


def _row(name: str, before: int, after: int) -> list[str]:
    factor = ratio(before / after) if after else "–"
    return [name, integer(before), integer(after), change(before, after), factor]


def _channels(counts: Counts) -> int:
    return sum(layer.out_channels for layer in counts.layers)


def show_unsupported(unsupported: tuple[Unsupported, ...]) -> None:
    """Shows which operators keep what they touch, and why."""
    if not unsupported:
        return
    rows = [[u.operator, u.module or "(top level)", integer(u.pinned_params), u.reason, u.line] for u in unsupported]
    columns = ["Kept by operator", "Module", "Pinned parameters", "Reason", "Line"]
    console().print(table(columns, rows, words=(0, 1), fold=(3, 4)))
