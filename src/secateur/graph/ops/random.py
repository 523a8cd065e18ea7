"""Constants and random numbers of any size, and how random numbers depend on tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.graph.facts import Facts, Law
from secateur.graph.flow import Call
from secateur.graph.labels import Labels
from secateur.graph.ops.elementwise import elementwise, join
from secateur.graph.rules import known, operator

if TYPE_CHECKING:
    from secateur.graph.rewriting import Rewriter

_LIKE = ("rand_like", "randn_like", "randint_like", "exponential", "uniform", "cauchy", "geometric", "log_normal",
         "random")  # fmt: skip
"""As many numbers as a tensor has entries, which they do not depend on."""

operator(*(f"aten.{name}" for name in _LIKE))(elementwise)
operator("aten.bernoulli", facts=Facts(law=Law.COINS))(elementwise)
operator("aten.poisson", facts=Facts(law=Law.DATA))(elementwise)
known("aten.multinomial", "aten.binomial", "aten._standard_gamma", "aten._sample_dirichlet", facts=Facts(law=Law.DATA))


def _rewrite_full(r: Rewriter) -> None:
    if r.get("size") is not None:
        r.set("size", r.sizes(r["size"]))


@operator("aten.zeros", "aten.ones", "aten.full", "aten.new_zeros", "aten.new_ones", "aten.new_full", "aten.rand",
          "aten.randn", "aten.randint", "aten.empty", "aten.new_empty",
          rewrite=_rewrite_full)  # fmt: skip
def _full(call: Call) -> Labels:
    """A constant or random numbers of any size: fresh labels that belong to no parameter."""
    return Labels(call.shape, {d: (call.c.fresh(n),) for d, n in enumerate(call.shape)})


@operator("aten.normal", rewrite=_rewrite_full, facts=Facts(law=Law.NORMAL))
def _normal(call: Call) -> Labels:
    """Of a given size, around the entries of a tensor, or into one."""
    return _full(call) if call.get("size") is not None else join(call.c, call.tensors, call.shape)
