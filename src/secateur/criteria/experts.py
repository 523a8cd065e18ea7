"""Scores of whole experts from calibration data: how often routers choose them, what mixtures give without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError
from secateur.core.inputs import Batch, Data, batches
from secateur.core.progress import watched
from secateur.graph.copies import running_copy
from secateur.graph.mixtures import Mixture
from secateur.graph.traced import Traced

__all__ = ["OUTPUT_CHANGE", "ROUTING", "SAMPLES", "by_output_change", "by_routing", "without_experts"]

ROUTING = "routing"
"""What the criterion is called that asks how much a router chooses an expert."""
OUTPUT_CHANGE = "output_change"
"""What the criterion is called that asks for what the mixture gives without an expert."""
SAMPLES = 64
"""Samples that are looked at for a change of the output, at most: their activations are held in memory."""


class _Routers(TorchFunctionMode):
    """Sees the logits of routers, and may change them: products of anything with a router's weight."""

    def __init__(self, routers: Mapping[int, str], on_logits: Callable[[str, Tensor], Tensor]) -> None:
        super().__init__()
        self.routers, self.on_logits = routers, on_logits
        self.seen: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        weight = (kwargs or {}).get("weight", args[1] if len(args) > 1 else None) if func is F.linear else None
        name = self.routers.get(id(weight))
        if name is None:
            return found
        self.seen.add(name)
        return self.on_logits(name, found)


def _routers(network: nn.Module, mixtures: Sequence[Mixture], on_logits: Callable[[str, Tensor], Tensor]) -> _Routers:
    named = dict(network.named_parameters(remove_duplicate=False))
    return _Routers({id(named[m.router]): m.name for m in mixtures}, on_logits)


def without_experts(
    network: nn.Module, mixtures: Sequence[Mixture], gone: Mapping[str, Sequence[int]]
) -> TorchFunctionMode:
    """Inside of it ``network`` runs as if some experts were not there: their router's logits are −∞.

    Args:
        network: The dense network.
        mixtures: Its mixtures.
        gone: Numbers of the experts that go, by the mixture's name.
    """

    def masked(name: str, logits: Tensor) -> Tensor:
        which = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        which[list(gone.get(name, ()))] = True
        return logits.masked_fill(which, float("-inf"))

    return _routers(network, mixtures, masked)


# ------------------------------------------------------------------------------------------------------ routing


def by_routing(model: nn.Module, traced: Traced, mixtures: Sequence[Mixture], data: Data) -> dict[str, Tensor]:
    """Mean weight with which every expert is asked for.

    Formula: s_e = 1/T Σ_t p_te · [e ∈ top-k of t] / Σ_{j ∈ top-k of t} p_tj, p_t the softmax of the router's logits of
    token t; tokens that ``attention_mask`` hides do not count. The scores of a mixture sum to 1.

    Args:
        model: The network; left untouched.
        traced: It, traced.
        mixtures: Its mixtures.
        data: Calibration data without labels, gone through once in constant memory.

    Returns:
        Scores by the mixture's name, shape (experts,), higher = keep.

    Raises:
        InputError: Data that do not fit, or a router that is no linear layer.
    """
    sums = {m.name: torch.zeros(m.experts, dtype=torch.float64) for m in mixtures}
    tokens = dict.fromkeys(sums, 0)
    k = {m.name: m.chosen for m in mixtures}
    counted: Tensor | None = None

    def add(name: str, logits: Tensor) -> Tensor:
        shares = logits.detach().flatten(0, -2).double().softmax(-1)
        if counted is not None and len(counted) == len(shares):
            shares = shares[counted.to(shares.device)]
        values, numbers = shares.topk(min(k[name], shares.shape[-1]), -1)
        taken = torch.zeros_like(shares).scatter(-1, numbers, values / values.sum(-1, keepdim=True))
        sums[name] += taken.sum(0).cpu()
        tokens[name] += len(shares)
        return logits

    network = running_copy(model).eval()
    watch = _routers(network, mixtures, add)
    with torch.no_grad(), watch:
        for batch in batches(data, traced):
            counted = _counted(batch)
            _call(network, batch)
    _all_seen(watch, mixtures, ROUTING)
    return {name: total / max(1, tokens[name]) for name, total in sums.items()}


def _counted(batch: Batch) -> Tensor | None:
    mask = batch.kwargs.get("attention_mask")
    return mask.flatten().bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None


