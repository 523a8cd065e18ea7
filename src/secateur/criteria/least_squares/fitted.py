"""A layer that a sweep stops at."""

from __future__ import annotations

from secateur.criteria.least_squares.affine import Affine, Options
from secateur.criteria.least_squares.sites import Site
from secateur.criteria.least_squares.sweep import Adjustment
from secateur.criteria.least_squares.twin import Twin

__all__ = ["Fitted"]


class Fitted(Affine, Adjustment):
    """A layer that is stopped at to be fitted."""

    def __init__(self, twin: Twin, site: Site, options: Options) -> None:
        """Reads the layer's present weights."""
        Affine.__init__(self, twin, site, options)
        Adjustment.__init__(self)
        self.name = site.name

    def until(self) -> tuple[int, ...]:
        """The dense network has computed the target, the pruned one the layer's input."""
        return self.twin.dense.place[self.site.end] + 1, self.twin.pruned.place[self.node]
