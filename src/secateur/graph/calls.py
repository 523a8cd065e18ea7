"""What the submodules of a network are called with when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from secateur.core.samples import Arguments
from secateur.graph.calling import cloned, preserved_rng

__all__ = ["calls_of"]


def calls_of(twin: nn.Module, paths: Sequence[str], args: Any, kwargs: Any) -> dict[str, list[Arguments]]:
    """Runs a network once and notes every call of some submodules.

    Args:
        twin: A copy of the network; hooks are set on it for as long as it runs.
        paths: Names of the submodules.
        args: Positional inputs of the network.
        kwargs: Keyword inputs.

    Returns:
        Positional and keyword inputs of every call, in their order, by name.
    """
    calls: dict[str, list[Arguments]] = {path: [] for path in paths}
    hooks = []
    for path in paths:

        def note(module: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
            calls[path].append(cloned((args, kwargs)))

        hooks.append(twin.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True))
    args, kwargs = cloned((args, kwargs))
    try:
        with preserved_rng(), torch.no_grad():
            twin(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls
