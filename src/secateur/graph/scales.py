"""The scales γ of batch normalisations."""

from __future__ import annotations

from collections.abc import Iterable

from torch.fx import Node

from secateur.graph.facts import Kind
from secateur.graph.rules import facts
from secateur.graph.schema import arguments

__all__ = ["batch_norms", "scale_names"]


def batch_norms(nodes: Iterable[Node]) -> list[Node]:
    """The batch normalisations among ``nodes``."""
    return [n for n in nodes if facts(n).kind in (Kind.BATCH_NORM, Kind.NATIVE_BATCH_NORM)]


def scale_names(nodes: Iterable[Node]) -> tuple[str, ...]:
    """Names of the parameters that are the γ of a batch normalisation among ``nodes``, in the order of execution."""
    scales = [arguments(n)["weight"] for n in batch_norms(nodes)]
    return tuple(dict.fromkeys(str(s.target) for s in scales if isinstance(s, Node)))
