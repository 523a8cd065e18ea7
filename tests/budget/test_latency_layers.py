"""The layers of a latency table: found with their real sizes, written alike as file and module, read between points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import secateur
from latency_cases import arithmetic, seconds_by_macs  # noqa: F401 (a fixture)
from secateur import Target
from secateur.budget.latency.layers import Layer, sites
from secateur.budget.latency.module import SideBySide
from secateur.budget.latency.predict import Network
from secateur.budget.latency.store import Setting, Times
from secateur.budget.latency.table import Table, axis
from secateur.cut.analysis import analyse
from secateur.graph.ops import OPERATORS
from zoo import Lambda, conv, pooled, settle

FOLLOWERS = [name.removeprefix("aten.") for name in OPERATORS if OPERATORS[name].facts.fused]

PLAIN = Layer("conv", (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))


def mobile() -> tuple[nn.Module, torch.Tensor]:
    """A strided stem, a depthwise convolution, a projection and a head."""
    relu6 = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
    parts = [nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.SiLU(), relu6, nn.Conv2d(16, 24, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)]
    return settle(nn.Sequential(*parts, *head)), torch.randn(1, 3, 16, 16)


def test_layers_are_found_with_what_their_time_depends_on() -> None:
    model, x = mobile()
    found, covered = sites(analyse(model, x).costs)
    assert [s.layer for s in found] == [
        Layer("conv", (16, 16), (3, 3), (2, 2), (1, 1), (1, 1), followers=("silu",)),
        Layer("conv", (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), groups=0, followers=("batch_norm", "hardtanh")),
        Layer("conv", (8, 8), (1, 1), (1, 1), (0, 0), (1, 1)),
        Layer("linear", ()),
    ]
    assert len(covered) == 4 + 3


def test_a_tensor_used_twice_ends_the_followers() -> None:
    model = settle(Lambda(lambda m, x: m.fc(pooled(m.b(y := m.a(x)) + y)), a=conv(3, 8), b=nn.Conv2d(8, 8, 1),
                          fc=nn.Linear(8, 2)))  # fmt: skip
    found, _ = sites(analyse(model, torch.randn(1, 3, 8, 8)).costs)
    assert [s.layer.followers for s in found] == [("batch_norm", "relu"), (), ()]


def test_contractions_that_are_no_layer_cost_by_their_macs(arithmetic: Any) -> None:  # noqa: F811
    grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
    model = settle(nn.Sequential(conv(3, 16), grouped, conv(16, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                 nn.Linear(16, 4)))  # fmt: skip
    costs = analyse(model, torch.randn(1, 3, 8, 8)).costs
    network, table = Network(costs), Table(Setting(arithmetic()))
    assert len(network.sites) == 3
    assert len(costs.macs) == 4
    table.measure(network.grid(network.full, table.step))
    total = sum(t.ms(*(int(network.full[s]) for s in t.slots)) for t in network.terms(table))
    reference = 64 * 64 * 9 * 28 * 28  # what the first measured time is relative to
    assert total / table.times.reference_ms == pytest.approx(costs.counts(np.ones(costs.groups.units, bool)).macs
                                                             / reference)  # fmt: skip


@pytest.mark.parametrize("follower", [None, *FOLLOWERS])
@pytest.mark.parametrize("kind", ["conv", "depthwise", "linear", "rows"])
@pytest.mark.parametrize("copies", [1, 3])
def test_file_and_module_have_the_same_shapes(copies: int, kind: str, follower: str | None, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    from secateur.budget.latency.onnxfile import write_layer

    followers = () if follower is None else (follower,)
    if kind == "rows" and follower == "batch_norm":
        pytest.skip("PyTorch normalises the second dimension, not the features")
    space = {"linear": (), "rows": (5,)}.get(kind, (9, 7))
    spread: dict[str, Any] = {"kernel": (3, 3), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 1)}
    layer = Layer("linear" if kind in ("linear", "rows") else "conv", space, followers=followers,
                  groups=int(kind != "depthwise"), **(spread if "conv" in kind or "depth" in kind else {}))  # fmt: skip
    outer, inner = 8, 1 if kind == "depthwise" else 6
    channels = layer.channels_in(inner, outer)
    shape = (2, channels, *space) if layer.kind == "conv" else (2, *space, channels)
    write_layer(layer, outer, inner, shape=shape, path=tmp_path / "layer.onnx", copies=copies)
    session = onnxruntime.InferenceSession(str(tmp_path / "layer.onnx"), providers=["CPUExecutionProvider"])
    x = torch.rand(shape)
    (found,) = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        wanted = SideBySide(layer, outer, inner, copies)(x)
    assert found.shape == tuple(wanted.shape)
    if follower in ("relu", "relu6", "hardtanh"):
        assert found.min() >= 0
        assert follower == "relu" or found.max() <= 6 * copies
    weights = onnxruntime_weights(tmp_path / "layer.onnx")
    assert len(weights) == len({w.tobytes() for w in weights}) == copies  # equal ones might be kept once


def onnxruntime_weights(path: Path) -> list[Any]:
    """The matrices and kernels of an ONNX file."""
    import onnx

    return [onnx.numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer if len(t.dims) > 1]


def test_what_a_call_costs_once_is_shared_by_layers_side_by_side(arithmetic: Any) -> None:  # noqa: F811
    call = 1e-3  # as long as 100,000 multiply-accumulates

    def with_overhead(model: nn.Module, inputs: Any) -> float:
        return seconds_by_macs(model, inputs) + call

    table = Table(Setting(arithmetic(with_overhead)))
    large = Layer("linear", ())
    table.measure({PLAIN: ((8,), (8,)), large: ((2048,), (2048,))})
    macs = {"": 28 * 28 * 64 * 64 * 9, PLAIN: 8 * 8 * 8 * 8 * 9, large: 2048 * 2048}
    reference = macs[""] / 1e8 + call
    assert table.times.reference_ms == pytest.approx(1e3 * reference)
    assert table(PLAIN, 8, 8) == pytest.approx(1e3 * (macs[PLAIN] / 1e8 + call / 3))
    assert table(large, 2048, 2048) == pytest.approx(1e3 * (macs[large] / 1e8 + call))


@pytest.mark.parametrize("full", [3, 24, 40, 96, 112, 1280])
@pytest.mark.parametrize("step", [1, 8, 16, 32])
def test_grid_spans_the_widths_in_steps(full: int, step: int) -> None:
    least = min(full, max(1, step // 4))
    grid = axis(full, least, step)
    assert (grid[0], grid[-1]) == (least, full)
    assert list(grid) == sorted(set(grid))
    assert all(w % step == 0 or w in (least, full, step // 2, step // 4) for w in grid)
    assert len(grid) <= 7


def test_between_points_times_are_linear_and_steps_are_rounded_up(arithmetic: Any) -> None:  # noqa: F811
    table = Table(Setting(arithmetic(step=8)))
    table.measure({PLAIN: ((8, 16, 64), (16, 64))})
    at = {(o, i): table.times.get(PLAIN.key, o, i) or 0.0 for o in (16, 64) for i in (16, 64)}
    assert table(PLAIN, 64, 64) == at[64, 64]
    assert at[64, 64] == pytest.approx(4 * at[16, 64])
    half = (at[16, 16] + at[64, 16]) / 2
    assert table(PLAIN, 40, 16) == pytest.approx(half) == table(PLAIN, 33, 16)
    assert table(PLAIN, 41, 16) > half
    assert table(PLAIN, 40, 40) == pytest.approx((half + (at[16, 64] + at[64, 64]) / 2) / 2)
    assert table(PLAIN, 5, 16) == table(PLAIN, 8, 16)


def test_two_processes_add_to_one_file_in_one_scale(arithmetic: Any) -> None:  # noqa: F811
    setting = Setting(arithmetic())
    one, two = Times.open(setting), Times.open(setting)
    one.reference_ms, two.reference_ms = 2.0, 4.0  # the machine was half as fast for the second
    one.put("a", 8, 8, 3.0)
    two.put("b", 8, 8, 3.0)
    assert one.save() == two.save() == ""
    both = Times.open(setting)
    assert both.reference_ms == 2.0
    assert both.get("a", 8, 8) == both.get("b", 8, 8) == 6.0


def test_a_cache_that_cannot_be_written_is_a_note(
    arithmetic: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    name = arithmetic()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "file"))
    model, x = mobile()
    pruned = secateur.prune(model, x, target=Target(latency=0.7, runtime=name))
    assert any("was not kept" in note for note in pruned.notes)


def test_onnxruntime_from_end_to_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    model = settle(nn.Sequential(conv(3, 64), conv(64, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4)))
    pruned = secateur.prune(model, torch.rand(1, 3, 32, 32), target=Target(latency=0.6, runtime="onnxruntime"))
    found = pruned.plan.provenance["latency"]
    assert found["version"].startswith("onnxruntime ")
    assert 0 < found["reached"] < 1.5
    assert all(c.kept % 16 == 0 for c in pruned.groups)
    assert min(c.kept for c in pruned.groups) < 64
    (file,) = (tmp_path / "latency").glob("onnxruntime-*.json")
    assert secateur.prune(model, torch.rand(1, 3, 32, 32), ratio=0.5, round_to="auto").groups[0].kept == 32
    assert file.stat().st_size > 100
