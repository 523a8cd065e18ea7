"""Operators that compute beyond their tensors where the shapes do not fit, with the checks that they leave out.

A graph in a file may be anybody's. PyTorch's other operators compare shapes themselves; these were found to read, or in
the case of LSTMs to write, outside of their arguments (torch 2.13, on the CPU).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.surgery.grouped import by_rows

__all__ = ["CHECKED", "attention", "grouped_mm", "lstm", "packed_lstm", "weight_norm"]


def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Scaled dot-product attention in which every key has its value.

    Raises:
        InputError: There are more or fewer values than keys.
    """
    _fit("scaled_dot_product_attention", "values for keys", value.shape[:-1], key.shape[:-1])
    found: Tensor = torch.ops.aten.scaled_dot_product_attention.default(query, key, value, *args, **kwargs)
    return found


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g · v / ‖v‖, with one length in ``g`` for every entry of ``dim``.

    Raises:
        InputError: ``g`` is of another shape.
    """
    wanted = [1] * v.ndim
    if dim != -1:
        wanted[dim] = v.shape[dim]
    _fit("_weight_norm", "lengths", g.shape, wanted if dim != -1 or g.ndim else [])
    found: Tensor = torch.ops.aten._weight_norm.default(v, g, dim)
    return found


def lstm(
    x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """An LSTM whose weights and states are those of its sizes.

    Raises:
        InputError: One of them is not.
    """
    if x.ndim != 3:
        raise InputError(f"lstm takes inputs of three dimensions; got {tuple(x.shape)}.")
    _lstm_fits(x.shape[-1], x.shape[0 if batch_first else 1], hx, params, has_biases, num_layers, bidirectional)
    found: tuple[Tensor, ...] = torch.ops.aten.lstm.input(
        x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first
    )
    return found


def packed_lstm(
    data: Tensor, batch_sizes: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], has_biases: bool,
    num_layers: int, dropout: float, train: bool, bidirectional: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """An LSTM over sequences of several lengths; see :func:`lstm`."""
    _lstm_fits(data.shape[-1], hx[0].shape[1], hx, params, has_biases, num_layers, bidirectional)
    found: tuple[Tensor, ...] = torch.ops.aten.lstm.data(
        data, batch_sizes, hx, params, has_biases, num_layers, dropout, train, bidirectional
    )
    return found


def _lstm_fits(
    inputs: Any, batch: Any, hx: Sequence[Tensor], params: Sequence[Tensor], has_biases: bool, num_layers: int,
    bidirectional: bool,
) -> None:  # fmt: skip
    if len(hx) != 2 or any(state.ndim != 3 for state in hx):
        raise InputError("lstm takes two states of three dimensions.")
    directions = 2 if bidirectional else 1
    out, hidden = hx[0].shape[-1], hx[1].shape[-1]
    for name, state, size in (("the hidden state", hx[0], out), ("the cell state", hx[1], hidden)):
        _fit("lstm", name, state.shape, (num_layers * directions, batch, size))
    wanted: list[tuple[Any, ...]] = []
    for layer in range(num_layers):
        own: list[tuple[Any, ...]] = [(4 * hidden, inputs if layer == 0 else directions * out), (4 * hidden, out)]
        own += [(4 * hidden,)] * 2 if has_biases else []
        wanted += (own + ([(out, hidden)] if out != hidden else [])) * directions
    if len(params) != len(wanted):
        raise InputError(f"lstm of {num_layers} layers takes {len(wanted)} weights; got {len(params)}.")
    for number, (tensor, shape) in enumerate(zip(params, wanted, strict=True)):
        _fit("lstm", f"weight {number}", tensor.shape, shape)


def grouped_mm(
    x: Tensor, weight: Tensor, offs: Tensor | None = None, bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Rows (S, K) times one of several matrices (E, K, N) each, which end where ``offs`` (E,) says.

    Raises:
        InputError: Sizes do not fit, or ends are not in order within the rows.
    """
    if x.ndim != 2 or weight.ndim != 3 or offs is None or bias is not None or out_dtype not in (None, x.dtype):
        raise InputError("grouped_mm takes rows, a matrix for each expert, and where their rows end.")
    _fit("grouped_mm", "ends", offs.shape, weight.shape[:1])
    _fit("grouped_mm", "rows", x.shape[1:], weight.shape[1:2])
    if x.is_meta or offs.is_meta:
        return x.new_empty((x.shape[0], weight.shape[2]))
    ends = [0, *offs.tolist(), x.shape[0]]
    if sorted(ends) != ends:
        raise InputError(f"grouped_mm takes ends in order between 0 and {x.shape[0]}; got {ends[1:-1][:8]}.")
    return by_rows(x, weight, ends[1:-1])


def _fit(operator: str, what: str, got: Sequence[Any], wanted: Sequence[Any]) -> None:
    if len(got) != len(wanted) or any(a != b for a, b in zip(got, wanted, strict=True)):
        raise InputError(f"{operator} takes {what} of shape {tuple(wanted)}; got {tuple(got)}.")


CHECKED: dict[str, Callable[..., Any]] = {
    "aten.scaled_dot_product_attention.default": attention,
    "aten._weight_norm.default": weight_norm,
    "aten.lstm.input": lstm,
    "aten.lstm.data": packed_lstm,
    "aten._grouped_mm.default": grouped_mm,
    "transformers.grouped_mm_fallback.default": grouped_mm,
}
"""By the operator that each stands for."""
