"""What runs networks: PyTorch, and the runtimes that networks are exported to. One file a runtime."""

from __future__ import annotations

from secateur.runtimes import executorch, litert, onnxruntime, openvino, pytorch  # noqa: F401 (each adds itself)
from secateur.runtimes.base import RUNTIMES, Program, Runtime, installed, runtime, title_of

__all__ = ["RUNTIMES", "Program", "Runtime", "installed", "runtime", "title_of"]
