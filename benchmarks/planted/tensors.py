"""Mistakes in tensors: cut from the wrong places, in the wrong order, of another layer."""

from __future__ import annotations

import random
import re

import torch
from torch import nn

from planted.base import (
    Cut,
    Mistake,
    Tensors,
    kind,
    of_tensor,
    places,
    put,
    some,
    taken,
    tensors_of,
    weights_of,
)

# ------------------------------------------------------------------------------------------- what was cut from


@kind("removed index instead of a kept one")
def _removed(cut: Cut, rng: random.Random) -> Mistake | None:
    if (place := some(rng, places(cut))) is None:
        return None
    name, dim = place
    kept = list(cut.keep[name][dim])
    gone = sorted(set(range(cut.dense[name].shape[dim])) - set(kept))
    at, wrong = rng.randrange(len(kept)), rng.choice(gone)
    return _resliced(cut, name, dim, [*kept[:at], wrong, *kept[at + 1 :]], f"{wrong} at {at}")


@kind("kept indices moved by one")
def _moved(cut: Cut, rng: random.Random) -> Mistake | None:
    if (place := some(rng, places(cut))) is None:
        return None
    name, dim = place
    step, size = rng.choice((1, -1)), cut.dense[name].shape[dim]
    return _resliced(cut, name, dim, [(k + step) % size for k in cut.keep[name][dim]], f"moved by {step}")


@kind("stale bias")
def _stale_bias(cut: Cut, rng: random.Random) -> Mistake | None:
    return _first_entries(cut, rng, "bias")


@kind("stale running statistic")
def _stale_statistic(cut: Cut, rng: random.Random) -> Mistake | None:
    return _first_entries(cut, rng, "running_mean" if rng.random() < 0.5 else "running_var")


def _first_entries(cut: Cut, rng: random.Random, ending: str) -> Mistake | None:
    """The first entries of the dense tensor instead of the kept ones."""
    place = some(rng, [n for n, d in places(cut) if n.endswith(ending) and cut.dense[n].ndim == 1])
    if place is None:
        return None
    return _resliced(cut, place, 0, list(range(len(cut.keep[place][0]))), "the first entries")


def _resliced(cut: Cut, name: str, dim: int, indices: list[int], what: str) -> Mistake:
    keep = {**cut.keep[name], dim: indices}
    return Mistake(f"{name} dim {dim}: {what}", lambda model, dense: put(model, name, taken(dense[name], keep)),
                   of_values=True)  # fmt: skip


# ------------------------------------------------------------------------------------------------ weights' order


@kind("two channels exchanged in one layer")
def _exchanged(cut: Cut, rng: random.Random) -> Mistake | None:
    found = [(n, d) for n, p in weights_of(cut) for d in (0, 1) if p.shape[d] > 1]
    if (place := some(rng, found)) is None:
        return None
    name, dim = place
    own = tensors_of(cut.model)
    i, j = rng.sample(range(own[name].shape[dim]), 2)
    names = [name]
    bias = name.rpartition(".")[0] + ".bias"
    if dim == 0 and bias in own and len(own[bias]) == own[name].shape[0] and rng.random() < 0.5:
        names.append(bias)

    def change(model: nn.Module, dense: Tensors) -> None:
        for each in names:
            value = tensors_of(model)[each].detach()
            order = list(range(value.shape[dim]))
            order[i], order[j] = j, i
            put(model, each, taken(value, {dim: order}))

    return Mistake(f"{names} dim {dim}: {i} and {j}", change, of_values=True)


@kind("norm's scale or shift permuted")
def _permuted(cut: Cut, rng: random.Random) -> Mistake | None:
    own = tensors_of(cut.model)
    scales = [n for n, t in own.items() if n.endswith("weight") and t.ndim == 1 and len(t) > 1]
    if (name := some(rng, scales)) is None:
        return None
    shift = name.removesuffix("weight") + "bias"
    name = shift if shift in own and rng.random() < 0.5 else name
    order = rng.sample(range(len(own[name])), len(own[name]))
    return of_tensor(name, f"permuted {order[:6]}", lambda t: t[order])


