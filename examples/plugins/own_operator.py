"""A rule for an operator of one's own: without it everything that touches it is pinned, and reported."""

from secateur.graph.flow import Call
from secateur.graph.labels import Labels
from secateur.graph.ops import operator


@operator("garden.scaled_swish")
def scaled_swish(call: Call) -> Labels:
    x: Labels = call["x"]
    call.c.tie(x.at(1), call["scale"].at(0))  # channels pass, and the scale's entries go with them
    return x
