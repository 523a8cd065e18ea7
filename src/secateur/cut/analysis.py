"""What must be cut together in a network, what it costs, and what cannot be pruned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from secateur.core import arguments
from secateur.core.checks import check_network
from secateur.core.tables import Shown, Table
from secateur.core.types import ExampleInputs, Unsupported
from secateur.cost.counts import Costs
from secateur.cut.explain import Explanation, explained
from secateur.cut.selection import Selection, names_in, pinned_by_selection
from secateur.graph.copies import plain_network
from secateur.graph.flow import module_of
from secateur.graph.groups import Groups, solve
from secateur.graph.lines import line_of
from secateur.graph.solve import clusters
from secateur.graph.views import Also, labelled

__all__ = ["Analysis", "analyse", "nothing_free", "unsupported"]


@dataclass(frozen=True, repr=False)
class Analysis(Shown):
    """A network's groups, costs and what cannot be pruned.

    Attributes:
        groups: What must be cut together.
        costs: Exact costs under any choice of units.
        unsupported: What was pinned for want of a rule.
        notes: What the user should know: parameters that no traced way through the network uses …
    """

    groups: Groups
    costs: Costs
    unsupported: tuple[Unsupported, ...]
    notes: tuple[str, ...] = ()

    def explain(self, name: str) -> Explanation:
        """What the output channels of a layer, or of all in a module, go with, and why they stay.

        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> print(analyse(net, torch.zeros(1, 4)).explain("0.weight").rows[0])
        ('0.weight', '0', '8 of 8', 'with 0.bias, 2.weight, through linear in 0, relu in 1')
        """
        return explained(self.groups, name)

    def table(self) -> Table:
        """The groups, and what cannot be pruned."""
        items = self.groups.items
        rows = [(g.name, f"{len(g):,}", ", ".join(g.producers[1:4]) + ", …" * (len(g.producers) > 4)) for g in items]
        notes = [f"note: {note}" for note in self.notes]
        notes += [f"pinned: {u}" for u in self.unsupported]
        headline = f"{len(items)} group{'s' * (len(items) != 1)} of {self.groups.units:,} units that can be removed"
        return Table(headline, ("Group", "Units", "Cut together with"), rows, words=(0, 2), notes=notes)


@arguments.checked
def analyse(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    only: Selection | None = None,
    ignore: Selection = (),
    granularity: str = "auto",
    also: Also | None = None,
) -> Analysis:
    """Traces ``model`` and finds what must be cut together.

    Args:
        model: Any network; it is not touched.
        example_inputs: A tensor, a tuple, or a dict of keyword inputs.
        only: Modules (themselves, their names or patterns) whose output channels alone may be pruned.
        ignore: Modules (the same) whose output channels are kept.
        granularity: ``whole`` blocks (heads, groups), positions ``within`` them, or ``auto``.
        also: Further methods of the network that have to work after the cut, each with what it is called with
            (``{"embed": images}``); parameters that nothing traced uses stay whole.

    Raises:
        TraceError: The network cannot be traced.
        InputError: ``only`` or ``ignore`` holds a module of another network.
        UnknownNameError: They name a module that is not there.
    """
    only, ignore = names_in(model, only, "only"), names_in(model, ignore, "ignore")
    check_network(model, example_inputs)
    model = plain_network(model)
    found, notes = labelled(model, example_inputs, also)
    groups = solve(found, pinned_by_selection(found, model, only, ignore), granularity)
    return Analysis(groups, Costs(groups), unsupported(groups), notes)


def unsupported(groups: Groups) -> tuple[Unsupported, ...]:
    """Names what was pinned, and how many parameters hang on what it pinned."""
    flow = groups.flow
    if not flow.untraced:
        return ()
    cluster = clusters(flow.constraints, flow.constraints.edges)
    sizes = {n: p.numel() for n, p in flow.traced.module.named_parameters()}
    dims = {n: [v[0] for v in flow.tensors[n].dims.values()] for n in sizes if n in flow.tensors}
    found = []
    for untraced, tensors in flow.untraced:
        touched = np.zeros(int(cluster.max()) + 1, dtype=bool)
        touched[cluster[np.concatenate([v for t in tensors for vs in t.dims.values() for v in vs])]] = True
        touched[cluster[0]] = False
        held = sum(sizes[n] for n, vectors in dims.items() if any(touched[cluster[v]].any() for v in vectors))
        if held:  # else it touched nothing but tensors that were made on the way
            operator = str(untraced.node.target)
            where = module_of(untraced.node)
            found.append(Unsupported(operator, where, untraced.reason, held, line_of(untraced.node)))
    return tuple(found)


def nothing_free(analysis: Analysis) -> str:
    """Words for a network of which nothing can go, with what keeps it."""
    pinned = list(dict.fromkeys(map(str, analysis.unsupported)))
    why = (
        f"These operators keep what they touch: {'; '.join(pinned[:5])}."
        if pinned
        else ("Every channel reaches an input or output of the network, or only/ignore keep it.")
    )
    return f"Nothing can be pruned: the network has no free group. {why}"
