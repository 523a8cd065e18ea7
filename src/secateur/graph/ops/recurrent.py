"""Recurrent layers: inputs are pruned, hidden units stay."""

from __future__ import annotations

from typing import Any

from secateur.graph.facts import Facts
from secateur.graph.flow import Call, MacTerm, unlabelled
from secateur.graph.labels import Labels
from secateur.graph.rules import operator

_COUPLED = "hidden units are coupled over time and stay; inputs are pruned"


def _first_layer(call: Call) -> list[Labels]:
    """Input weights (gates × hidden, input) of the first layer, one per direction."""
    params, step = call["params"], (4 if call["has_biases"] else 2)
    return [params[k * step] for k in range(2 if call["bidirectional"] else 1)]


def _macs(call: Call) -> MacTerm:
    """Positions × the input weights of the first layer, the part that depends on the plan."""
    x, weights = call["input"], _first_layer(call)
    positions = x.shape[0] * (x.shape[1] if x.ndim > 2 else 1)
    return MacTerm(float(positions * len(weights)), ((weights[0], 0), (weights[0], 1)))


@operator("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu", macs=_macs,
          facts=Facts(draws_if=("train", "dropout")))  # fmt: skip
def _recurrent(call: Call) -> Any:
    """x (…, I) meets the first layer's input weights; gates and hidden state are coupled over time and stay."""
    if "params" not in call.values or "has_biases" not in call.values or not isinstance(call["input"], Labels):
        return call.pin("a packed sequence")
    c, x, first = call.c, call["input"], _first_layer(call)
    gates = [Labels(w.shape).with_dims({0: w.at(0)}) if any(w is f for f in first) else w for w in call["params"]]
    call.hold(_COUPLED, gates)
    for weight in first:
        c.tie(x.at(-1), weight.at(1))
        call.flow.consume(weight, 1)
    for d in range(x.ndim - 1):
        c.pin(*x.at(d))
    hidden = call.get("hx")
    for state in hidden if isinstance(hidden, list) else [hidden]:
        if isinstance(state, Labels):
            c.pin_all(state)
    return unlabelled(call.node)


def _cell_macs(call: Call) -> MacTerm:
    x, w = call["input"], call["w_ih"]
    return MacTerm(float(x.shape[0] if x.ndim > 1 else 1), ((w, 0), (w, 1)))


@operator("aten.lstm_cell", "aten.gru_cell", "aten.rnn_tanh_cell", "aten.rnn_relu_cell", macs=_cell_macs)
def _cell(call: Call) -> Any:
    """One step: x (N, I) meets the input weights (gates × hidden, I); gates and hidden state stay."""
    c, x, w = call.c, call["input"], call["w_ih"]
    rest = [t for name, t in call.values.items() if name not in ("input", "w_ih", "hx") and isinstance(t, Labels)]
    call.hold(_COUPLED, [w.with_dims({0: w.at(0)}), *rest])
    c.tie(x.at(-1), w.at(1))
    call.flow.consume(w, 1)
    c.pin(*(x.at(0) if x.ndim > 1 else ()))
    hidden = call["hx"]
    for state in hidden if isinstance(hidden, list) else [hidden]:
        c.pin_all(state)
    return unlabelled(call.node)
