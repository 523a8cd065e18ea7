"""A network's weights to and from a file, between the steps of a run."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from secateur.errors import WeightsError

__all__ = ["load_weights_into", "save_weights"]


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes the state dict as safetensors, in one step."""
    # Clones, because safetensors refuses tensors that share memory (tied weights).
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary)
        temporary.chmod(0o644)  # safetensors makes files that only their owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_weights_into(model: nn.Module, path: Path) -> None:
    """Loads what :func:`save_weights` wrote into a network of the same shape, in place.

    Raises:
        WeightsError: The file is missing or damaged, or belongs to another network.
    """
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise WeightsError(
            f"Cannot go on from {path}: {reason}. Delete the run's folder and start it again."
        ) from error
