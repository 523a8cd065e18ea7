"""What stands in for the proof where a network has no values: the operators and their sizes are those of the plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.fx import Node

from secateur.core.errors import VerificationError, first_line
from secateur.graph.batch import Unfollowed
from secateur.graph.flow import module_of
from secateur.graph.groups import Groups
from secateur.graph.record import record_call
from secateur.graph.schema import plain_name
from secateur.surgery.reference import CutEntries

__all__ = ["check_sizes"]


def check_sizes(small: nn.Module, groups: Groups, label_keep: NDArray[np.bool_], *, scaled: bool = False) -> None:
    """Records the smaller network beside the dense one; what goes another way or has other sizes is refused.

    This is no proof: nothing is computed. It keeps out a network whose code holds a size or a factor that the cut
    changes, as far as its operators show it.

    Args:
        small: The smaller network, on the meta device.
        groups: Groups of the dense network.
        label_keep: Which labels stay, shape (labels,).
        scaled: Whether weights were multiplied to make up for factors, which differ then.

    Raises:
        VerificationError: Names the first operator that is another one, or of another size; or the network was traced
            by ``torch.export``, beside which nothing can be recorded.
    """
    entries = CutEntries(groups, label_keep)
    for view in groups.flow.views:
        if not view.recorded:
            raise VerificationError(
                f"Without values its {view.name} can be compared only where the recorder follows it, not torch.export."
            )
        try:
            now = record_call(small, view.args, view.kwargs, method=view.method, training=view.training)
        except Unfollowed as error:
            raise VerificationError(f"Its code does not run at the new sizes ({first_line(error)}).") from error
        operators = view.operators, now.operators
        for dense, node in zip(*operators, strict=False):
            if plain_name(dense.target) != plain_name(node.target):
                raise VerificationError(
                    f"{dense.target} in {module_of(dense) or '(top level)'} becomes {node.target} at the new sizes."
                )
            wanted, got = entries.shape_after(dense), _shape(node)
            if wanted != got:
                raise VerificationError(f"{_named(dense)} is of shape {got} at the new sizes, and has to be {wanted}.")
            if not scaled and [*_factors(dense)] != [*_factors(node)]:
                raise VerificationError(f"{_named(dense)} is called with another factor at the new sizes.")
        if len(operators[0]) != len(operators[1]):
            raise VerificationError(f"It calls {len(operators[1])} operators, and the dense one {len(operators[0])}.")


def _named(node: Node) -> str:
    return f"{node.target} in {module_of(node) or '(top level)'}"


def _shape(node: Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return None if value is None or not hasattr(value, "shape") else tuple(value.shape)


def _factors(node: Node) -> Iterator[Any]:
    """Numbers with a fraction that an operator is called with."""
    return (value for value in (*node.args, *node.kwargs.values()) if isinstance(value, float))
