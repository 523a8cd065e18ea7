"""Recurrent layers: inputs are pruned, and hidden units too.

A hidden unit goes with its rows in every gate of the input weights, the recurrent weights and the biases, with its
column of the recurrent weights and with what reads it. Without these its gates are constants and its candidate is zero,
so a state that starts at zero stays there: the masked dense layer is the smaller one. The units of all layers and both
directions go together, for a layer's class has one hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from secateur.graph.facts import Facts
from secateur.graph.flow import Call, MacTerm, unlabelled
from secateur.graph.labels import Labels, Vector
from secateur.graph.reasons import PACKED
from secateur.graph.rules import operator
from secateur.graph.schema import plain_name

_GATES = {"aten.lstm": 4, "aten.gru": 3, "aten.rnn_tanh": 1, "aten.rnn_relu": 1}


def _labelled(states: Any) -> list[Labels]:
    return [s for s in (states if isinstance(states, list) else [states]) if isinstance(s, Labels)]


class _Layer:
    """The tensors of one layer in one direction."""

    def __init__(self, params: Sequence[Labels], biases: bool, projected: bool) -> None:
        self.w_ih, self.w_hh, *rest = params
        self.biases = rest[:2] if biases else []
        self.w_hr = rest[-1] if projected else None

    def couple(self, call: Call, gates: int, cell: Vector, hidden: Vector) -> None:
        """Rows of all gates go with the cell's units, recurrent columns with the units that the layer gives."""
        rows = np.tile(cell, gates)
        for tensor in (self.w_ih, self.w_hh, *self.biases):
            call.c.tie(tensor.at(0), (rows,))
        call.c.tie(self.w_hh.at(1), (hidden,))
        call.flow.consume(self.w_hh, 1)
        if self.w_hr is not None:
            call.c.tie(self.w_hr.at(0), (hidden,))
            call.c.tie(self.w_hr.at(1), (cell,))
            call.flow.consume(self.w_hr, 1)

    def reads(self, call: Call, inputs: Sequence[Vector]) -> None:
        """What the layer is given meets the columns of its input weights."""
        call.c.tie(inputs, self.w_ih.at(1))
        call.flow.consume(self.w_ih, 1)

    def terms(self, positions: float) -> list[MacTerm]:
        """Every weight is used once at every position."""
        weights = [self.w_ih, self.w_hh, *([self.w_hr] if self.w_hr is not None else [])]
        return [MacTerm(positions, ((w, 0), (w, 1))) for w in weights]


def _layers(call: Call) -> list[list[_Layer]]:
    """Layers, each with its directions."""
    params, biases, directions = call["params"], bool(call["has_biases"]), 2 if call["bidirectional"] else 1
    step = len(params) // (call["num_layers"] * directions)
    several = [_Layer(params[k : k + step], biases, step % 2 == 1) for k in range(0, len(params), step)]
    return [several[k : k + directions] for k in range(0, len(several), directions)]


@operator("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu", facts=Facts(draws_if=("train", "dropout")))
def _recurrent(call: Call) -> Any:
    """x (…, I) meets the first layer's input weights; every further layer reads the one before."""
    if "params" not in call.values or "has_biases" not in call.values or not isinstance(call["input"], Labels):
        return call.pin(PACKED)
    c, x, layers = call.c, call["input"], _layers(call)
    for d in range(x.ndim - 1):
        c.pin(*x.at(d))
    first = layers[0][0]
    hidden = c.fresh(first.w_hh.shape[1])
    cell = hidden if first.w_hr is None else c.fresh(first.w_hr.shape[1])
    inputs: Sequence[Vector] = x.at(-1)
    for directions in layers:
        for layer in directions:
            layer.reads(call, inputs)
            layer.couple(call, _GATES[plain_name(call.node.target)], cell, hidden)
        inputs = (np.tile(hidden, len(directions)),)
    for number, state in enumerate(_labelled(call["hx"])):
        _state(call, state, cell if number else hidden)
    positions = float(np.prod(x.shape[:-1]))
    call.flow.more_macs[call.node] = tuple(t for ds in layers for layer in ds for t in layer.terms(positions))
    found = unlabelled(call.node)
    ends = [inputs[0], hidden, cell]
    return [out.with_dims({out.ndim - 1: (end,)}) for out, end in zip(found, ends, strict=False)]


def _state(call: Call, state: Labels, units: Vector) -> None:
    """A state (layers, batch, units) loses what the layers lose; one without labels (an input) keeps all."""
    call.c.tie(state.at(-1), (units,))
    for d in range(state.ndim - 1):
        call.c.pin(*state.at(d))


@operator("aten.lstm_cell", "aten.gru_cell", "aten.rnn_tanh_cell", "aten.rnn_relu_cell")
def _cell(call: Call) -> Any:
    """One step: x (N, I) meets the input weights (gates × hidden, I), the state (N, hidden) the recurrent ones."""
    c, x = call.c, call["input"]
    c.pin(*(x.at(0) if x.ndim > 1 else ()))
    biases = [call.get(n) for n in ("b_ih", "b_hh") if isinstance(call.get(n), Labels)]
    layer = _Layer([call["w_ih"], call["w_hh"], *biases], bool(biases), False)
    hidden = c.fresh(layer.w_hh.shape[1])
    layer.reads(call, x.at(-1))
    layer.couple(call, _GATES[plain_name(call.node.target).removesuffix("_cell")], hidden, hidden)
    for state in _labelled(call["hx"]):
        _state(call, state, hidden)
    call.flow.more_macs[call.node] = tuple(layer.terms(float(x.shape[0] if x.ndim > 1 else 1)))
    found = unlabelled(call.node)
    if isinstance(found, list):
        return [out.with_dims({out.ndim - 1: (hidden,)}) for out in found]
    return found.with_dims({found.ndim - 1: (hidden,)})
