"""What runs networks: PyTorch, and the runtimes that networks are exported to."""

from __future__ import annotations

from secateur.runtimes import executorch, litert, onnxruntime, openvino, pytorch  # noqa: F401 (each adds itself)
from secateur.runtimes.base import RUNTIMES, Program, Runtime, installed

__all__ = ["RUNTIMES", "Program", "Runtime", "installed"]
