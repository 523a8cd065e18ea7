"""`secateur sparsify`: single weights removed without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from secateur.cli.commands.networks import Opened, tell_random
from secateur.cli.commands.pruning import COMMANDS
from secateur.cli.commands.show import change, console, integer, say, table
from secateur.core.files import disk_errors
from secateur.criteria.base import of_kind
from secateur.cut.artifact import save_what_fits
from secateur.models.weights import read_weights
from secateur.recipe.folder import refuse_used
from secateur.sparsity import Converted, Sparse, compress, convert_sparse, weight_scores
from secateur.sparsity import sparsify as remove
from secateur.sparsity.scores import Score

__all__ = ["scores", "sparsify"]

FILE, CONVERTED = "model.sdc", "converted.safetensors"


def scores(opened: Opened, criterion: str, *, start: str | None, **given: Any) -> str | Score:
    """The criterion with the data or the early weights that were given, or its name where it needs none of them."""
    if not of_kind(criterion, "weights").weight_needs:
        return criterion
    early = None if start is None else read_weights(start)
    return weight_scores(criterion, opened.model, start=early, example_inputs=opened.inputs, **given)


def sparsify(opened: Opened, out: Path, *, bits: int | None, convert: bool = False, **options: Any) -> None:
    """Removes weights, saves an artifact and, with ``bits``, an entropy-coded file, and shows what is left.

    With ``convert``, sparse products are timed too, and what wins is saved as ``converted.safetensors``.
    """
    refuse_used(out)
    found = remove(opened.model, example_inputs=opened.inputs, **options)
    with disk_errors(out):
        save_what_fits(found, out, COMMANDS, 1)
        small = None if bits is None else compress(found.model, out / FILE, bits=bits)
        faster = convert_sparse(found.model, opened.inputs[:1]) if convert else None
        if faster is not None and faster.speedup is not None:
            faster.save(out / CONVERTED)
    _show(opened.name, found)
    tell_random([opened])
    if small is not None:
        say(
            f"Compressed: {FILE}, {small.bytes:,} bytes on disk, {small.ratio:.1f}× smaller than the "
            f"{small.dense_bytes:,} of the weights."
        )
    if faster is not None:
        _show_converted(faster)
    say(f"Saved: {out} ({', '.join(sorted(p.name for p in out.iterdir()))})")


def _show(name: str, found: Sparse) -> None:
    show = console()
    rows = [[x.name, integer(x.weights), integer(x.kept), change(x.weights, x.kept)] for x in found.layers]
    rows.append(["All parameters", integer(found.params), integer(found.params_left),
                 change(found.params, found.params_left)])  # fmt: skip
    show.print(table([name, "Weights", "Not zero", "Change"], rows))
    show.print()
    say(f"{found.headline}.")
    for note in found.notes:
        say(f"Note: {note}")


def _show_converted(found: Converted) -> None:
    rows = [
        [x.name, f"{x.sparsity:.1%}", x.product, "–" if x.speedup is None else f"{x.speedup.median:.2f}×"]
        for x in found.layers
    ]
    console().print(table(["Layer", "Zeros", "Product", "Dense / best sparse time"], rows, words=(0, 2)))
    console().print()
    say(f"{found.headline}.")