def _call(network: nn.Module, batch: Batch) -> Any:
    args, kwargs = batch.copied()
    return network(*args, **kwargs)


def _all_seen(watch: _Routers, mixtures: Sequence[Mixture], criterion: str) -> None:
    for mixture in mixtures:
        if mixture.name not in watch.seen:
            raise InputError(
                f"The criterion {criterion} reads the logits of routers, and that of {mixture.name or 'the network'} "
                f"is no product with {mixture.router} (torch.nn.functional.linear). Choose by weights: criterion='l2'."
            )


# ------------------------------------------------------------------------------------------- change of the output


@dataclass
class _Calls:
    """What a mixture was called with."""

    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.found.append(pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, (args, kwargs)))


def by_output_change(
    model: nn.Module, traced: Traced, mixtures: Sequence[Mixture], data: Data, goes: Mapping[str, int]
) -> dict[str, Tensor]:
    """The place of every expert in the order in which they go: next the one without which the mixture changes least.

    Formula: Σ‖y − y₀‖² / Σ‖y₀‖² over what the mixture gives for the tokens of the first 64 samples, y₀ with all its
    experts. Source: Lu et al. 2024, Not all experts are equal, arXiv:2402.14800, whose layer-wise search tries all
    subsets of a layer's experts; here they go one after another, which is the same for one of them and takes at most
    E·r runs of a layer for r of E, where all subsets are E! / (r! (E − r)!).

    Args:
        model: The network; left untouched.
        traced: It, traced.
        mixtures: Its mixtures.
        data: Calibration data without labels.
        goes: How many units go, by the mixture's name.

    Returns:
        By the mixture's name, shape (experts,): 0 for what goes first; what stays has all the same, the highest.

    Raises:
        InputError: Data that do not fit, or a router that is no linear layer.
    """
    network = running_copy(model).eval()
    calls = _inputs(network, traced, mixtures, data)
    found: dict[str, Tensor] = {}
    with torch.no_grad(), watched(mixtures, "Trying experts", "mixtures") as told:
        for mixture in told:
            block = network.get_submodule(mixture.name)
            found[mixture.name] = _order(network, block, mixture, calls[mixture.name].found, goes[mixture.name])
    return found


def _inputs(network: nn.Module, traced: Traced, mixtures: Sequence[Mixture], data: Data) -> dict[str, _Calls]:
    """What every mixture is called with on the first samples."""
    calls = {m.name: _Calls() for m in mixtures}
    watch = _routers(network, mixtures, lambda name, logits: logits)
    with ExitStack() as stack, torch.no_grad(), watch:
        for name, several in calls.items():
            hook = network.get_submodule(name).register_forward_pre_hook(several, with_kwargs=True)
            stack.callback(hook.remove)
        for batch in _first(batches(data, traced)):
            _call(network, batch)
    _all_seen(watch, mixtures, OUTPUT_CHANGE)
    return calls


def _first(several: Iterator[Batch]) -> Iterator[Batch]:
    seen = 0
    for batch in several:
        yield batch
        seen += batch.size
        if seen >= SAMPLES:
            return


def _order(
    network: nn.Module, block: nn.Module, mixture: Mixture, calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
    goes: int,
) -> Tensor:  # fmt: skip
    members = [[e for e in range(mixture.experts) if mixture.places[e] == unit] for unit in range(mixture.units)]
    wanted = [_tensor(block(*args, **kwargs)) for args, kwargs in calls]
    gone: list[int] = []

    def change(unit: int) -> float:
        experts = [e for other in (*gone, unit) for e in members[other]]
        apart = whole = 0.0
        for (args, kwargs), want in zip(calls, wanted, strict=True):
            with without_experts(network, [mixture], {mixture.name: experts}):
                got = _tensor(block(*args, **kwargs))
            apart += float((got.double() - want.double()).square().sum())
            whole += float(want.double().square().sum())
        found = apart / max(whole, 1e-300)
        return found if found == found else float("inf")  # what gives no numbers goes last

    for _ in range(goes):
        gone.append(min((u for u in range(mixture.units) if u not in gone), key=change))
    place = {unit: number for number, unit in enumerate(gone)}
    return torch.tensor([float(place.get(int(u), goes)) for u in mixture.places], dtype=torch.float64)


def _tensor(found: Any) -> Tensor:
    for value in pytree.tree_leaves(found):
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    raise InputError("A mixture gives no floating-point tensor, so no change of its output can be measured.")
