"""Plans and units: which units of a network a plan leaves, and which plan choices of units are."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.core.errors import PlanError
from secateur.core.plan import Plan
from secateur.cost.counts import Costs
from secateur.cut.analysis import Analysis, unsupported
from secateur.graph.flow import Flow
from secateur.graph.groups import Groups, solve
from secateur.graph.solve import GRANULARITIES
from secateur.surgery.graph import new_indices

__all__ = ["fitting", "plan_of"]

Mask = NDArray[np.bool_]


def plan_of(groups: Groups, label_keep: Mask, provenance: Any) -> Plan:
    """The plan of a choice of labels, shape (labels,)."""
    keep, shapes = {}, {}
    for name, labels in groups.flow.tensors.items():
        masks = groups.masks(labels, label_keep)
        if masks:
            keep[name] = {d: tuple(np.flatnonzero(m).tolist()) for d, m in sorted(masks.items())}
            shapes[name] = labels.shape
    with contextlib.suppress(PlanError):  # no module can hold them then, only a graph
        return Plan(keep, shapes, provenance, indices=new_indices(groups, label_keep))
    return Plan(keep, shapes, provenance)


def fitting(labelled: Flow, plan: Plan) -> tuple[Analysis, Mask]:
    """Finds the granularity that a plan was made with, and the units that it leaves."""
    error: PlanError | None = None
    for granularity in GRANULARITIES:
        groups = solve(labelled, granularity=granularity)
        try:
            return Analysis(groups, Costs(groups), unsupported(groups)), _units_of(groups, plan)
        except PlanError as caught:
            error = error or caught
    assert error is not None
    raise error


def _units_of(groups: Groups, plan: Plan) -> Mask:
    """Which units a plan leaves; checks that it cuts them whole and fits the shapes."""
    tensors = groups.flow.tensors
    keep = np.ones(groups.units, dtype=bool)
    for name, dims in plan.keep.items():
        if name not in tensors:
            raise PlanError(f"The plan cuts {name!r}, which this network does not have.")
        if tensors[name].shape != plan.dense_shapes[name]:
            raise PlanError(
                f"The plan was made for {name!r} of shape {plan.dense_shapes[name]}; here it is {tensors[name].shape}."
            )
        for dim, kept in dims.items():
            gone = np.setdiff1d(np.arange(tensors[name].shape[dim]), kept)
            units = groups.unit_of(tensors[name].at(dim)[0][gone])
            keep[units[units >= 0]] = False
    made = plan_of(groups, groups.label_keep(keep), plan.provenance)
    if made.keep != {n: dict(d) for n, d in plan.keep.items()}:
        wrong = sorted(n for n in {*made.keep, *plan.keep} if made.keep.get(n) != plan.keep.get(n))
        raise PlanError(
            f"The plan cuts only part of what must go together in this network (first: {wrong[0]!r}, "
            f"{len(wrong)} tensors in all). It was made for another network, or changed by hand."
        )
    return keep
