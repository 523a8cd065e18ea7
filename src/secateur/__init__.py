"""Secateur makes trained PyTorch networks smaller and faster by pruning."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur import criteria, data, models, sparsify
    from secateur.analysis import analyse
    from secateur.api import apply, prune
    from secateur.artifact import load
    from secateur.criteria import criterion
    from secateur.deploy import export
    from secateur.errors import BudgetError, PlanError, SecateurError, TraceError, VerificationError
    from secateur.layers import removable, remove_layers
    from secateur.measure.counts import count
    from secateur.plan import Plan
    from secateur.pruned import Pruned
    from secateur.recovery import purify, recover, select
    from secateur.sparsify.storage import compress, decompress
    from secateur.types import Counts, Target, Verification

__version__ = "0.1.0"

__all__ = [
    "BudgetError",
    "Counts",
    "Plan",
    "PlanError",
    "Pruned",
    "SecateurError",
    "Target",
    "TraceError",
    "Verification",
    "VerificationError",
    "analyse",
    "apply",
    "compress",
    "count",
    "criteria",
    "criterion",
    "data",
    "decompress",
    "export",
    "load",
    "models",
    "prune",
    "purify",
    "recover",
    "removable",
    "remove_layers",
    "select",
    "sparsify",
]

# Names are looked up on first use, so that `secateur --help` does not wait for PyTorch.
_HOME = {
    "BudgetError": "secateur.errors",
    "PlanError": "secateur.errors",
    "SecateurError": "secateur.errors",
    "TraceError": "secateur.errors",
    "VerificationError": "secateur.errors",
    "Counts": "secateur.types",
    "Plan": "secateur.plan",
    "Pruned": "secateur.pruned",
    "Target": "secateur.types",
    "Verification": "secateur.types",
    "analyse": "secateur.analysis",
    "apply": "secateur.api",
    "compress": "secateur.sparsify.storage",
    "count": "secateur.measure.counts",
    "criterion": "secateur.criteria",
    "decompress": "secateur.sparsify.storage",
    "export": "secateur.deploy",
    "load": "secateur.artifact",
    "prune": "secateur.api",
    "purify": "secateur.recovery",
    "recover": "secateur.recovery",
    "removable": "secateur.layers",
    "remove_layers": "secateur.layers",
    "select": "secateur.recovery",
}
_MODULES = {"criteria", "data", "models", "sparsify"}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use (PEP 562)."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(f"secateur.{name}")
    raise AttributeError(f"module 'secateur' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*__all__, "__version__"])
