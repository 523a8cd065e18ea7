"""`secateur apply` and `secateur prune --on-disk`: files cut tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from secateur.cli.commands.networks import Opened, open_network, parse_shape
from secateur.cli.commands.pruning import is_file_name, refuse_taken, tell_cut
from secateur.cli.commands.show import error, say
from secateur.cli.commands.transformers import save_for_transformers
from secateur.core.errors import InputError
from secateur.core.progress import working
from secateur.cut.artifact import cut_shards, plan_at
from secateur.cut.prune import apply as cut_by_plan
from secateur.cut.prune import prune as cut
from secateur.cut.pruned import Pruned
from secateur.models.transformer import PREFIX

__all__ = ["apply", "prune"]


def prune(opened: Opened, out: Path, *, data: str | None, **options: Any) -> None:
    """Scores and cuts the files of a network that stays on the disk.

    Args:
        opened: The network, on the meta device.
        out: New folder.
        data: Refused: data would run through the network.
        **options: Of :func:`secateur.prune`.

    Raises:
        InputError: Data, or a file for a runtime in the place of a folder.
    """
    if data is not None:
        raise InputError("--data would run the network, which --on-disk leaves on the disk: leave one of them out.")
    _refuse_out(out)
    place = opened.name.removeprefix(PREFIX)
    with working("Scoring and cutting", after_s=0):
        pruned = cut(opened.model, opened.called_with, weights=place, **options)
    _keep(opened, pruned, place, out)


def apply(plan: str, weights: str, out: Path, input_shape: str | None) -> None:
    """Cuts files by a plan that was made elsewhere.

    Args:
        plan: A file or folder that holds it.
        weights: The files, with ``config.json`` beside them.
        out: New folder.
        input_shape: Tokens of one text, where the network is traced with others than 128.

    Raises:
        SecateurError: The plan, the files and the network do not fit each other.
    """
    _refuse_out(out)
    found = plan_at(plan)
    place = Path(weights)
    folder = place if place.is_dir() else place.parent
    opened = open_network(f"{PREFIX}{folder}", shape=parse_shape(input_shape), on_disk=True)
    pruned = cut_by_plan(opened.model, found, opened.called_with)
    _keep(opened, pruned, weights, out)


def _refuse_out(out: Path) -> None:
    if is_file_name(out):
        raise InputError(f"--out is a folder of safetensors files here; got {out}.")
    refuse_taken(out)


def _keep(opened: Opened, pruned: Pruned, weights: str, out: Path) -> None:
    cut_shards(pruned, weights, out)
    tell_cut(opened, pruned)
    error("nothing was computed, so the cut is not proven; its operators and sizes are those of the plan.",
          label="Not verified")  # fmt: skip
    save_for_transformers(pruned, out, opened.tokenizer, opened.name)
    say(f"Saved: {out} ({', '.join(sorted(p.name for p in out.iterdir()))})")
