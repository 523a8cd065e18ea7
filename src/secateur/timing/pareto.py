"""Which networks no other one beats in both size and accuracy."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["front"]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the Pareto front by ascending cost.

    A point is on it when no other has at most its cost and at least its value, and is better in one of the two. Of
    equal points, the first is taken.

    Args:
        points: (cost, value) pairs: lower cost and higher value are better.

    >>> front([(2.0, 90.0), (1.0, 80.0), (3.0, 89.0), (2.0, 85.0)])
    [1, 0]
    """
    found: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if not found or points[index][1] > points[found[-1]][1]:
            found.append(index)
    return found
