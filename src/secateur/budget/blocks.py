"""A share of the parameters of every block, and of the whole: how many of its channels that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from secateur.budget.choose import Chosen, first_few, without
from secateur.budget.order import Step, removal_order
from secateur.core.errors import BudgetError
from secateur.core.plan import Plan
from secateur.cost.counts import Costs

__all__ = ["by_parameters"]

Mask = NDArray[np.bool_]


def by_parameters(
    costs: Costs,
    scores: Mapping[int, NDArray[np.float64]],
    share: float,
    *,
    round_to: int = 1,
    min_units: int = 1,
    absolute: bool = False,
    earlier: Plan | None = None,
) -> Chosen:
    """Chooses widths with which every block, and so the whole, loses a share of its parameters within one channel.

    A block's channels go in the order of scope ``block``, as many as bring the loss of the block's parameters, all
    tensors of the module that is the block, nearest to ``share``. Then single channels more or less, in blocks that
    stay within one channel of the share, bring the loss of the whole network nearest to it. The network itself is no
    block where there are others: what lies in none of them (a stem, a classifier) stays, and so do streams between
    blocks.

    Source: Sualiheen and Kim, Development of a lightweight DNN model using channel pruning with transfer learning,
    Table 1: ResNet-50 loses 10.0 % of the parameters of every block and of all.

    Args:
        costs: Exact costs of the network under any choice.
        scores: Scores of the units that may go, by group number; higher = keep.
        share: Share of the parameters that goes, in [0, 1).
        round_to: Widths that are left are multiples of this.
        min_units: Units that every group keeps at least.
        absolute: Whether scores of different groups compare as they are.
        earlier: Cuts that count towards the share, which then is of the network before the first of them.

    Raises:
        BudgetError: No block has a channel that may go.
    """
    groups = costs.groups.items
    steps = removal_order(groups, scores, scope="block", round_to=round_to, min_units=min_units, absolute=absolute)
    queues: dict[str, list[Step]] = {}
    for step in steps:
        queues.setdefault(groups[step.group].block, []).append(step)
    if len(queues) > 1:
        queues.pop("", None)
    keep = np.ones(costs.groups.units, dtype=bool)
    if share == 0:
        return Chosen(keep)
    if not queues:
        raise BudgetError(
            f"Nothing can be pruned: round_to={round_to} and min_units={min_units} leave no smaller width in any of "
            f"the {len(scores)} groups that lie inside a block."
        )
    order = sorted(queues, key=lambda name: -name.count("."))  # a block inside another first; stable otherwise
    blocks = []
    for name in order:
        block = _Block(name, queues[name], share * _before(costs, name, earlier), costs.params_in(name, keep))
        keep = block.take(costs, keep, earlier)
        blocks.append(block)
    whole = share * _before(costs, "", earlier)
    keep = _settled(costs, blocks, keep, whole - _gone(costs, "", keep, earlier))
    return Chosen(keep, _missed(costs, blocks, keep, share, earlier))


@dataclass
class _Block:
    """A block while its channels are taken.

    Attributes:
        name: Its module.
        steps: What may go, in order.
        wanted: Parameters that are to go.
        size: Parameters that it has now.
        taken: How many of ``steps`` went.
        miss: Parameters by which less than ``wanted`` went; below 0 where more did.
    """

    name: str
    steps: Sequence[Step]
    wanted: float
    size: int
    taken: int = 0
    miss: float = field(default=0.0)

    def take(self, costs: Costs, keep: Mask, earlier: Plan | None) -> Mask:
        """Takes as many channels as bring the loss nearest to what is wanted."""

        def lost(count: int) -> int:
            return _gone(costs, self.name, without(keep, self.steps[:count]), earlier)

        low, high = 0, len(self.steps)  # low loses less than is wanted, or nothing; beyond high is nothing
        while low < high:
            middle = (low + high + 1) // 2
            if lost(middle) <= self.wanted:
                low = middle
            else:
                high = middle - 1
        near = [low, *([low + 1] if low < len(self.steps) else [])]
        self.taken = min(near, key=lambda count: abs(lost(count) - self.wanted))
        self.miss = self.wanted - lost(self.taken)
        return without(keep, self.steps[: self.taken])

    def next(self, *, more: bool) -> Step | None:
        """The channel that would go next, or that would come back."""
        at = self.taken if more else self.taken - 1
        return self.steps[at] if 0 <= at < len(self.steps) else None


def _settled(costs: Costs, blocks: Sequence[_Block], keep: Mask, missing: float) -> Mask:
    """Lets single channels more or less go until the whole is as near as blocks within one channel allow.

    Args:
        costs: Exact costs.
        blocks: The blocks, each as near as it can be.
        keep: Which units stay.
        missing: Parameters of the whole that are still to go; below 0 where too many went.
    """
    open_blocks = list(blocks)
    more = missing > 0
    while open_blocks:
        found: list[tuple[float, int, _Block, Mask]] = []
        for number, block in enumerate(open_blocks):
            step = block.next(more=more)
            if step is None or (block.miss > 0) != more or block.miss == 0:
                continue
            trial = keep.copy()
            trial[step.units] = not more
            change = costs.measure("params", keep) - costs.measure("params", trial)
            if abs(missing - change) < abs(missing):
                found.append((abs(missing - change), number, block, trial))
        if not found:
            break
        _, _, block, trial = min(found, key=lambda one: one[:2])
        missing -= costs.measure("params", keep) - costs.measure("params", trial)
        block.miss -= costs.params_in(block.name, keep) - costs.params_in(block.name, trial)
        block.taken += 1 if more else -1
        keep = trial
        open_blocks.remove(block)
    return keep


def _gone(costs: Costs, name: str, keep: Mask, earlier: Plan | None) -> int:
    """Parameters of a module that went, in earlier cuts too."""
    return _before(costs, name, earlier) - costs.params_in(name, keep)


def _before(costs: Costs, name: str, earlier: Plan | None) -> int:
    """Parameters of a module before the first of the earlier cuts."""
    now = costs.params_in(name, np.ones(costs.groups.units, dtype=bool))
    shapes = {} if earlier is None else earlier.dense_shapes
    below, parameters = f"{name}." if name else "", costs.groups.flow.parameters
    own = (n for n in shapes if n in parameters and n.startswith(below))
    return now + sum(prod(shapes[n]) - parameters[n].numel() for n in own)


def _missed(costs: Costs, blocks: Sequence[_Block], keep: Mask, share: float, earlier: Plan | None) -> tuple[str, ...]:
    """What of the blocks and the whole is further from the share than a channel."""
    notes, largest = [], 0.0
    far = []
    for block in blocks:
        channel = _channel(costs, block, keep)
        largest = max(largest, channel)
        if abs(block.miss) > channel:
            far.append(f"{block.name or 'the network'} ({_share(costs, block.name, keep, earlier)})")
    if far:
        notes.append(
            f"the share of the parameters that goes from a block is {share:.1%} within one channel, but not in "
            f"{first_few(far)}: no more of their channels may go, or what enters them went"
        )
    if abs(share * _before(costs, "", earlier) - _gone(costs, "", keep, earlier)) > largest:
        notes.append(
            f"of the whole network {_share(costs, '', keep, earlier)} of the parameters go, of its blocks {share:.1%}: "
            "what lies in no block stays"
        )
    return tuple(notes)


def _channel(costs: Costs, block: _Block, keep: Mask) -> float:
    """Parameters of the block's largest removal beside those that were made."""
    sizes = [0.0]
    for step in filter(None, (block.next(more=more) for more in (True, False))):
        other = keep.copy()
        other[step.units] = not other[step.units].all()
        sizes.append(abs(costs.params_in(block.name, keep) - costs.params_in(block.name, other)))
    return max(sizes)


def _share(costs: Costs, name: str, keep: Mask, earlier: Plan | None) -> str:
    return f"{_gone(costs, name, keep, earlier) / max(1, _before(costs, name, earlier)):.1%}"
