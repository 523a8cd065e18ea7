"""One function that writes a network to a file another runtime can run."""

from __future__ import annotations

from os import PathLike

from torch import nn

from secateur.deploy.checks import ExportCheck
from secateur.types import ExampleInputs

__all__ = ["export"]


def export(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: str | PathLike[str],
    to: str = "onnx",
    *,
    check_inputs: ExampleInputs | None = None,
    tolerance: float = 1e-3,
) -> ExportCheck:
    """Writes the network to ``path`` and checks the file against PyTorch before it gets its name."""
    raise NotImplementedError
