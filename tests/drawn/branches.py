"""Constructions of constructions: residuals, concatenations, sums of branches, gates between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drawn.base import ALL, KINDS, Draw, Kept, Skip, Step, kind, made_by, same


def drawn_step(d: Draw) -> tuple[str, Step]:
    """One construction that takes what ``d`` says; tried until one fits and runs."""
    names = [n for n, (_, domains) in KINDS.items() if d.domain in domains]
    for _ in range(50):
        name = d.rng.choice(names)
        if d.depth > 1 and name in INNER:
            continue
        step = fitting(name, d)
        if step is not None:
            return name, step
    raise AssertionError(f"nothing fits {d}")


def fitting(name: str, d: Draw) -> Step | None:
    """The construction of that name, or ``None`` where it does not fit or does not run."""
    try:
        step = KINDS[name][0](d).eval()
        with torch.no_grad():
            y = step(torch.randn(d.shape))
        fits = y.ndim == {"features": 2, "tokens": 3, "signal": 3, "image": 4, "volume": 5}[step.domain]
        ok = fits and y.numel() <= 12000 and y.shape[step.dim] <= 32 and bool(torch.isfinite(y).all())
        return step if ok and y.shape[0] == d.shape[0] else None
    except (Skip, RuntimeError, ValueError, IndexError):
        return None


def _sequence(d: Draw, count: int) -> list[tuple[str, Step]]:
    steps: list[tuple[str, Step]] = []
    shape, domain = d.shape, d.domain
    for _ in range(count):
        name, step = drawn_step(Draw(d.rng, shape, domain, d.depth + 1))
        with torch.no_grad():
            shape = tuple(step(torch.randn(shape)).shape)
        domain = step.domain
        steps.append((name, step))
    return steps


class Branch(nn.Module):
    """Steps one after the other, closed by a layer to a given width where the shapes allow it."""

    def __init__(self, d: Draw, count: int, out: int) -> None:
        super().__init__()
        drawn = _sequence(d, count)
        self.names = [name for name, _ in drawn]
        self.steps = nn.ModuleList(step for _, step in drawn)
        with torch.no_grad():
            y = self(torch.randn(d.shape))
        last = self.steps[-1]
        if last.domain != d.domain or [n for k, n in enumerate(y.shape) if k != d.dim] != [
            n for k, n in enumerate(d.shape) if k != d.dim
        ]:
            raise Skip
        close = d.layer(y.shape[d.dim], out)
        self.steps.append(d.step(lambda s, x: s.layer(x), made_by("layer.weight"), layer=close))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x

    def masked(self, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        for step in self.steps:
            x, keep = step.masked(x, keep, kept)  # type: ignore[operator]
        return x, keep


def _named(step: Step, branches: Sequence[Branch]) -> Step:
    step.inner = [name for b in branches for name in b.names]  # type: ignore[assignment]
    step.single = any(s.single for b in branches for s in b.steps)  # type: ignore[union-attr, assignment]
    return step


@kind(*ALL)
def residual(d: Draw) -> Step:
    branch = Branch(d, d.pick(1, 2), d.width)
    act = d.pick(F.relu, torch.tanh, lambda x: x)

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        y, left = s.branch.masked(x, keep, kept)
        return act(x + y), keep & left

    return _named(d.step(lambda s, x: act(x + s.branch(x)), meaning, branch=branch), [branch])


@kind(*ALL)
def dense_concat(d: Draw) -> Step:
    d.need(d.width <= 16)
    branch, dim = Branch(d, d.pick(1, 2), d.pick(3, 4, 6)), d.pick(d.dim, d.dim - len(d.shape))

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        y, left = s.branch.masked(x, keep, kept)
        return torch.cat([y, x], dim), torch.cat([left, keep])

    return _named(d.step(lambda s, x: torch.cat([s.branch(x), x], dim), meaning, branch=branch), [branch])


@kind(*ALL)
def two_branches(d: Draw) -> Step:
    """A sum, a product or a concatenation of two branches."""
    way, o = d.pick("add", "mul", "cat", "max", "sub"), d.pick(4, 6, 8)
    a, b, dim = Branch(d, 1, o), Branch(d, 1, o), d.dim

    def joined(a: Tensor, b: Tensor) -> Tensor:
        if way == "cat":
            return torch.cat((a, b), dim)
        return {"add": torch.add, "mul": torch.mul, "max": torch.maximum, "sub": torch.sub}[way](a, b)

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        (y, left), (z, right) = s.a.masked(x, keep, kept), s.b.masked(x, keep, kept)
        return joined(y, z), torch.cat([left, right]) if way == "cat" else left & right

    return _named(d.step(lambda s, x: joined(s.a(x), s.b(x)), meaning, a=a, b=b), [a, b])


@kind(*ALL)
def split_branches(d: Draw) -> Step:
    """ShuffleNet's unit: half of the channels pass, the others go through a branch."""
    d.need(d.width % 2 == 0 and d.width >= 4)
    half, dim = d.width // 2, d.dim
    shape = list(d.shape)
    shape[dim] = half
    branch = Branch(Draw(d.rng, tuple(shape), d.domain, d.depth), 1, half)

    def run(s: Step, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim)
        return torch.cat([a, s.branch(b)], dim)

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        a, b = x.chunk(2, dim)
        y, left = s.branch.masked(b, keep[half:], kept)
        return torch.cat([a, y], dim), torch.cat([keep[:half], left])

    return _named(d.step(run, meaning, branch=branch), [branch])


@kind(*ALL)
def repeated(d: Draw) -> Step:
    """One branch called twice (weights shared over the depth)."""
    branch = Branch(d, 1, d.width)

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        y, left = s.branch.masked(x, keep, kept)
        z, again = s.branch.masked(torch.where(_like(left, y, s.dim), torch.tanh(y), 0), left, kept)
        return z, again

    return _named(d.step(lambda s, x: s.branch(torch.tanh(s.branch(x))), meaning, branch=branch), [branch])


def _like(keep: Tensor, y: Tensor, dim: int) -> Tensor:
    return keep.reshape([-1 if k == dim else 1 for k in range(y.ndim)])


INNER = ("residual", "dense_concat", "two_branches", "split_branches", "repeated")

__all__ = ["INNER", "Branch", "drawn_step", "fitting", "same"]
