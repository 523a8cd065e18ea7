"""Random plans on random networks: the pruned network equals the masked dense one every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur
from secateur.cut.analysis import Analysis, analyse
from secateur.cut.prune import _cut_once
from zoo import settle

STEPS = (
    "conv", "grouped", "depthwise", "norm", "add", "cat", "split", "shuffle", "pad", "gate", "linear", "pool", "up",
    "transposed", "slice", "glu",
)  # fmt: skip
SETTINGS = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


class Drawn(nn.Module):
    """A network from a list of (step, number) pairs; widths follow from the numbers."""

    def __init__(self, steps: list[tuple[str, int]]) -> None:
        super().__init__()
        self.steps = steps
        self.parts = nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3, padding=1)})
        width, self.widths = 8, []
        for k, (step, n) in enumerate(steps):
            self.widths.append(width)
            width = self._build(str(k), step, n, width)
        self.head = nn.Linear(width, 3)

    def _build(self, k: str, step: str, n: int, width: int) -> int:
        parts = self.parts
        out = 4 * (1 + n % 4)
        if step == "conv":
            parts[k] = nn.Sequential(nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU())
            return out
        if step == "grouped":
            parts[k] = nn.Conv2d(width, out, 3, padding=1, groups=2)
            return out
        if step == "transposed":
            parts[k] = nn.ConvTranspose2d(width, out, 3, padding=1, groups=1 + n % 2)
            return out
        if step == "depthwise":
            parts[k] = nn.Conv2d(width, width * (1 + n % 2), 3, padding=1, groups=width)
            return width * (1 + n % 2)
        if step == "norm":
            parts[k] = nn.GroupNorm((1, 2, 4)[n % 3], width)
        elif step == "add":
            parts[k] = nn.Sequential(nn.Conv2d(width, out, 1), nn.ReLU(), nn.Conv2d(out, width, 1))
        elif step == "gate":
            parts[k] = nn.Sequential(nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, width), nn.Sigmoid())
        elif step == "linear":
            parts[k] = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out), nn.GELU())
            return out
        elif step == "cat":
            parts[k] = nn.Conv2d(width, out, 1)
            return width + out
        elif step == "split":
            parts[k] = nn.Conv2d(width // 2, width // 2, 3, padding=1)
        elif step == "pad":
            return width + 4
        elif step == "slice":
            return width // 4 * 2
        elif step == "glu":
            return width // 2 * 2 // 2
        return width

    def forward(self, x: Tensor) -> Tensor:
        x = self.parts["stem"](x)
        for k, (step, _) in enumerate(self.steps):
            x = self._run(str(k), step, x)
        return self.head(x.mean((2, 3)))

    def _run(self, k: str, step: str, x: Tensor) -> Tensor:
        part: Any = dict(self.parts.items()).get(k)
        n, c, h, w = x.shape
        if step in ("conv", "grouped", "depthwise", "norm", "transposed"):
            return part(x)
        if step == "add":
            return F.relu(x + part(x))
        if step == "gate":
            return x * part(x.mean((2, 3)))[:, :, None, None]
        if step == "linear":
            return part(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if step == "cat":
            return torch.cat([part(x), x], 1)
        if step == "split":
            a, b = x.chunk(2, 1)
            return torch.cat([part(b), a], 1)
        if step == "shuffle":
            return x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        if step == "pad":
            return F.pad(x, (0, 0, 0, 0, 2, 2))
        if step == "slice":
            return torch.cat([x[:, : c // 4], x[:, c - c // 4 :]], 1)
        if step == "glu":
            return F.glu(x, 1)
        return F.max_pool2d(x, 2, 1) if step == "pool" else F.interpolate(x, scale_factor=1.5)


def drawn(steps: list[tuple[str, int]]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    kept: list[tuple[str, int]] = []
    for step in steps:  # leave out steps that the width does not allow
        try:
            Drawn([*kept, step])(torch.zeros(1, 3, 5, 5))
        except (ValueError, RuntimeError, ZeroDivisionError):
            continue
        kept.append(step)
    return settle(Drawn(kept)), torch.randn(2, 3, 5, 5)


def random_units(analysis: Analysis, seed: int, share: float) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    keep = rng.random(analysis.groups.units) >= share
    for group in analysis.groups.items:  # a group never empties
        if not keep[group.units].any():
            keep[rng.choice(group.units)] = True
    return keep


networks = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 11)), min_size=1, max_size=6)


@SETTINGS
@given(steps=networks, seed=st.integers(0, 99), share=st.sampled_from([0.2, 0.5, 0.8]))
def test_any_plan_is_exact(steps: list[tuple[str, int]], seed: int, share: float) -> None:
    model, x = drawn(steps)
    analysis = analyse(model, x)
    assert not analysis.unsupported
    keep = random_units(analysis, seed, share)
    for backend in ("graph", "auto"):
        pruned = _cut_once(model, x, analysis, keep, backend=backend, check=True, provenance={})
        assert pruned.verification is not None
        assert pruned.verification.max_relative_error <= 1e-5
        assert sum(p.numel() for p in pruned.model.parameters()) == pruned.after.params
        assert secateur.count(pruned.model, x).macs == pruned.after.macs


@SETTINGS
@given(steps=networks, seed=st.integers(0, 99))
def test_two_steps_equal_one(steps: list[tuple[str, int]], seed: int) -> None:
    model, x = drawn(steps)
    analysis = analyse(model, x)
    first = _cut_once(model, x, analysis, random_units(analysis, seed, 0.3), backend="auto", check=True, provenance={})
    between = analyse(first.model, x)
    second = _cut_once(first.model, x, between, random_units(between, seed + 1, 0.3), backend="auto", check=True,
                  provenance={})  # fmt: skip
    once = secateur.apply(model, second.plan, x)
    assert once.after == second.after
    assert torch.allclose(once.model(x), second.model(x), atol=1e-5)


@SETTINGS
@given(seed=st.integers(0, 999), widths=st.tuples(*[st.integers(2, 9)] * 3))
def test_the_plan_of_a_permuted_network_is_the_permuted_plan(seed: int, widths: tuple[int, int, int]) -> None:
    a, b, c = widths
    torch.manual_seed(seed)
    model = settle(
        nn.Sequential(nn.Conv2d(3, a, 3), nn.ReLU(), nn.Conv2d(a, b, 1), nn.ReLU(), nn.Conv2d(b, c, 1)), seed
    )
    x = torch.randn(2, 3, 5, 5)
    order = torch.randperm(a)
    permuted = settle(nn.Sequential(nn.Conv2d(3, a, 3), nn.ReLU(), nn.Conv2d(a, b, 1), nn.ReLU(), nn.Conv2d(b, c, 1)))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for name, dim in (("0.weight", 0), ("0.bias", 0), ("2.weight", 1)):
        state[name] = state[name].index_select(dim, order)
    permuted.load_state_dict(state)
    assert torch.allclose(model(x), permuted(x), atol=1e-5)
    plain, moved = (secateur.prune(m, x, ratio=0.5) for m in (model, permuted))
    assert {int(order[i]) for i in moved.plan.keep.get("0.weight", {}).get(0, range(a))} == set(
        plain.plan.keep.get("0.weight", {}).get(0, range(a))
    )
    assert torch.allclose(plain.model(x), moved.model(x), atol=1e-5)
