"""Where in a sweep the logits are fitted, and which other stops that spares."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.criteria.least_squares.affine import Options
from secateur.criteria.least_squares.sites import Site
from secateur.criteria.least_squares.twin import Twin
from secateur.recovery.attention.find import attentions
from secateur.recovery.attention.fit import LogitFit

__all__ = ["logit_fits"]


def logit_fits(pair: Twin, found: Sequence[Site], options: Options) -> tuple[list[LogitFit], list[Site], list[str]]:
    """The stops at which logits are fitted, for a network some of whose heads became smaller.

    Returns:
        The stops; the layers of ``found`` that are still to be fitted by themselves (not those that give nothing but
        queries and keys of these attentions); and notes on attentions that stay as they were cut. A layer that gives
        values too stands before the stop of its attention, which goes over its queries and keys again.
    """
    every, notes = attentions(pair)
    done = {side.projection.node for one in every if one.alone for side in (one.query, one.key)}
    return [LogitFit(pair, one, options) for one in every], [s for s in found if s.node not in done], notes
