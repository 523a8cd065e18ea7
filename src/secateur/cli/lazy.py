"""Modules that are imported at their first use, so that ``--help`` does not wait for PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["Lazy"]


class Lazy:
    """Stands for a module until something in it is looked up.

    The standard library's lazy loader puts such a module into ``sys.modules``, where whatever looks at all modules
    (``inspect``, while PyTorch is imported) would load it in the middle of that. Use it beside an import for types
    alone, so that calls stay checked::

        if TYPE_CHECKING:
            from secateur.cli.commands import pruning
        else:
            pruning = Lazy("secateur.cli.commands.pruning")

    >>> Lazy("secateur.cli.commands.show").__name__
    'secateur.cli.commands.show'
    """

    def __init__(self, name: str) -> None:
        """``name`` is the module's full name."""
        self._name = name

    def __getattr__(self, name: str) -> Any:
        """Imports the module, if it is not there, and looks the name up in it."""
        return getattr(import_module(self._name), name)
