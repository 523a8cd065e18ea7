"""Where names have gone that an earlier state of the package had: using one says the new one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["MOVED", "watch"]

MOVED = {
    "analysis": "secateur.cut.analysis",
    "api": "secateur.cut.prune and secateur.cut.apply",
    "artifact": "secateur.cut.artifact",
    "commands": "secateur.cli.commands",
    "deploy": "secateur.runtimes (writing files) and secateur.exports (checking and publishing them)",
    "errors": "secateur.core.errors",
    "latency": "secateur.budget.latency (targets) and secateur.timing.latency (the function that measures)",
    "layers": "secateur.cut.layers",
    "measure": "secateur.timing (times) and secateur.cost (sizes)",
    "ops": "secateur.graph.ops; the decorator is secateur.operator",
    "plan": "secateur.core.plan",
    "pruned": "secateur.cut.pruned",
    "registry": "secateur.core.registry",
    "select": 'secateur.prune(…, criterion="reconstruction", data=…)',
    "trust": "secateur.recipe.trust",
    "types": "secateur.core.types",
}
"""Old name below ``secateur`` → what takes its place."""


class _Moved:
    """Asked when nothing else finds a module: words the error for those that have moved."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Finds nothing; raises :class:`ModuleNotFoundError` for a module that has moved."""
        package, _, rest = fullname.partition(".")
        if package == "secateur" and (new := MOVED.get(rest.partition(".")[0])) is not None:
            # Without the name, or `from secateur import errors` would hide the sentence behind one of its own.
            raise ModuleNotFoundError(f"{fullname} has moved: it is in {new}.")
        return None


def watch() -> None:
    """Lets imports of modules that have moved say where to."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
