"""What a training loop holds beside the network follows a cut: optimizers, schedulers, averaged copies."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from secateur.core.errors import InputError
from secateur.core.plan import Plan, Scaled, dense_name
from secateur.graph.copies import copy_network, unwrapped
from secateur.graph.unsharded import laid_out, resharded, whole
from secateur.surgery.factors import scale_entries
from secateur.surgery.graph import slice_tensor

__all__ = ["carried"]

_POWERS = {
    "exp_avg_sq": -2, "max_exp_avg_sq": -2, "square_avg": -2, "sum": -2, "exp_avg_var": -2, "row_var": -2,
    "col_var": -2, "acc_delta": 2, "step_size": 1, "ax": 1,
}  # fmt: skip
"""State by what a weight that is multiplied by f multiplies it by, as a power of f: means of squared gradients, means
of squared steps, steps, means of weights. All other is as large as a gradient (−1)."""


def carried(thing: Any, small: nn.Module, sources: Sequence[tuple[nn.Module, Plan]], known: dict[int, Any]) -> Any:
    """One thing of a training loop, for the smaller network.

    Args:
        thing: An optimizer, a scheduler, or a copy of the network (averaged over steps, say).
        small: The pruned network.
        sources: Networks that it may belong to, each with the plan that leads from there to ``small``.
        known: Optimizers that were carried already, by the ``id`` of what they come from.

    Raises:
        InputError: It belongs to another network, or is none of these.
    """
    if isinstance(thing, Optimizer):
        if id(thing) not in known:
            known[id(thing)] = _optimizer(thing, small, sources)
        return known[id(thing)]
    if isinstance(thing, LRScheduler) or hasattr(thing, "optimizer"):
        return _scheduler(thing, small, sources, known)
    if isinstance(thing, nn.Module):
        return _network(thing, small, sources)
    raise InputError(
        f"carry takes optimizers, schedulers and copies of the network; got {type(thing).__name__}. Tensors that you "
        "keep yourself follow the plan: pruned.plan.keep[name][dimension] are the entries that stay."
    )


class _Cut:
    """One way from a network to the smaller one."""

    def __init__(self, source: nn.Module, plan: Plan, small: nn.Module) -> None:
        self.plan = plan
        for network in (source, small):  # optimizers know the shards
            resharded(network)
        self.names = {id(p): n for n, p in source.named_parameters(remove_duplicate=False)}
        self.shapes = {n: tuple(p.shape) for n, p in source.named_parameters(remove_duplicate=False)}
        self.small = {self.dense(n): p for n, p in small.named_parameters(remove_duplicate=False)}

    def dense(self, name: str) -> str:
        """What a tensor of the smaller network is called in the network that was cut."""
        return dense_name(name, self.plan.shortened)

    def holds(self, parameters: Sequence[Tensor]) -> bool:
        return all(id(p) in self.names for p in parameters)

    def tensor(self, name: str, tensor: Tensor, power: int) -> Tensor:
        """The part of a tensor of a parameter's shape that stays; ``power`` of the factors of multiplied entries."""
        held = {d for d, size in enumerate(tensor.shape) if size > 1}  # of one row or column the others are one entry
        made = slice_tensor(whole(tensor), {d: k for d, k in self.plan.keep.get(name, {}).items() if d in held})
        scaled = [Scaled(s.dim, s.entries, s.factor**power) for s in self.plan.scaled.get(name, ()) if s.dim in held]
        return laid_out(scale_entries(made, scaled), self.small.get(name))


