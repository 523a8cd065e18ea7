"""Recurrent layers. ONNX orders the gates otherwise, and keeps the weights of all directions in one tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.models.onnx_file.node import OnnxNode
from secateur.models.onnx_file.registry import OPERATORS, Layout, Refused, reads

__all__: list[str] = []

_SLOTS = ("W", "R", "B")


def _layout(order: tuple[int, ...]) -> Layout:
    """Weights W (D, gates·H, I), R (D, gates·H, H) and B (D, 2·gates·H) as PyTorch's, direction by direction.

    Args:
        order: PyTorch's gates, as places in ONNX's order.
    """
    back = tuple(order.index(k) for k in range(len(order)))

    def gates(tensor: Tensor, by: tuple[int, ...]) -> Tensor:
        return torch.cat([tensor.chunk(len(by))[k] for k in by])

    def load(arrays: dict[str, Tensor], attributes: dict[str, Any]) -> dict[str, Tensor]:
        found = {}
        for d in range(arrays["W"].shape[0]):
            found[f"weight_ih_{d}"], found[f"weight_hh_{d}"] = (
                gates(arrays["W"][d], order),
                gates(arrays["R"][d], order),
            )
            if "B" in arrays:
                found[f"bias_ih_{d}"], found[f"bias_hh_{d}"] = (gates(half, order) for half in arrays["B"][d].chunk(2))
        return found

    def store(tensors: dict[str, Tensor], attributes: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        directions = range(sum(name.startswith("weight_ih") for name in tensors))
        ours = {"W": "weight_ih", "R": "weight_hh"}
        arrays = {
            name: torch.stack([gates(tensors[f"{own}_{d}"], back) for d in directions]) for name, own in ours.items()
        }
        if "bias_ih_0" in tensors:
            halves = [[gates(tensors[f"bias_{n}_{d}"], back) for n in ("ih", "hh")] for d in directions]
            arrays["B"] = torch.stack([torch.cat(pair) for pair in halves])
        return arrays, {"hidden_size": arrays["R"].shape[-1]}

    return Layout(load, store, _SLOTS)


_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def _check(node: OnnxNode, lengths: Any, peepholes: Any = None) -> None:
    usual = [name.lower() for name in _DEFAULTS[node.operator]]
    given = [name.lower() for name in node.attribute("activations", ())] or usual
    reasons = {
        "has a length of its own for every sample (sequence_lens)": lengths is not None,
        "has peepholes": peepholes is not None,
        "clips its gates": node.attribute("clip", 0.0) != 0.0,
        "joins the input and forget gates": bool(node.attribute("input_forget", 0)),
        "has the batch as its first dimension (layout=1)": bool(node.attribute("layout", 0)),
        f"has activations {given}": given[: len(usual)] != usual or given[len(usual) :] not in ([], usual),
        "resets after the product (linear_before_reset=0), which PyTorch does not": (
            node.operator == "GRU" and not node.attribute("linear_before_reset", 0)
        ),
    }
    for reason, is_so in reasons.items():
        if is_so:
            raise Refused(reason)


def _weights(node: OnnxNode, given: tuple[Any, ...]) -> dict[str, Tensor]:
    """In PyTorch's layout: the node's own, or those that the graph computes."""
    own: dict[str, Tensor] = dict(node.named_parameters())
    computed = {name: tensor for name, tensor in zip(_SLOTS, given, strict=True) if isinstance(tensor, Tensor)}
    if own and computed:
        raise Refused("has weights of which some are computed and some are constants")
    layout = OPERATORS[node.operator].layout
    assert layout is not None
    return own or layout.load(computed, {})


def _run(node: OnnxNode, x: Tensor, given: tuple[Any, ...], states: list[Tensor | None]) -> tuple[Tensor, ...]:
    """The layer's outputs: (T, D, N, H), and the last states (D, N, H)."""
    weights = _weights(node, given)
    way = node.attribute("direction", "forward")
    directions = 2 if way == "bidirectional" else 1
    names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if "bias_ih_0" in weights else ()))
    params = [weights[f"{name}_{d}"] for d in range(directions) for name in names]
    hidden = node.attribute("hidden_size", params[1].shape[1])
    begun = [x.new_zeros(directions, x.shape[1], hidden) if s is None else s for s in states]
    x = torch.flip(x, [0]) if way == "reverse" else x
    rest = (params, len(names) == 4, 1, 0.0, False, directions == 2, False)
    if node.operator == "LSTM":
        out, *last = torch.lstm(x, begun, *rest)
    else:
        out, *last = (torch.gru if node.operator == "GRU" else torch.rnn_tanh)(x, begun[0], *rest)
    out = torch.flip(out, [0]) if way == "reverse" else out
    split = out.reshape(out.shape[0], out.shape[1], directions, hidden).permute(0, 2, 1, 3)
    return (split, *last)


@reads("LSTM", layout=_layout((0, 2, 3, 1)))
def _lstm(
    node: OnnxNode, x: Tensor, w: Any, r: Any, b: Any = None, lengths: Any = None, hidden: Tensor | None = None,
    cell: Tensor | None = None, peepholes: Any = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    _check(node, lengths, peepholes)
    return _run(node, x, (w, r, b), [hidden, cell])


@reads("GRU", layout=_layout((1, 0, 2)))
def _gru(
    node: OnnxNode, x: Tensor, w: Any, r: Any, b: Any = None, lengths: Any = None, hidden: Tensor | None = None
) -> tuple[Tensor, ...]:
    _check(node, lengths)
    return _run(node, x, (w, r, b), [hidden])


@reads("RNN", layout=_layout((0,)))
def _rnn(
    node: OnnxNode, x: Tensor, w: Any, r: Any, b: Any = None, lengths: Any = None, hidden: Tensor | None = None
) -> tuple[Tensor, ...]:
    _check(node, lengths)
    return _run(node, x, (w, r, b), [hidden])
