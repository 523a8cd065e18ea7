"""Sparse products: what they compute, what is stored, and that only what was measured faster is converted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateur.core.errors import InputError, UnknownNameError, VerificationError, WeightsError
from secateur.models import create
from secateur.sparsity import convert_sparse, converting, load_converted, sparsify
from secateur.sparsity.kernels import PRODUCTS, Gathered, SparseLayer, gathered, row_wise

Pace = Callable[[Mapping[str, float]], None]


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Pace:
    """Sets the milliseconds that each contender seems to take (and calls it once)."""

    def setting(milliseconds: Mapping[str, float]) -> None:
        def rounds(contenders: Mapping[str, Any], **_: Any) -> tuple[int, dict[str, tuple[float, ...]]]:
            for contender in contenders.values():
                assert contender(1) > 0
            return 1, {name: (milliseconds[name],) * 3 for name in contenders}

        monkeypatch.setattr(converting, "rounds", rounds)

    return setting


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 32, 1, stride=2), nn.ReLU(), nn.Conv2d(32, 16, 3), nn.Flatten(),
                         nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 5, bias=False))  # fmt: skip


def by_hand(matrix: Tensor, columns: Tensor) -> Tensor:
    """The product, entry by entry, in double precision."""
    result = np.zeros((matrix.shape[0], columns.shape[1]))
    for i, j in zip(*np.nonzero(matrix.numpy()), strict=True):
        result[i] += float(matrix[i, j]) * columns[j].double().numpy()
    return torch.from_numpy(result)


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("product", PRODUCTS)
def test_products_multiply(product: str, n: int) -> None:
    torch.manual_seed(n)
    blocks = torch.rand(3, 20) < 0.2
    blocks[1] = False  # a group of rows without any weight
    blocks[2, 0] = True  # the input that shorter groups are filled up with is really used
    matrix = torch.randn(24, 20) * blocks.repeat_interleave(8, 0)
    made, columns = PRODUCTS[product](matrix), torch.randn(20, n)
    assert made is not None
    torch.testing.assert_close(made(columns).double(), by_hand(matrix, columns), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(copy.deepcopy(made)(columns), made(columns))


def test_gathering_wants_blocks() -> None:
    torch.manual_seed(0)
    assert gathered(torch.randn(64, 100) * (torch.rand(64, 100) < 0.1)) is None
    tall = gathered(torch.randn(64, 100) * (torch.rand(4, 100) < 0.1).repeat_interleave(16, 0))
    assert tall is not None
    assert tall.values.shape[2] == 16, "the tallest groups that the blocks fill"


def test_stored_entries_are_those_that_are_not_zero() -> None:
    matrix = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [3.0, 0.0, 4.0]])
    found = row_wise(matrix)
    assert found.values.tolist() == [2, 3, 4]
    assert found.columns.tolist() == [1, 0, 2]
    assert found.starts.tolist() == [0, 1, 1, 3]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("pattern", ["element", "block 16x1"])
def test_a_converted_network_computes_the_same(pattern: str, batch: int, pace: Pace) -> None:
    pace({"dense": 2.0, "sparse": 1.0, "row-wise": 1.0, "gathered": 0.5})
    sparse = sparsify(network(), ratio=0.9, pattern=pattern, ignore=["2", "6"]).model
    x = torch.randn(batch, 8, 8, 8)
    found = convert_sparse(sparse, x)
    kinds = {layer.name: layer.product for layer in found.layers}
    best = "gathered" if pattern == "block 16x1" else "row-wise"
    assert kinds == {"0": best, "4": best, "6": "dense"}
    torch.testing.assert_close(found.model(x), sparse(x), rtol=1e-4, atol=1e-5)
    assert found.model(x).is_contiguous()
    assert isinstance(sparse[4], nn.Linear), "the given network is left as it was"
    assert found.max_relative_error < 1e-5
    assert found.speedup is not None
    assert found.speedup.median == 2
    assert found.headline.startswith("2 of 3 layers")


def test_what_is_not_faster_stays_dense_and_is_listed_with_its_ratio(pace: Pace) -> None:
    pace({"dense": 1.0, "row-wise": 1.25, "gathered": 4.0})
    found = convert_sparse(sparsify(network(), ratio=0.9, ignore=["2"]).model, torch.randn(1, 8, 8, 8))
    assert {layer.product for layer in found.layers} == {"dense"}
    assert [layer.speedup.median for layer in found.layers if layer.speedup] == [0.8] * 3
    assert found.speedup is None
    assert not [m for m in found.model.modules() if isinstance(m, SparseLayer)]
    assert "None of 3 layers is faster" in repr(found)
    assert "0.80×" in repr(found)


def test_layers_without_zeros_are_not_tried(pace: Pace) -> None:
    pace({})
    found = convert_sparse(network(), torch.randn(1, 8, 8, 8))
    assert [layer.speedup for layer in found.layers] == [None] * 3


def test_saved_without_a_pickle_and_read_back(pace: Pace, tmp_path: Path) -> None:
    pace({"dense": 2.0, "sparse": 1.0, "row-wise": 1.0, "gathered": 0.5})
    dense = network()
    mixed = sparsify(dense, ratio=0.9, pattern="block 16x1", only=["0"]).model
    found = convert_sparse(sparsify(mixed, ratio=0.8, only=["4", "6"]).model, torch.randn(2, 8, 8, 8))
    path = found.save(tmp_path / "sparse.safetensors")
    state = load_file(path)
    assert {"0.product.index", "4.product.starts", "4.bias", "2.weight"} <= set(state)
    assert "4.weight" not in state
    back = load_converted(path, dense)
    x = torch.randn(3, 8, 8, 8)
    assert torch.equal(back(x), found.model(x))
    assert isinstance(back[0].product, Gathered)  # type: ignore[index]
    with pytest.raises(WeightsError, match="does not fit the network"):
        load_converted(path, create("lenet5"))
    with pytest.raises(WeightsError, match=r"gone\.safetensors does not fit"):
        load_converted(tmp_path / "gone.safetensors", dense)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("0.product.index", lambda t: t + 1000),  # reads behind the input
        ("0.product.index", lambda t: t - 1),
        ("0.product.index", lambda t: t[:, :-1]),
        ("0.product.values", lambda t: t[..., :-1]),
        ("0.product.values", lambda t: t.double()),
        ("4.product.columns", lambda t: t + 1000),
        ("4.product.columns", lambda t: -t - 1),
        ("4.product.columns", lambda t: t[:-1]),
        ("4.product.columns", lambda t: t.float()),
        ("4.product.starts", lambda t: t * 2),
        ("4.product.starts", lambda t: t.flip(0)),
        ("4.product.starts", lambda t: t[:-1]),
        ("4.product.values", lambda t: t[:-1]),
    ],
)
def test_files_that_point_outside_of_their_layers_are_refused(
    pace: Pace, tmp_path: Path, key: str, change: Callable[[Tensor], Tensor]
) -> None:
    pace({"dense": 2.0, "sparse": 1.0, "row-wise": 1.0, "gathered": 0.5})
    dense = network()
    blocks = sparsify(dense, ratio=0.9, pattern="block 16x1", only=["0"]).model
    found = convert_sparse(sparsify(blocks, ratio=0.9, only=["4"]).model, torch.randn(1, 8, 8, 8))
    path = found.save(tmp_path / "sparse.safetensors")
    state = load_file(path)
    save_file(state | {key: change(state[key]).contiguous()}, path)
    with pytest.raises(WeightsError, match="does not fit the network"):
        load_converted(path, dense)


def test_backward_says_that_it_is_for_inference(pace: Pace) -> None:
    pace({"dense": 2.0, "sparse": 1.0, "row-wise": 1.0, "gathered": 0.5})
    x = torch.randn(1, 8, 8, 8, requires_grad=True)
    found = convert_sparse(sparsify(network(), ratio=0.9, ignore=["2"]).model, x.detach())
    result = found.model(x)
    with pytest.raises(InputError, match="has no gradient: it is for inference"):
        result.sum().backward()


def test_a_wrong_product_is_never_returned(pace: Pace, monkeypatch: pytest.MonkeyPatch) -> None:
    pace({"dense": 2.0, "sparse": 1.0, "row-wise": 1.0})
    monkeypatch.setattr(converting, "PRODUCTS", {"row-wise": lambda matrix: row_wise(matrix * 1.01)})
    with pytest.raises(VerificationError, match="differs from the dense one"):
        convert_sparse(sparsify(network(), ratio=0.9).model, torch.randn(1, 8, 8, 8))


def test_bad_input() -> None:
    x = torch.randn(1, 8, 8, 8)
    with pytest.raises(InputError, match=r"works on nn\.Linear.*has none"):
        convert_sparse(nn.Sequential(nn.Conv2d(8, 8, 3)), x)
    with pytest.raises(UnknownNameError, match="'fc'"):
        convert_sparse(network(), x, only=["fc"])
    with pytest.raises(InputError, match="are positive; got 0"):
        convert_sparse(network(), x, threads=0)


def test_measured_here_with_the_real_clock() -> None:
    sparse = sparsify(network(), ratio=0.9, ignore=["2"]).model
    found = convert_sparse(sparse, torch.randn(1, 8, 8, 8), budget_s=0.2, min_speedup=1e-9)
    assert all(layer.speedup is not None and layer.speedup.median > 0 for layer in found.layers)
    assert all(layer.product != "dense" for layer in found.layers)
