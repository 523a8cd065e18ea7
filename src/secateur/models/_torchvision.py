"""Imports torchvision also where its compiled operators do not fit the installed PyTorch.

A CPU-only PyTorch beside the package registry's torchvision wheel fails on ``import torchvision`` with
``operator torchvision::nms does not exist``: the Python files register shape functions for compiled
operators that the wheel could not load. Declaring the operators' schemas is enough to import the
networks (which use none of them). It is done only after the plain import failed with exactly that error.
"""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType

import torch

from secateur.core.errors import InputError

__all__ = ["import_torchvision"]

_MISSING = re.compile(r"operator torchvision::(\w+) does not exist")
_KNOWN = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_LIBRARIES: list[torch.library.Library] = []  # a declaration lasts as long as its Library object


def import_torchvision(extra: str = "zoo") -> ModuleType:
    """Returns the ``torchvision`` module; everything in this project that needs it comes here first.

    Args:
        extra: The extra of Secateur that installs it with what else the caller needs.

    Raises:
        InputError: torchvision is not installed, or cannot be imported for another reason.
    """
    for _ in range(32):  # one turn per operator that has to be declared
        try:
            return importlib.import_module("torchvision")
        except ImportError as error:
            if error.name and error.name.split(".")[0] == "torchvision":
                raise InputError(f'torchvision is not installed: pip install "secateur[{extra}]".') from error
            raise InputError(f"torchvision cannot be imported: {error}") from error
        except RuntimeError as error:
            missing = _MISSING.search(str(error))
            if missing is None:
                raise
            _purge()
            _declare(missing.group(1))
    raise InputError("torchvision lacks many operators; reinstall it for this PyTorch.")


def _declare(operator: str) -> None:
    """Declares an operator that only has to exist, not to run."""
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define(_KNOWN.get(operator, f"{operator}(Tensor input) -> Tensor"))  # type: ignore[no-untyped-call]
    _LIBRARIES.append(library)


def _purge() -> None:
    """Forgets the half-imported modules, so that the next import starts afresh."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