@kind("parts exchanged (q/k/v, halves)")
def _parts(cut: Cut, rng: random.Random) -> Mistake | None:
    fused = re.compile(r"qkv|in_proj|c_attn|gate|up|rnn|to_q")
    found = [(n, d, k) for n, t in tensors_of(cut.model).items() if fused.search(n) and t.is_floating_point()
             for d in range(min(t.ndim, 2)) for k in (2, 3) if t.shape[d] % k == 0 and t.shape[d] > k]  # fmt: skip
    if (place := some(rng, found)) is None:
        return None
    name, dim, count = place
    i, j = rng.sample(range(count), 2)
    order = list(range(count))
    order[i], order[j] = j, i
    return of_tensor(name, f"dim {dim}: parts {i} and {j} of {count}",
                   lambda t: torch.cat([t.chunk(count, dim)[k] for k in order], dim))  # fmt: skip


@kind("parts exchanged (q/k/v, halves)")
def _twins(cut: Cut, rng: random.Random) -> Mistake | None:
    """Two layers of the same shape below one parent: q and k, the halves of a gate."""
    return _of_two(cut, rng, siblings=True, both=True)


@kind("weight of a neighbouring layer")
def _neighbour(cut: Cut, rng: random.Random) -> Mistake | None:
    return _of_two(cut, rng, siblings=False, both=False)


def _of_two(cut: Cut, rng: random.Random, siblings: bool, both: bool) -> Mistake | None:
    weights = weights_of(cut)
    pairs = [(a, b) for k, (a, s) in enumerate(weights) for b, t in weights[k + 1 : k + 8] if s.shape == t.shape
             and (not siblings or a.rsplit(".", 2)[0] == b.rsplit(".", 2)[0])]  # fmt: skip
    if (pair := some(rng, pairs)) is None:
        return None

    def change(model: nn.Module, dense: Tensors) -> None:
        first, second = (tensors_of(model)[n].detach().clone() for n in pair)
        put(model, pair[1], first)
        if both:
            put(model, pair[0], second)

    return Mistake(f"{pair[0]} {'exchanged with' if both else 'also as'} {pair[1]}", change, of_values=True)


@kind("one weight off by 1e-3 of itself")
def _off(cut: Cut, rng: random.Random) -> Mistake | None:
    if (found := some(rng, weights_of(cut))) is None:
        return None
    name, weight = found
    at = rng.randrange(weight.numel())
    factor = torch.ones(weight.numel(), dtype=torch.float64)
    factor[at] += 1e-3
    return of_tensor(name, f"entry {at}", lambda t: t * factor.reshape(t.shape).to(t.dtype))


@kind("position table moved by one")
def _table(cut: Cut, rng: random.Random) -> Mistake | None:
    names = re.compile(r"pos|table|relative|wpe", re.IGNORECASE)
    own = {n: t for n, t in tensors_of(cut.model).items() if names.search(n) and t.ndim and t.numel() > 1}
    if (name := some(rng, list(own))) is None:
        return None
    dim = 1 if own[name].ndim > 1 and own[name].shape[0] == 1 else 0
    step = rng.choice((1, -1))
    return of_tensor(name, f"dim {dim}: by {step}", lambda t: torch.roll(t, step, dim))


@kind("mask lost")
def _mask(cut: Cut, rng: random.Random) -> Mistake | None:
    name = some(rng, [n for n in tensors_of(cut.model) if "mask" in n.rpartition(".")[2]])
    if name is None:
        return None
    return of_tensor(name, "nothing masked", lambda t: torch.ones_like(t) if t.dtype == torch.bool else t * 0 if
                   bool(t.isfinite().all()) else torch.zeros_like(t))  # fmt: skip
