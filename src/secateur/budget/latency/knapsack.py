"""The widest worth under a limit of time: a knapsack whose prices depend on two groups at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secateur.budget.latency.predict import Sizes, Term

__all__ = ["Choice", "Problem", "fill"]

Choice = tuple[int, ...]
"""Per group the number of its width in :attr:`Problem.worth`, 0 for the dense one."""

_BISECTIONS = 24
_STARTS = 3
_EXCHANGES = 300  # at most, and as many changes are looked at for each
_REACH = 3  # widths on either side that a change goes to
_SLACK = 0.1  # of the limit, that the times of coupled groups may be less than their sum


@dataclass(frozen=True)
class Problem:
    """What the groups' widths are worth, and what they cost together.

    Attributes:
        full: Sizes of the dense network.
        gone: Per group, by how much each of its widths makes each size smaller: (widths, sizes).
        worth: Per group, what each of its widths is worth, the dense width first, then narrower ones.
        terms: The parts of the time.
    """

    full: Sizes
    gone: Sequence[NDArray[np.int64]]
    worth: Sequence[NDArray[np.float64]]
    terms: Sequence[Term]

    @cached_property
    def touched(self) -> list[list[Term]]:
        """Per group the terms that it changes."""
        moved = [set(np.flatnonzero(gone.any(axis=0)).tolist()) for gone in self.gone]
        return [[t for t in self.terms if moved[g] & set(t.slots)] for g in range(len(self.gone))]

    def sizes(self, choice: Iterable[int]) -> Sizes:
        """Sizes of the network with these widths."""
        sizes = self.full.copy()
        for gone, number in zip(self.gone, choice, strict=True):
            sizes -= gone[number]
        return sizes

    def ms(self, choice: Iterable[int], terms: Sequence[Term] | None = None) -> float:
        """Milliseconds with these widths, of all terms or of some."""
        return _ms(self.terms if terms is None else terms, self.sizes(choice))

    def kept(self, choice: Iterable[int]) -> float:
        """What these widths are worth together."""
        return float(sum(worth[number] for worth, number in zip(self.worth, choice, strict=True)))

    @property
    def dense(self) -> Choice:
        """All widths as they are."""
        return (0,) * len(self.worth)

    @property
    def narrowest(self) -> Choice:
        """The least of all widths."""
        return tuple(len(worth) - 1 for worth in self.worth)


def fill(problem: Problem, limit_ms: float) -> Choice | None:
    """Maximises what the widths are worth while the time stays within a limit.

    Lagrange's way (Everett 1963, Generalized Lagrange Multiplier Method, Operations Research 11): for a price λ of
    a millisecond, every group in turn takes the width with the most worth − λ · ms, given all others' widths, until
    none wants another (from the dense and from the narrowest widths: prices are coupled, so the two may end apart);
    λ is bisected until the time fits. From the three best, what is left of the limit is filled, and widths are
    exchanged between groups as long as that keeps more. That is near the best there is, but no proof of it.

    Args:
        problem: Widths, worths and times.
        limit_ms: Milliseconds at most.

    Returns:
        The widths; ``None`` where not even the least of all fit.
    """
    if problem.ms(problem.dense) <= limit_ms:
        return problem.dense
    if problem.ms(problem.narrowest) > limit_ms:
        return None
    fitting, scale = {problem.narrowest}, problem.kept(problem.dense) / problem.ms(problem.dense)
    low, high = -9.0, 9.0  # powers of two of λ, around the mean price
    for _ in range(_BISECTIONS):
        price = scale * 2 ** ((low + high) / 2)
        tried = [_at_price(problem, price, start) for start in (problem.dense, problem.narrowest)]
        fitting.update(choice for choice in tried if problem.ms(choice) <= limit_ms)
        found = max(tried, key=lambda choice: problem.kept(choice) - price * problem.ms(choice))
        low, high = (low, (low + high) / 2) if found in fitting else ((low + high) / 2, high)
    best = sorted(fitting, key=problem.kept)[-_STARTS:]
    return max((_improved(problem, choice, limit_ms) for choice in best), key=problem.kept)


def _ms(terms: Sequence[Term], sizes: Sizes) -> float:
    flat = sizes.tolist()
    return sum(term.ms(*(flat[s] for s in term.slots)) for term in terms)


def _at_price(problem: Problem, price: float, start: Choice) -> Choice:
    """Widths that no group alone wants to change when a millisecond costs ``price``, found from ``start`` on."""
    choice = list(start)
    sizes = problem.sizes(start)
    for _ in range(50):
        before = tuple(choice)
        for g, worth in enumerate(problem.worth):
            gone, terms = problem.gone[g], problem.touched[g]
            bare = sizes + gone[choice[g]]
            gains = [float(worth[k]) - price * _ms(terms, bare - gone[k]) for k in range(len(worth))]
            choice[g] = int(np.argmax(gains))
            sizes = bare - gone[choice[g]]
        if tuple(choice) == before:
            break
    return tuple(choice)


# -------------------------------------------------------------------------------------------- local improvement


def _improved(problem: Problem, choice: Choice, limit_ms: float) -> Choice:
    """Changes one or two groups at a time while that keeps more score within the limit."""
    for _ in range(_EXCHANGES):
        better = _one_better(problem, choice, limit_ms)
        if better is None:
            break
        choice = better
    return choice


def _one_better(problem: Problem, choice: Choice, limit_ms: float) -> Choice | None:
    """The best change found: the most score first, by times as if the groups were independent, then exactly."""
    room = limit_ms - problem.ms(choice) + _SLACK * limit_ms
    moves = _moves(problem, choice)
    wider = [m for m in moves if m[0] > 0]
    alone = [(gain, {g: k}) for gain, ms, g, k in wider if ms <= room]
    pairs = [(up + down, {g: k, h: j}) for up, more, g, k in wider for down, less, h, j in moves
             if down < 0 and g != h and up + down > 0 and more + less <= room]  # fmt: skip
    for _, change in sorted([*alone, *pairs], key=lambda m: -m[0])[:_EXCHANGES]:
        tried = tuple(change.get(g, k) for g, k in enumerate(choice))
        if problem.ms(tried) <= limit_ms and problem.kept(tried) > problem.kept(choice) * (1 + 1e-12):
            return tried
    return None


def _moves(problem: Problem, choice: Choice) -> list[tuple[float, float, int, int]]:
    """Changes of one group to one of the next widths on either side: (score, milliseconds, group, width)."""
    sizes = problem.sizes(choice)
    found = []
    for g, worth in enumerate(problem.worth):
        gone, terms, now = problem.gone[g], problem.touched[g], choice[g]
        bare = sizes + gone[now]
        before = _ms(terms, sizes)
        for k in range(max(0, now - _REACH), min(len(worth), now + _REACH + 1)):
            if k != now:
                found.append((float(worth[k] - worth[now]), _ms(terms, bare - gone[k]) - before, g, k))
    return found
