"""Mistakes in modules: attributes that do not go with the weights, another layer."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from planted.base import Cut, Mistake, Tensors, half_of_the_groups, kind, some, with_attributes

Module = tuple[str, Any]


def modules(cut: Cut, fits: Callable[[Any], bool]) -> list[Module]:
    if isinstance(cut.model, GraphModule):
        return []
    return [(n, m) for n, m in cut.model.named_modules() if fits(m)]


COUNTS = ("num_heads", "num_attention_heads", "heads", "n_heads", "repeat", "num_key_value_groups")
SIZES = ("head_dim", "attention_head_size", "head_size", "size", "key_value_proj_dim", "all_head_size")


@kind("heads regrouped")
def _regrouped_module(cut: Cut, rng: random.Random) -> Mistake | None:
    def numbers(module: Any, names: Sequence[str]) -> dict[str, int]:
        return {n: v for n in names if isinstance(v := vars(module).get(n), int) and v > 1}

    found = modules(cut, lambda m: bool(numbers(m, COUNTS) or numbers(m, SIZES)))
    if (place := some(rng, found)) is None:
        return None
    name, module = place
    counts, sizes = numbers(module, COUNTS), numbers(module, SIZES)
    double = rng.random() < 0.5
    values = {n: v * 2 if double else v // 2 for n, v in counts.items()}
    if not counts or rng.random() < 0.7:  # otherwise the size goes stale
        values |= {n: v // 2 if double else v * 2 for n, v in sizes.items() if n != "all_head_size"}
    return with_attributes(name, "heads", **values)


@kind("attention scaled for another head size")
def _scale_module(cut: Cut, rng: random.Random) -> Mistake | None:
    names = ("scale", "scaling")
    place = some(rng, modules(cut, lambda m: any(isinstance(vars(m).get(n), float) for n in names)))
    if place is None:
        return None
    return with_attributes(
        place[0], "scale", **{n: v * 2**0.5 for n in names if isinstance(v := vars(place[1]).get(n), float)}
    )


@kind("eps or normalised shape")
def _eps_module(cut: Cut, rng: random.Random) -> Mistake | None:
    names = ("eps", "variance_epsilon")
    place = some(rng, modules(cut, lambda m: any(isinstance(vars(m).get(n), float) for n in names)))
    if place is None:
        return None
    factor = rng.choice((10.0, 0.1))
    return with_attributes(
        place[0], "eps", **{n: v * factor for n in names if isinstance(v := vars(place[1]).get(n), float)}
    )


@kind("activation exchanged or dropped")
def _activation_module(cut: Cut, rng: random.Random) -> Mistake | None:
    name = re.compile(r"ReLU|GELU|SiLU|Swish|Tanh|Sigmoid", re.IGNORECASE)
    place = some(rng, modules(cut, lambda m: bool(name.search(type(m).__name__)) and not list(m.children())))
    if place is None or not place[0]:
        return None
    other = rng.choice([c for c in (nn.ReLU, nn.GELU, nn.Identity) if not isinstance(place[1], c)])
    return Mistake(f"{place[0]}: {other.__name__}", lambda model, dense: model.set_submodule(place[0], other()))


@kind("padding on the wrong side")
def _padding_module(cut: Cut, rng: random.Random) -> Mistake | None:
    place = some(rng, modules(cut, lambda m: isinstance(m, nn.Conv2d) and max(m.padding) > 0))
    if place is None:
        return None
    height, width = place[1].padding
    if rng.random() < 0.3:
        return with_attributes(place[0], "padding", padding_mode="circular")
    sides = [2 * width, 0, 2 * height, 0]
    return with_attributes(place[0], "padding", padding_mode="constant", _reversed_padding_repeated_twice=sides)


@kind("groups of a layer or a shuffle")
def _groups_module(cut: Cut, rng: random.Random) -> Mistake | None:
    found = modules(cut, lambda m: getattr(m, "groups", getattr(m, "num_groups", 1)) > 1)
    if (place := some(rng, found)) is None:
        return None
    name, module = place
    if isinstance(module, nn.GroupNorm):
        return with_attributes(name, "groups", num_groups=rng.choice((module.num_groups // 2, module.num_groups * 2)))
    if rng.random() < 0.3 or module.groups % 2 or getattr(module, "transposed", False):
        return with_attributes(name, "groups", groups=max(1, module.groups // 2))
    return half_of_the_groups(f"{name}.weight", lambda model: setattr(model.get_submodule(name), "groups",
                                                                       module.groups // 2))  # fmt: skip


@kind("another pooling or shift")
def _pool_module(cut: Cut, rng: random.Random) -> Mistake | None:
    if (place := some(rng, modules(cut, lambda m: isinstance(m, nn.MaxPool2d)))) is None:
        return None
    pool = nn.AvgPool2d(place[1].kernel_size, place[1].stride, place[1].padding)
    return Mistake(f"{place[0]}: mean", lambda model, dense: model.set_submodule(place[0], pool))


def _differ(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether tensors have the same shapes and not all the same values: exchanged, equal ones leave all as it was."""
    if not one or [t.shape for t in one] != [t.shape for t in other]:
        return False
    return not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@kind("two branches exchanged")
def _modules_exchanged(cut: Cut, rng: random.Random) -> Mistake | None:
    """Two children of one module with the same shapes: q and k, a block and the next."""
    pairs = []
    for path, module in modules(cut, lambda m: len(list(m.children())) > 1):
        held = [(n, [*c.parameters(), *c.buffers()]) for n, c in module.named_children()]
        pairs += [(path, a, b) for k, (a, s) in enumerate(held) for b, t in held[k + 1 :] if _differ(s, t)]
    if (pair := some(rng, pairs)) is None:
        return None
    path, a, b = pair

    def change(model: nn.Module, dense: Tensors) -> None:
        children = model.get_submodule(path)._modules
        children[a], children[b] = children[b], children[a]

    return Mistake(f"{path}: {a} and {b}", change)
