"""Operators by family: how labels flow, what is rewritten, what it costs, what it means when masked, what is known.

An operator is one entry; importing the families registers them. ``find`` looks an ATen overload up by the
name of its packet, in-place forms under the name of the operator itself; ``facts`` says what is known of a call.
"""

from __future__ import annotations

from importlib import import_module

from secateur.graph.facts import Bounds, Facts, Kind, Law, Only
from secateur.graph.rules import KNOWN, OPERATORS, Operator, bounds, facts, facts_of, find, known, operator
from secateur.graph.schema import arguments, plain_name

__all__ = [
    "KNOWN",
    "OPERATORS",
    "Bounds",
    "Facts",
    "Kind",
    "Law",
    "Only",
    "Operator",
    "arguments",
    "bounds",
    "facts",
    "facts_of",
    "find",
    "known",
    "operator",
    "plain_name",
]

# The files with the rules; they are read last because they use the decorator above.
for _name in ("activations", "attention", "contract", "distance", "elementwise", "imitate", "index", "movement",
              "normalise", "pieces", "places", "random", "recurrent", "reduce", "reshape", "resize", "routing",
              "scatter", "spectral"):  # fmt: skip
    import_module(f"secateur.graph.ops.{_name}")
