"""Bytes: of a network on disk, and at the peak of one forward pass."""

from __future__ import annotations

from os import PathLike

from torch import nn

from secateur.types import ExampleInputs

__all__ = ["peak_memory", "size_on_disk"]


def size_on_disk(target: nn.Module | str | PathLike[str]) -> int:
    """Returns bytes: of a file, of all files in a folder, or of a network's weights as safetensors."""
    raise NotImplementedError


def peak_memory(model: nn.Module, inputs: ExampleInputs) -> int:
    """Returns the bytes of tensors alive at the peak of one forward pass, weights and inputs included."""
    raise NotImplementedError
