"""Weights that stay on the disk: safetensors files, each tensor read when it is asked for and forgotten after.

The library maps a file into memory. It is opened anew for every tensor, because what was read of a mapping stays in
memory for as long as the mapping does: so a checkpoint of any size takes the memory of its largest tensor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from secateur.core.checks import count_unsound
from secateur.core.errors import InputError, WeightsError, first_line
from secateur.core.reading import read_json
from secateur.models.safetensors_file import check_header
from secateur.models.weights import check_fit, without_prefix

__all__ = ["INDEX", "Fitted", "Stored", "WeightFiles", "open_weight_files", "reader_of"]

INDEX = ".safetensors.index.json"
"""What the index of several files ends in: which tensor lies in which of them."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        file: The file.
        kind: Its type as the file says it (``BF16``).
        dtype: The same, PyTorch's.
        shape: Its sizes.
    """

    file: Path
    kind: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class WeightFiles:
    """Some safetensors files that together hold the weights of a network.

    Attributes:
        given: What the user called them.
        tensors: What lies in them, by name, file by file and in each in the order of its bytes.
        metadata: What each file says of itself, by the file's name.
        index: Name and content of the index; ``None`` without one.
    """

    given: str
    tensors: Mapping[str, Stored]
    metadata: Mapping[str, Mapping[str, str]]
    index: tuple[str, Mapping[str, Any]] | None

    def read(self, name: str) -> Tensor:
        """One tensor, mapped: its bytes are read when they are looked at.

        Raises:
            WeightsError: The file is not readable any more.
        """
        with _reading(self.tensors[name].file) as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def fitted(self, model: nn.Module) -> Fitted:
        """The same tensors by a network's own names.

        ``module.`` and similar prefixes that every name in the files has are taken off; of tensors that the network
        shares, one has to be there. What the network's class says it does not read is left out.

        Raises:
            WeightsError: Names are missing or unexpected, shapes differ, or the network is of a type that no file has.
        """
        state = {n: t for n, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
        unread = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
        shapes = {
            name: torch.empty(one.shape, dtype=one.dtype, device="meta")
            for name, one in self.tensors.items()
            if not any(re.search(pattern, name) for pattern in unread)
        }
        names = dict(zip(without_prefix(shapes, state), shapes, strict=True))
        held: dict[int, str] = {}
        for name, tensor in state.items():
            if name in names:
                held.setdefault(id(tensor), names[name])
        known = names | {n: held[id(t)] for n, t in state.items() if n not in names and id(t) in held}
        wanted = {n: t for n, t in state.items() if n in known or not n.endswith("num_batches_tracked")}
        check_fit({name: shapes[stored] for name, stored in known.items()}, wanted, self.given)
        self._check_types(state.values())
        return Fitted(self, names, known, frozenset(n for n, t in state.items() if isinstance(t, nn.Parameter)))

    def _check_types(self, state: Iterable[Tensor]) -> None:
        there = {one.dtype for one in self.tensors.values() if one.dtype.is_floating_point}
        asked = {tensor.dtype for tensor in state if tensor.dtype.is_floating_point}
        if there and asked and not there & asked:
            has, wants = (", ".join(sorted(str(t).removeprefix("torch.") for t in ts)) for ts in (there, asked))
            first = str(min(there, key=str))
            raise WeightsError(
                f"{self.given} holds {has}, and the network is of {wants}. The type of the files is kept, so make the "
                f"network of it: model.to({first})."
            )


@dataclass(frozen=True)
class Fitted:
    """Weight files as one network names what is in them.

    Attributes:
        files: The files.
        names: Names in the files, by the network's, each tensor of the files once.
        known: The same, and the further names of tensors that the network shares.
        parameters: The network's names of its parameters.
    """

    files: WeightFiles
    names: Mapping[str, str]
    known: Mapping[str, str]
    parameters: frozenset[str]

    def read(self, name: str) -> Tensor:
        """One tensor by the network's name; see :meth:`WeightFiles.read`.

        Raises:
            WeightsError: The file is not readable any more, or a parameter holds NaN or infinite values.
        """
        stored = self.known[name]
        tensor = self.files.read(stored)
        if name in self.parameters and (count := count_unsound(tensor)):
            where = self.files.tensors[stored].file
            raise WeightsError(f"{where}: {stored} holds {count} NaN or infinite of {tensor.numel()} values.")
        return tensor


def open_weight_files(weights: str | Path) -> WeightFiles:
    """Looks at what files hold; no weights are read.

    Args:
        weights: A safetensors file, a pattern (``folder/model-*.safetensors``), an index
            (``model.safetensors.index.json``), or a folder with one of these.

    Raises:
        WeightsError: Nothing there, damaged, files that the index names are missing, a tensor that lies elsewhere than
            the index says, or in two files.

    >>> open_weight_files("nowhere/model-*.safetensors")
    Traceback (most recent call last):
    secateur.core.errors.WeightsError: There is no safetensors file 'nowhere/model-*.safetensors'. ...
    """
    given = Path(weights)
    files, index = _found(given)
    tensors: dict[str, Stored] = {}
    metadata: dict[str, Mapping[str, str]] = {}
    for path in files:
        metadata[path.name], held = _held(path)
        for name, stored in held.items():
            if name in tensors:
                raise WeightsError(f"{name} lies in {tensors[name].file} and in {path}: one of them has to go.")
            tensors[name] = stored
    if not tensors:
        raise WeightsError(f"{given} holds no tensors.")
    if index is not None:
        _check_index(*index, tensors, given)
    return WeightFiles(str(given), tensors, metadata, None if index is None else (index[0].name, index[1]))


def _held(path: Path) -> tuple[Mapping[str, str], dict[str, Stored]]:
    """What a file says of itself, and its tensors in the order of their bytes."""
    check_header(path)
    found: dict[str, Stored] = {}
    with _reading(path) as file:
        for name in file.offset_keys():
            described = file.get_slice(name)
            mapped = file.get_tensor(name)  # nothing of it is read
            found[name] = Stored(path, described.get_dtype(), mapped.dtype, tuple(mapped.shape))
        return dict(file.metadata() or {}), found


class _reading:
    """``safe_open``, whose errors are one sentence."""

    def __init__(self, path: Path) -> None:
        self._path, self._open = path, cast(Any, None)

    def __enter__(self) -> Any:
        try:
            self._open = safe_open(self._path, framework="pt")
            return self._open.__enter__()
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise WeightsError(f"{self._path} is not a readable safetensors file: {first_line(error)}.") from error

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)


# -------------------------------------------------------------------------------------------------- which files


def _found(given: Path) -> tuple[list[Path], tuple[Path, Mapping[str, Any]] | None]:
    """The files, and the index that lies beside them."""
    if given.name.endswith(INDEX):
        index = _index(given)
        return _named_by(index, given, None), index
    if os.path.isdir(given):  # noqa: PTH112 (which answers where a name is too long, too)
        several = sorted(given.glob(f"*{INDEX}"))
        if len(several) == 1:
            index = _index(several[0])
            return _named_by(index, given, None), index
        return _some(sorted(given.glob("*.safetensors")), given), None
    files = [given] if os.path.isfile(given) else _matching(given)  # noqa: PTH113
    files = _some([path for path in files if path.suffix == ".safetensors"], given)
    for path in sorted(given.parent.glob(f"*{INDEX}")):
        index = _index(path)
        if {*index[1]["weight_map"].values()} & {file.name for file in files}:
            return _named_by(index, given, files), index
    return files, None


def _matching(given: Path) -> list[Path]:
    try:
        return sorted(given.parent.glob(given.name))
    except (OSError, ValueError, NotImplementedError) as error:
        raise WeightsError(f"{str(given)[:200]!r} is no pattern of file names: {first_line(error)}.") from error


def _some(files: list[Path], given: Path) -> list[Path]:
    if not files:
        raise WeightsError(
            f"There is no safetensors file {str(given)[:200]!r}. Name a file, a pattern like "
            "'folder/model-*.safetensors', an index, or a folder that holds them."
        )
    return files


def _index(path: Path) -> tuple[Path, Mapping[str, Any]]:
    content = read_json(path, WeightsError)
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(v, str) for v in table.values()):
        raise WeightsError(f"{path} is no index of weights: it has no weight_map from names to files.")
    return path, content


def _named_by(index: tuple[Path, Mapping[str, Any]], given: Path, files: list[Path] | None) -> list[Path]:
    """The files that an index names; all of them have to be there, and those of the pattern among them."""
    path, content = index
    names = sorted({*content["weight_map"].values()})
    if wrong := next((name for name in names if Path(name).name != name or "\\" in name), None):
        raise WeightsError(f"{path} names the file {wrong[:80]!r}, which does not lie beside it.")
    there = {file.name for file in files} if files is not None else {n for n in names if (path.parent / n).is_file()}
    if missing := [name for name in names if name not in there]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        where = "missing" if files is None or not (path.parent / missing[0]).is_file() else f"not what {given} matches"
        raise WeightsError(f"{path} names {len(names)} files, of which {missing[0]}{more} {_are(missing)} {where}.")
    if surplus := sorted(there - {*names}):
        raise WeightsError(f"{given} matches {surplus[0]}, which {path} does not name. Move it, or name the index.")
    return [path.parent / name for name in names]


def _are(several: list[str]) -> str:
    return "are" if len(several) > 1 else "is"


def _check_index(path: Path, content: Mapping[str, Any], tensors: Mapping[str, Stored], given: Path) -> None:
    """Whether every tensor lies where the index says."""
    table: Mapping[str, str] = content["weight_map"]
    for name, file in table.items():
        if name not in tensors:
            raise WeightsError(f"{path} says that {name} lies in {file}, which does not hold it.")
        if tensors[name].file.name != file:
            raise WeightsError(f"{path} says that {name} lies in {file}; it lies in {tensors[name].file.name}.")
    if lost := next((name for name in tensors if name not in table), None):
        raise WeightsError(f"{tensors[lost].file} holds {lost}, which {path} does not name.")


def reader_of(model: nn.Module, weights: str | Path) -> Callable[[str], Tensor]:
    """What gives the values of a network on the meta device, tensor by tensor, by the network's names.

    Args:
        model: The network; all its parameters are on the meta device.
        weights: As for :func:`open_weight_files`.

    Raises:
        InputError: The network has its values in memory.
        WeightsError: The files are damaged or do not fit.
    """
    if any(not parameter.is_meta for parameter in model.parameters()):
        raise InputError(
            "weights=… says where the values of a network on the meta device lie, and this one has values in memory: "
            "leave it out, or build the network under torch.device('meta')."
        )
    return open_weight_files(weights).fitted(model).read
