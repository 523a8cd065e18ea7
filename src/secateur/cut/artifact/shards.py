"""Cuts a checkpoint of any size file by file, with memory for one tensor at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.core import arguments
from secateur.core.errors import DataError, InputError, PlanError
from secateur.core.files import disk_errors, new_folder, refuse_existing, whole, write_json, write_text
from secateur.core.plan import Plan, dense_name
from secateur.core.progress import watched
from secateur.core.reading import read_json
from secateur.cut.artifact.folder import read_plan
from secateur.cut.pruned import Pruned
from secateur.models.safetensors_file import write_safetensors
from secateur.models.transformer.saving import save_configuration
from secateur.models.weight_files import INDEX, Fitted, open_weight_files
from secateur.surgery.factors import scale_entries
from secateur.surgery.graph import slice_tensor

__all__ = ["CUT", "cut_shards", "plan_at"]

CUT = "cut.json"
"""The plan beside the files."""


@arguments.checked
def cut_shards(pruned: Pruned, weights: str | Path, out: str | Path) -> Path:
    """Cuts safetensors files as a network was cut that is on the meta device; memory for one tensor at a time.

    Every file becomes a smaller one of the same name. Types, names and what a file says of itself stay, and every
    number that stays is the same to the bit. Nothing is run, so nothing is proven here: the files hold what the plan
    says, which is what :func:`secateur.prune` writes of the same network in memory.

    Args:
        pruned: What :func:`secateur.prune` or :func:`secateur.apply` made of the network on the meta device.
        weights: The files of the network before its first cut: a safetensors file, a pattern
            (``folder/model-*.safetensors``), an index or a folder.
        out: New folder for the files, their index, ``cut.json`` (the plan) and, of a network of transformers whose
            configuration can say the cut, ``config.json``. It gets its name when all of it is written.

    Returns:
        The folder.

    Raises:
        InputError: The folder exists, or the network before its cut is not known any more.
        WeightsError: Files are missing, damaged, or do not fit the network.
        PlanError: The result has tensors that the plan does not account for.
        DataError: The disk has no room for the result.
    """
    out = Path(out)
    refuse_existing(out, "out")
    if pruned.dense is None:
        raise InputError("The network before its first cut is not known any more (copies and files drop it). Call "
                         "cut_shards with what prune or apply returned.")  # fmt: skip
    fitted = open_weight_files(weights).fitted(pruned.dense)
    pieces = _pieces(pruned, fitted)
    _check_room(out, sum(one.size for several in pieces.values() for one in several))
    with disk_errors(out.parent), new_folder(out) as folder:
        _write(fitted, pruned.plan, pieces, folder)
        _write_index(fitted, pieces, folder)
        if "configuration" not in pruned.lost:
            save_configuration(pruned.model, folder)
        write_text(folder / CUT, pruned.plan.to_json())
    return out


def plan_at(place: str | Path) -> Plan:
    """Reads a plan: of a JSON file (:meth:`Plan.to_json`), of a folder of :func:`cut_shards`, or of an artifact.

    Raises:
        InputError: There is none.
        PlanError: It is damaged.
    """
    place = Path(place)
    if place.is_dir() and not (place / CUT).exists():
        return read_plan(place)
    file = place / CUT if place.is_dir() else place
    if not file.exists():
        raise InputError(f"There is no plan {str(place)!r}: name a JSON file, or the folder of a cut or an artifact.")
    record = read_json(file, PlanError)
    return Plan.from_dict(record["plan"] if isinstance(record, dict) and "artifact_format" in record else record)


@dataclass(frozen=True)
class _Piece:
    """A tensor of the result.

    Attributes:
        dense: What the network before the cut calls it.
        name: What the new file calls it.
        kind: Its type as the files say it.
        shape: Its sizes after the cut.
        size: Its bytes after the cut.
        parameters: How many of the network's parameters it holds after the cut.
    """

    dense: str
    name: str
    kind: str
    shape: tuple[int, ...]
    size: int
    parameters: int


def _pieces(pruned: Pruned, fitted: Fitted) -> dict[str, list[_Piece]]:
    """The tensors of the result by the file that they go to, in the order of the files' bytes."""
    plan = pruned.plan
    small = {n: tuple(t.shape) for n, t in pruned.model.state_dict().items() if isinstance(t, Tensor)}
    renamed = {dense_name(name, plan.shortened): name for name in small}
    if strange := next((n for n in renamed if n not in fitted.known and not n.endswith("num_batches_tracked")), None):
        raise PlanError(f"The result has a tensor {renamed[strange]!r} that comes of none in {fitted.files.given}.")
    of_network = {stored: name for name, stored in fitted.names.items()}
    found: dict[str, list[_Piece]] = {}
    for stored, described in fitted.files.tensors.items():
        dense = of_network.get(stored, "")
        if dense not in renamed:  # it lay in what went whole, or the network does not read it
            continue
        shape = _shape_after(plan, dense, described.shape)
        if shape != small[renamed[dense]]:
            raise PlanError(f"The plan makes {dense!r} {shape}, and in the result it is {small[renamed[dense]]}.")
        name = f"{stored.removesuffix(dense)}{renamed[dense]}"
        numbers = torch.Size(shape).numel()
        size, parameters = numbers * described.dtype.itemsize, numbers * (dense in fitted.parameters)
        piece = _Piece(dense, name, described.kind, shape, size, parameters)
        found.setdefault(described.file.name, []).append(piece)
    return found


