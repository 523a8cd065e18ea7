"""Writing LiteRT's format (``.tflite``), directly from the traced network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from secateur.deploy.formats import FORMATS, Format
from secateur.deploy.refusals import reason
from secateur.errors import ExportError
from secateur.graph.trace import Exported
from secateur.runtimes.silence import silence

__all__ = ["write_litert"]


def write_litert(traced: Exported, path: Path) -> None:
    """Writes the network for the batch size that it was traced with.

    Raises:
        ExportError: An operator cannot be converted; the message names it and the module that it comes from.
    """
    with silence():
        try:
            _convert(traced).export(str(path))
        except OSError:
            raise
        except Exception as error:  # one class per stage of the conversion
            raise ExportError(reason(error, "LiteRT", traced.program)) from error


def _convert(traced: Exported) -> Any:
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
    import litert_torch

    return litert_torch.convert(traced.program.module(check_guards=False), traced.args, traced.kwargs)


FORMATS.add("litert", Format(".tflite", "LiteRT (was TensorFlow Lite)", write_litert, "litert", fixed_batch=True))
