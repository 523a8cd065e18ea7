"""Labels move as numbers do: each movement rule against the operator itself, applied to labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.graph.flow import flow
from secateur.graph.labels import Constraints, Labels
from secateur.graph.ops.reshape import _segments, reshape
from secateur.graph.trace import trace
from zoo import Lambda

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "transpose": lambda x: x.transpose(1, -1),
    "movedim": lambda x: x.movedim((1, 3), (3, 1)),
    "flatten": lambda x: x.flatten(1),
    "view": lambda x: x.view(x.shape[0], 6, 20),
    "reshape_minus_one": lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 6),
    "squeeze_unsqueeze": lambda x: x[:, :, None].squeeze(2).unsqueeze(-1),
    "slice": lambda x: x[:, 1:5],
    "strided": lambda x: x[:, ::2],
    "select": lambda x: x.select(2, 1),
    "narrow": lambda x: x.narrow(1, 2, 3),
    "flip": lambda x: x.flip(1),
    "cat": lambda x: torch.cat([x[:, 3:], x], 1),
    "stack": lambda x: torch.stack([x, x], 1),
    "chunk": lambda x: x.chunk(3, 1)[1],
    "split": lambda x: x.split([1, 2, 3], 1)[2],
    "unbind": lambda x: x.unbind(2)[0],
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "expand": lambda x: x[:, :, :1].expand(-1, -1, 7, -1),
    "unflatten": lambda x: x.flatten(1).unflatten(1, (6, 4, 5)),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x[:, :, :, :4], 2),
    "mean": lambda x: x.mean((2, 3)),
}


@pytest.mark.parametrize("name", MOVES)
def test_labels_move_as_numbers_do(name: str) -> None:
    """Gives every channel the number of its label as its value, runs the operator, and compares."""
    move = MOVES[name]
    model = Lambda(lambda m, x: move(m.a(x)), a=nn.Conv2d(1, 6, 1))
    result = flow(trace(model, torch.randn(2, 1, 4, 5)))
    (last,) = result.traced.nodes[-1].all_input_nodes
    labels = result.tensors["a.weight"].at(0)[0]
    values = torch.as_tensor(labels, dtype=torch.float64).reshape(1, 6, 1, 1).expand(2, 6, 4, 5)
    expected = move(values)
    got: Labels = result.labels[last]
    full = np.full(got.shape, -1.0)
    for dim, (vector,) in got.dims.items():
        if not np.isin(vector, labels).any():  # copies of one entry, which have labels of their own
            assert name == "expand"
            continue
        view = vector.reshape([-1 if d == dim else 1 for d in range(len(got.shape))])
        full = np.broadcast_to(view, got.shape).astype(float)
    assert got.shape == tuple(expected.shape)
    assert np.array_equal(full, expected.numpy())


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((2, 3, 4), (2, 12)),
        ((2, 12), (2, 3, 4)),
        ((4, 6), (3, 8)),
        ((1, 1), ()),
        ((5,), (1, 5, 1)),
        ((2, 1, 3), (2, 3)),
    ],
)
def test_segments_cover_both_shapes_and_preserve_products(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    runs = _segments(a, b)
    assert [d for left, _ in runs for d in left] == list(range(len(a)))
    assert [d for _, right in runs for d in right] == list(range(len(b)))
    assert all(np.prod([a[d] for d in left]) == np.prod([b[d] for d in right]) for left, right in runs)


def test_a_split_into_blocks_makes_a_product() -> None:
    c = Constraints()
    channels = c.fresh(6)
    out = reshape(c, Labels((2, 6), {1: (channels,)}), (2, 2, 3))
    assert set(out.dims) == {1, 2}
    (site,) = c.sites
    assert site.split
    assert site.children.tolist() == channels.tolist()
    assert site.parents[0].reshape(2, 3)[:, 0].tolist() == out.dims[1][0].tolist()
    assert site.parents[1].reshape(2, 3)[0].tolist() == out.dims[2][0].tolist()


def test_flattening_and_restoring_makes_no_product() -> None:
    c = Constraints()
    channels = c.fresh(3)
    flat = reshape(c, Labels((2, 3, 4, 5), {1: (channels,)}), (2, 60))
    assert flat.dims[1][0].tolist() == np.repeat(channels, 20).tolist()
    back = reshape(c, flat, (2, 3, 4, 5))
    assert back.dims[1][0].tolist() == channels.tolist()
    assert not c.sites
