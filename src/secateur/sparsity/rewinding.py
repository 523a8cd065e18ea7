"""What to train a pruned architecture from: the weights it once had, or fresh ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from secateur.core import arguments
from secateur.core.errors import InputError, WeightsError
from secateur.core.plan import Plan
from secateur.graph.copies import deep_copy
from secateur.sparsity.masks import Masks, apply_masks
from secateur.surgery.graph import slice_tensor
from secateur.train.extras import Extra

__all__ = ["Snapshot", "fresh", "rewind", "sliced"]


class Snapshot(Extra):
    """Hands out the weights as they are after some epoch, so that a later step can return to them."""

    def __init__(self, after: Mapping[int, Callable[[nn.Module], Any]]) -> None:
        """``after``: what to call with the network, by epoch (from 1)."""
        self.after = dict(after)

    def settings(self) -> dict[str, Any]:
        """Which epochs are kept."""
        return {**super().settings(), "after": sorted(self.after)}

    def epoch(self, model: nn.Module, epoch: int) -> Mapping[str, Any]:
        """Hands out the weights of the epochs that were asked for."""
        if epoch in self.after:
            self.after[epoch](model)
        return {}


def sliced(early: Mapping[str, Tensor], plan: Plan, model: nn.Module) -> dict[str, Tensor]:
    """The entries of ``early`` that ``plan`` keeps, for every parameter and buffer of the pruned ``model``.

    Args:
        early: State of the dense network at another time.
        plan: What was cut, in the dense network's indices.
        model: The pruned network.

    Raises:
        WeightsError: A tensor is missing, or of another shape than the plan counts from.

    >>> plan = Plan({"weight": {0: (1,)}, "bias": {0: (1,)}}, {"weight": (2, 3), "bias": (2,)})
    >>> sliced({"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}, plan, nn.Linear(3, 1))["weight"]
    tensor([[3., 4., 5.]])
    """
    found = {}
    for name, now in model.state_dict().items():
        if name not in early:
            raise WeightsError(f"The early weights hold no {name!r}, which the pruned network has.")
        shape = plan.dense_shapes.get(name)
        if shape is not None and tuple(early[name].shape) != shape:
            raise WeightsError(f"The early {name!r} is {tuple(early[name].shape)}; the plan counts from {shape}.")
        found[name] = slice_tensor(early[name], plan.keep.get(name, {}))
        if found[name].shape != now.shape:
            raise WeightsError(
                f"What the plan keeps of the early {name!r} is {tuple(found[name].shape)}; the pruned network's is "
                f"{tuple(now.shape)}. Take the weights of the network that was pruned."
            )
    return found


@arguments.checked
def rewind(
    model: nn.Module, early: Mapping[str, Tensor], plan: Plan | None = None, *, masks: Masks | None = None
) -> nn.Module:
    """Lets every weight that survived return to the value it had early in training.

    Source: Frankle & Carbin 2019, The Lottery Ticket Hypothesis, https://arxiv.org/abs/1803.03635 (back to the
    initialisation); Frankle et al. 2020, https://arxiv.org/abs/1912.05671 (back to an early epoch).

    Args:
        model: The pruned network; it is left untouched.
        early: State dict of the dense network at the earlier time.
        plan: What was cut; ``None`` where only single weights were removed.
        masks: Which single weights stay; the others are zero again.

    Returns:
        A copy with the early values.

    Raises:
        WeightsError: ``early`` does not fit.
    """
    result = deep_copy(model)
    result.load_state_dict(sliced(early, plan or Plan({}, {}), model))
    apply_masks(result, masks or {})
    return result


@arguments.checked
def fresh(model: nn.Module, *, seed: int, dense: nn.Module | None = None, plan: Plan | None = None) -> nn.Module:
    """The architecture of ``model`` with new weights: the control *train from scratch*.

    Every layer is initialised by its own ``reset_parameters``. A graph has no layers: then the dense network is
    initialised so, and the kept entries of it are taken. Source: Liu et al. 2019, Rethinking the Value of Network
    Pruning, https://arxiv.org/abs/1810.05270.

    Args:
        model: The pruned network; it is left untouched.
        seed: Of the new weights.
        dense: The network that was pruned, for graphs.
        plan: What was cut, for graphs.

    Raises:
        InputError: A parameter belongs to a layer that cannot initialise itself.
    """
    if not isinstance(model, GraphModule):
        return _reset(deep_copy(model), seed)
    if dense is None or plan is None or isinstance(dense, GraphModule):
        raise InputError("A graph has no layers that could be initialised: give the dense network and the plan.")
    result = deep_copy(model)
    result.load_state_dict(sliced(_reset(deep_copy(dense), seed).state_dict(), plan, model))
    return result


def _reset(model: nn.Module, seed: int) -> nn.Module:
    left = {name for name, p in model.named_parameters()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for path, module in model.named_modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
                left -= {f"{path}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)}
    if left:
        raise InputError(
            f"{', '.join(sorted(left)[:5])} ({len(left)} in all) cannot be trained from scratch: their modules have "
            "no reset_parameters() that would initialise them. Give them one."
        )
    return model