def _shape_after(plan: Plan, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if name in plan.indices:
        return (len(plan.indices[name]),)
    kept = plan.keep.get(name, {})
    return tuple(len(kept[d]) if d in kept else size for d, size in enumerate(shape))


def _check_room(out: Path, size: int) -> None:
    """Whether the disk has room for the result, before anything is written."""
    place = next(parent for parent in out.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    if free < size + _BESIDE:
        raise DataError(
            f"The cut weights are {size / 1e9:,.2f} GB, and the disk of {place} has {free / 1e9:,.2f} GB left. Free "
            "some space, or choose a folder on another disk."
        )


_BESIDE = 2**24
"""Bytes for what is written beside the weights."""


# ------------------------------------------------------------------------------------------------------ writing


def _write(fitted: Fitted, plan: Plan, pieces: Mapping[str, Sequence[_Piece]], folder: Path) -> None:
    with watched(pieces, "Cutting", "files") as names:
        for name in names:
            described = [(one.name, one.kind, one.shape, one.size) for one in pieces[name]]
            with whole(folder / name) as draft:
                write_safetensors(draft, described, _cut(fitted, plan, pieces[name]), fitted.files.metadata[name])


def _cut(fitted: Fitted, plan: Plan, pieces: Sequence[_Piece]) -> Iterator[Tensor]:
    """The tensors of one file, one after the other."""
    for piece in pieces:
        yield _cut_tensor(fitted.read(piece.dense), plan, piece.dense)


def _cut_tensor(tensor: Tensor, plan: Plan, name: str) -> Tensor:
    if name in plan.indices:
        return tensor.new_tensor(plan.indices[name])
    small = slice_tensor(tensor, plan.keep.get(name, {}))
    return scale_entries(small, plan.scaled[name]) if name in plan.scaled else small


def _write_index(fitted: Fitted, pieces: Mapping[str, Sequence[_Piece]], folder: Path) -> None:
    """Which tensor lies in which file; a single file that had no index needs none."""
    known = fitted.files.index
    if known is None and len(fitted.files.metadata) < 2:
        return
    name, content = known or (f"model{INDEX}", dict[str, Any]())
    said = content.get("metadata")
    about = {**said} if isinstance(said, dict) else {}
    about["total_size"] = sum(one.size for several in pieces.values() for one in several)
    if "total_parameters" in about:
        about["total_parameters"] = sum(one.parameters for several in pieces.values() for one in several)
    table = {one.name: file for file, several in pieces.items() for one in several}
    write_json(folder / name, {"metadata": about, "weight_map": dict(sorted(table.items()))})
