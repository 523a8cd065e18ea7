"""What a planted mistake is (mutants.py): which network it is made in, how it is drawn, whether it changes anything.

A kind draws one mistake for a network; the mistake is a change that is made to copies of it (with the network's own
weights for the proof, with the judge's weights for the judge). Kinds that do not fit a network draw nothing.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

Tensors = Mapping[str, Tensor]
Keep = Mapping[str, Mapping[int, Sequence[int]]]
Change = Callable[[nn.Module, Tensors], None]
"""Changes a pruned network in place; gets the dense network's tensors (own or the judge's) to slice from."""


@dataclass(frozen=True)
class Cut:
    """The right pruned network, the dense tensors that it was cut from, and what was kept of them."""

    model: nn.Module
    dense: Tensors
    keep: Keep

    @property
    def graph(self) -> list[Node]:
        return list(self.model.graph.nodes) if isinstance(self.model, GraphModule) else []


@dataclass(frozen=True)
class Mistake:
    """Where it is made and how; ``of_values`` says that nothing but tensors' values change."""

    where: str
    change: Change
    of_values: bool = False


Draw = Callable[[Cut, random.Random], Mistake | None]
KINDS: dict[str, list[Draw]] = {}
"""Ways to make a mistake of every kind: in a tensor, in an attribute of a module, in a node of a graph."""


def kind(name: str) -> Callable[[Draw], Draw]:
    def register(draw: Draw) -> Draw:
        KINDS.setdefault(name, []).append(draw)
        return draw

    return register


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    return found | dict(model.named_buffers(remove_duplicate=False))


def taken(tensor: Tensor, keep: Mapping[int, Sequence[int]]) -> Tensor:
    for dim, indices in keep.items():
        tensor = tensor.index_select(dim, torch.as_tensor(list(indices), dtype=torch.long))
    return tensor


def put(model: nn.Module, name: str, value: Tensor) -> None:
    tensor = tensors_of(model)[name]
    with torch.no_grad():
        tensor.data = value.detach().to(tensor.dtype).clone()


def of_tensor(name: str, where: str, of: Callable[[Tensor], Tensor]) -> Mistake:
    """The mistake of a tensor that is a function of the right one."""
    return Mistake(f"{name}: {where}", lambda model, dense: put(model, name, of(tensors_of(model)[name].detach())),
                   of_values=True)  # fmt: skip


def some(rng: random.Random, items: Sequence[Any]) -> Any:
    return rng.choice(items) if items else None


def weights_of(cut: Cut, ndim: int = 2) -> list[tuple[str, Tensor]]:
    return [(n, p) for n, p in cut.model.named_parameters() if p.ndim >= ndim and p.is_floating_point()]


def places(cut: Cut) -> list[tuple[str, int]]:
    """Dimensions of tensors that lost entries."""
    own = tensors_of(cut.model)
    return [(n, d) for n, dims in cut.keep.items() if n in own for d in dims if n in cut.dense and len(dims[d])]


def with_attributes(name: str, what: str, **values: Any) -> Mistake:
    def change(model: nn.Module, dense: Tensors) -> None:
        for key, value in values.items():
            setattr(model.get_submodule(name), key, value)

    return Mistake(f"{name}: {what} {values}", change)


def half_of_the_groups(weight: str, change_count: Callable[[Any], None]) -> Mistake:
    """Two groups see the channels of both, each its own weights for either: it runs, with the same outputs' sizes."""

    def change(model: nn.Module, dense: Tensors) -> None:
        value = tensors_of(model)[weight].detach()
        put(model, weight, torch.cat([value, value], 1))
        change_count(model)

    return Mistake(f"{weight}: half of the groups", change)


def structure(model: nn.Module) -> str:
    """What a graph does apart from its tensors; of a network's own code nothing is known."""
    return model.code if isinstance(model, GraphModule) else ""


def changes(cut: Cut, mistake: Mistake) -> bool:
    """Whether the network is another one afterwards; a mistake that cannot be made is none."""
    wrong = copy.deepcopy(cut.model)
    try:
        mistake.change(wrong, cut.dense)
    except Exception:
        return False
    if structure(wrong) != structure(cut.model) or not (mistake.of_values or cut.graph):
        return True
    if isinstance(wrong, GraphModule) and mistake.where.startswith("_mode."):
        return True  # an eps
    before, after = tensors_of(cut.model), tensors_of(wrong)
    return any(not torch.equal(value, after[name]) for name, value in before.items())


def drawn(cut: Cut, rng: random.Random, name: str, seen: Collection[str]) -> Mistake | None:
    """A mistake of a kind that fits the network, changes it and was not made before."""
    for _ in range(6):
        found = rng.choice(KINDS[name])(cut, rng)
        if found is not None and found.where not in seen and changes(cut, found):
            return found
    return None
