"""Secateur makes trained PyTorch networks smaller and faster by pruning."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur import criteria, data, loggers, models
    from secateur.budget.sensitivity import Sensitivity
    from secateur.core.conformance import check
    from secateur.core.errors import BudgetError, PlanError, SecateurError, TraceError, VerificationError
    from secateur.core.metric import Metric
    from secateur.core.plan import Plan
    from secateur.core.plugins import use
    from secateur.core.progress import silent
    from secateur.core.types import Counts, Target, Verification
    from secateur.cost.counts import count
    from secateur.criteria import criterion
    from secateur.cut.analysis import analyse
    from secateur.cut.artifact import cut_shards, from_pretrained, load
    from secateur.cut.experts import remove_experts
    from secateur.cut.layers import removable, remove_layers
    from secateur.cut.prune import apply, prune
    from secateur.cut.pruned import Pruned
    from secateur.cut.vocabulary import cut_vocabulary
    from secateur.exports import bundle, export
    from secateur.graph.rules import operator
    from secateur.recipe.python import compare, resume, run, sweep
    from secateur.recipe.steps import step
    from secateur.recovery import closest, prune_to, purify, recover, tune
    from secateur.recovery.sensitivity import sensitivity
    from secateur.report.inspection import inspect
    from secateur.runtimes import runtime
    from secateur.searching import search
    from secateur.sparsity.storage import compress, decompress
    from secateur.sparsity.weights import sparsify
    from secateur.task import Task
    from secateur.train import TrainConfig, evaluate, fit

from secateur.core.moved import MOVED, watch

__version__ = "0.1.0"

watch()

__all__ = [
    "BudgetError",
    "Counts",
    "Metric",
    "Plan",
    "PlanError",
    "Pruned",
    "SecateurError",
    "Sensitivity",
    "Target",
    "Task",
    "TraceError",
    "TrainConfig",
    "Verification",
    "VerificationError",
    "analyse",
    "apply",
    "bundle",
    "check",
    "closest",
    "compare",
    "compress",
    "count",
    "criteria",
    "criterion",
    "cut_shards",
    "cut_vocabulary",
    "data",
    "decompress",
    "evaluate",
    "export",
    "fit",
    "from_pretrained",
    "inspect",
    "load",
    "loggers",
    "models",
    "operator",
    "prune",
    "prune_to",
    "purify",
    "recover",
    "removable",
    "remove_experts",
    "remove_layers",
    "resume",
    "run",
    "runtime",
    "search",
    "sensitivity",
    "silent",
    "sparsify",
    "step",
    "sweep",
    "tune",
    "use",
]

# Names are looked up on first use, so that `secateur --help` does not wait for PyTorch.
_HOME = {
    "BudgetError": "secateur.core.errors",
    "PlanError": "secateur.core.errors",
    "SecateurError": "secateur.core.errors",
    "TraceError": "secateur.core.errors",
    "VerificationError": "secateur.core.errors",
    "Counts": "secateur.core.types",
    "Metric": "secateur.core.metric",
    "Task": "secateur.task",
    "compare": "secateur.recipe.python",
    "evaluate": "secateur.train",
    "TrainConfig": "secateur.train",
    "fit": "secateur.train",
    "resume": "secateur.recipe.python",
    "run": "secateur.recipe.python",
    "sweep": "secateur.recipe.python",
    "silent": "secateur.core.progress",
    "Plan": "secateur.core.plan",
    "Pruned": "secateur.cut.pruned",
    "Sensitivity": "secateur.budget.sensitivity",
    "Target": "secateur.core.types",
    "Verification": "secateur.core.types",
    "analyse": "secateur.cut.analysis",
    "apply": "secateur.cut.prune",
    "bundle": "secateur.exports",
    "check": "secateur.core.conformance",
    "compress": "secateur.sparsity.storage",
    "count": "secateur.cost.counts",
    "criterion": "secateur.criteria",
    "cut_shards": "secateur.cut.artifact",
    "cut_vocabulary": "secateur.cut.vocabulary",
    "decompress": "secateur.sparsity.storage",
    "export": "secateur.exports",
    "from_pretrained": "secateur.cut.artifact",
    "inspect": "secateur.report.inspection",
    "load": "secateur.cut.artifact",
    "operator": "secateur.graph.rules",
    "prune": "secateur.cut.prune",
    "prune_to": "secateur.recovery",
    "closest": "secateur.recovery",
    "purify": "secateur.recovery",
    "recover": "secateur.recovery",
    "removable": "secateur.cut.layers",
    "remove_experts": "secateur.cut.experts",
    "remove_layers": "secateur.cut.layers",
    "runtime": "secateur.runtimes",
    "search": "secateur.searching",
    "sensitivity": "secateur.recovery.sensitivity",
    "sparsify": "secateur.sparsity.weights",
    "step": "secateur.recipe.steps",
    "tune": "secateur.recovery",
    "use": "secateur.core.plugins",
}
_MODULES = {"criteria", "data", "loggers", "models"}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use (PEP 562)."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(f"secateur.{name}")
    if name in MOVED:
        raise AttributeError(f"secateur.{name} has moved: it is {MOVED[name]}.")
    raise AttributeError(f"module 'secateur' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*__all__, "__version__"])
