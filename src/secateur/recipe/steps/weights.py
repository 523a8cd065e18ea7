"""A network's weights to and from a file, between the steps of a run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.core.errors import WeightsError
from secateur.core.files import whole
from secateur.models.safetensors_file import read_safetensors
from secateur.recipe.records import REMEDY

__all__ = ["contents", "load_weights_into", "read_weights", "save_weights"]


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes the state dict as safetensors, in one step."""
    # Clones, because safetensors refuses tensors that share memory (tied weights).
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
    with whole(path) as draft:
        save_file(tensors, draft)


def contents(model: nn.Module) -> str:
    """A digest of everything that a network's state dict holds."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        if isinstance(tensor, Tensor):
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def load_weights_into(model: nn.Module, path: Path) -> None:
    """Loads what :func:`save_weights` wrote into a network of the same shape, in place.

    Raises:
        WeightsError: The file is missing or damaged, or belongs to another network.
    """
    state = read_weights(path)
    try:
        model.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError) as error:
        raise WeightsError(f"Cannot go on from {path}: {_reason(error)}. {REMEDY}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads what :func:`save_weights` wrote.

    Raises:
        WeightsError: The file is missing, no plain file or damaged.
    """
    try:
        return read_safetensors(path)
    except WeightsError as error:
        raise WeightsError(f"Cannot go on from {path}: {error} {REMEDY}") from error


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()