def _optimizer(optimizer: Optimizer, small: nn.Module, sources: Sequence[tuple[nn.Module, Plan]]) -> Optimizer:
    given = [p for group in optimizer.param_groups for p in group["params"]]
    cut = next((c for c in (_Cut(source, plan, small) for source, plan in sources) if c.holds(given)), None)
    if cut is None:
        raise InputError(
            f"{type(optimizer).__name__} holds parameters that are not of the network that was cut. Carry the "
            "optimizer of that network, before it is moved or copied."
        )
    of = {id(p): cut.small[cut.names[id(p)]] for p in given if cut.names[id(p)] in cut.small}
    made: Optimizer = type(optimizer).__new__(type(optimizer))
    # A scheduler puts a step of its own on an optimizer, which would step the old one.
    made.__dict__.update({k: v for k, v in vars(optimizer).items() if k not in ("step", "state", "param_groups")})
    made.defaults = dict(optimizer.defaults)
    made.param_groups = [{**g, "params": list(_unique(of[id(p)] for p in g["params"] if id(p) in of))}
                         for g in optimizer.param_groups]  # fmt: skip
    made.state = defaultdict(dict)
    for parameter in given:
        if id(parameter) not in of:
            continue
        new, name = of[id(parameter)], cut.names[id(parameter)]
        if parameter.grad is not None:
            new.grad = cut.tensor(name, parameter.grad, -1)
        if parameter in optimizer.state:
            made.state[new] = _state(cut, name, cut.shapes[name], optimizer.state[parameter])
    return made


def _unique(parameters: Iterator[nn.Parameter]) -> Iterator[nn.Parameter]:
    seen: set[int] = set()
    for parameter in parameters:
        if id(parameter) not in seen:
            seen.add(id(parameter))
            yield parameter


def _state(cut: _Cut, name: str, shape: tuple[int, ...], state: Mapping[str, Any]) -> dict[str, Any]:
    """State of one parameter: tensors of its shape lose what it lost; a gradient of f·w is one f-th as large.

    Raises:
        InputError: A tensor is neither of its shape (or of one row or column of it), nor a single number.
    """
    found: dict[str, Any] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            found[key] = copy.copy(value)
        elif value.ndim == len(shape) and all(n in (size, 1) for n, size in zip(value.shape, shape, strict=True)):
            found[key] = cut.tensor(name, value, _POWERS.get(key, -1))
        elif value.numel() == 1:
            found[key] = value.detach().clone()
        else:
            raise InputError(
                f"The optimizer keeps {key!r} of shape {tuple(value.shape)} for {name!r} of shape {shape}: what of it "
                "belongs to the entries that stay is not known. Make a new optimizer, or one whose state has "
                "the shapes of its parameters."
            )
    return found


def _scheduler(thing: Any, small: nn.Module, sources: Sequence[tuple[nn.Module, Plan]], known: dict[int, Any]) -> Any:
    made = copy.copy(thing)
    made.optimizer = carried(thing.optimizer, small, sources, known)
    inner = getattr(thing, "_schedulers", None)
    if inner is not None:
        made._schedulers = [_scheduler(s, small, sources, known) for s in inner]
    return made


def _network(thing: nn.Module, small: nn.Module, sources: Sequence[tuple[nn.Module, Plan]]) -> nn.Module:
    """A copy of the network with other values: those entries of it that the plan keeps."""
    inner = unwrapped(thing)
    held = dict(inner.named_parameters(remove_duplicate=False)) | dict(inner.named_buffers(remove_duplicate=False))
    shapes = {n: tuple(p.shape) for n, p in inner.named_parameters(remove_duplicate=False)}
    cut = next((c for c in (_Cut(source, plan, small) for source, plan in sources) if c.shapes == shapes), None)
    if cut is None:
        raise InputError("The copy of the network does not have the shapes of the network that was cut.")
    own = [*small.named_parameters(remove_duplicate=False), *small.named_buffers(remove_duplicate=False)]
    filled: dict[int, Tensor] = {}
    for now, tensor in own:
        name = cut.dense(now)
        value = cut.tensor(name, held[name], 1) if name in held else tensor.detach()
        value = value.detach().clone().to(tensor.dtype)
        value = tensor.detach().clone() if value.shape != tensor.shape else value
        filled[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
    made = copy_network(small, filled, lambda t: t.detach().clone())
    if inner is thing:
        return made
    wrapper = copy.copy(thing)
    wrapper._modules = {**thing._modules, "module": made}
    return wrapper
