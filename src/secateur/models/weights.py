"""Reads weights without running code and fits them to a network, or says exactly what does not fit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from secateur.core import arguments
from secateur.core.errors import WeightsError
from secateur.models.pth import Stored, read_pth
from secateur.models.safetensors_file import read_safetensors

__all__ = ["check_fit", "load_weights", "read_weights", "without_prefix"]

Held = TypeVar("Held")

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")


@arguments.checked
def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a state dict from a ``.safetensors`` or PyTorch file; never runs code that the file holds.

    PyTorch files are read by a reader of our own (:mod:`secateur.models.pth`) that knows tensors and plain values.

    Wrappers such as ``{"state_dict": …}`` are taken off.

    Raises:
        WeightsError: The file is missing, damaged, wants to unpickle code, or holds no tensors.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise WeightsError(f"There is no weights file {str(path)!r}.")
    if path.suffix == ".safetensors":
        return _unwrap(read_safetensors(path), path, Tensor)
    file = read_pth(path)
    return file.tensors(_unwrap(file.content, path, Stored))


def _unwrap(content: Any, path: Path, kind: type[Held]) -> dict[str, Held]:
    for _ in range(3):
        inner = next((content[k] for k in _WRAPPERS if isinstance(content, Mapping) and _is_dict(content, k)), None)
        if inner is None:
            break
        content = inner
    tensors = content if isinstance(content, Mapping) else {}
    found = {str(name): value for name, value in tensors.items() if isinstance(value, kind)}
    if not found:
        raise WeightsError(f"{path} holds no state dict (a mapping from parameter names to tensors).")
    return found


def _is_dict(content: Mapping[Any, Any], key: str) -> bool:
    return isinstance(content.get(key), Mapping)


@arguments.checked
def load_weights(model: nn.Module, weights: str | Path | Mapping[str, Tensor]) -> nn.Module:
    """Loads weights into ``model`` in place, all of them or none, and returns it.

    ``module.`` and similar prefixes that every name of the file has are taken off. Missing
    ``num_batches_tracked`` counters are no fault.

    Raises:
        WeightsError: Names are missing or unexpected, shapes differ, or a value is NaN or infinite.
    """
    source = "the weights" if isinstance(weights, Mapping) else str(weights)
    given = dict(weights) if isinstance(weights, Mapping) else read_weights(weights)
    wanted = model.state_dict()
    given = without_prefix(given, wanted)
    counters = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")}
    given = {**counters, **given}
    check_fit(given, wanted, source)
    _check_finite(given, source)
    model.load_state_dict(given)
    return model


def without_prefix(given: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Takes off prefixes that all given names have and no wanted one; there may be several, nested."""
    foreign = [p for p in _PREFIXES if not any(name.startswith(p) for name in wanted)]
    while given:
        prefix = next((p for p in foreign if all(name.startswith(p) for name in given)), None)
        if prefix is None:
            break
        given = {name.removeprefix(prefix): value for name, value in given.items()}
    return given


def check_fit(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str) -> None:
    """Compares names and shapes; values are not looked at.

    Args:
        given: What there is.
        wanted: The network's state dict.
        source: What messages call ``given``.

    Raises:
        WeightsError: Names the first of those that are missing, unexpected or of another shape.
    """
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    shapes = [
        f"{name} is {tuple(given[name].shape)}, the network wants {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    faults = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise WeightsError(f"{source} does not fit the network; " + "; ".join(faults) + ".")


def _check_finite(given: Mapping[str, Tensor], source: str) -> None:
    for name, value in given.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            count = int((~torch.isfinite(value)).sum())
            raise WeightsError(f"{source}: {name} holds {count} NaN or infinite of {value.numel()} values.")


def _some(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
