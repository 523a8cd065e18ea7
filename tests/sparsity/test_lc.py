"""LC against its closed form, and in real training."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.data import load
from secateur.models import create
from secateur.sparsity import LC
from secateur.sparsity.lc import top_weights
from secateur.train import TrainConfig, fit


class Bowl(nn.Module):
    """½ Σ hᵢ (wᵢ − w*ᵢ)²: an L step has the solution w = (h w* + μ θ + λ) / (h + μ)."""

    def __init__(self, target: Tensor, curvature: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(target.clone())
        self.target, self.curvature = target, curvature

    def forward(self) -> Tensor:
        return 0.5 * (self.curvature * (self.weight - self.target).square()).sum()


def keep_largest(values: Tensor, count: int) -> Tensor:
    order = sorted(range(values.numel()), key=lambda k: -abs(values.flatten()[k].item()))[:count]
    kept = torch.zeros(values.numel())
    kept[order] = values.flatten()[order]
    return kept.reshape(values.shape)


def test_every_iteration_equals_its_closed_form() -> None:
    torch.manual_seed(0)
    target, curvature = torch.randn(4, 5), torch.rand(4, 5) + 0.5
    model = Bowl(target, curvature)
    lc = LC(0.75, mu=0.1, growth=1.5, iterations=6)
    inner = 200  # plain gradient steps solve an L step
    lc.start(model, inner, 6)
    theta, dual = keep_largest(target, 5), torch.zeros(4, 5)
    for iteration in range(6):
        mu = 0.1 * 1.5**iteration
        assert lc.strength == pytest.approx(mu)
        for _ in range(inner):
            model.weight.grad = None
            model().backward()
            lc.gradients(model)
            with torch.no_grad():
                model.weight -= 0.4 * model.weight.grad
            lc.weights(model)
        solved = (curvature * target + mu * theta + dual) / (curvature + mu)
        torch.testing.assert_close(model.weight.detach(), solved, atol=1e-5, rtol=1e-5)
        theta = keep_largest(solved - dual / mu, 5)
        dual = dual - mu * (solved - theta)
        torch.testing.assert_close(lc.compressed["weight"], theta, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(lc.multipliers["weight"], dual, atol=1e-4, rtol=1e-4)
    lc.finish(model)
    assert torch.equal(model.weight.detach(), lc.compressed["weight"])
    assert int(model.weight.count_nonzero()) == 5


def test_it_converges_to_the_constrained_minimum() -> None:
    """Equal curvature: the best sparse point is the target's largest entries, and w and θ meet there."""
    torch.manual_seed(1)
    sizes = torch.cat([torch.linspace(0.1, 0.6, 18), torch.linspace(1.0, 2.0, 18)])[torch.randperm(36)]
    model = Bowl((sizes * torch.randn(36).sign()).reshape(6, 6), torch.ones(6, 6))
    lc = LC(0.5, mu=0.05, growth=1.3, iterations=20)
    lc.start(model, 100, 20)
    for _ in range(2000):
        model.weight.grad = None
        model().backward()
        lc.gradients(model)
        with torch.no_grad():
            model.weight -= 0.05 * model.weight.grad
        lc.weights(model)
    expected = keep_largest(model.target, 18)
    torch.testing.assert_close(lc.compressed["weight"], expected, atol=1e-2, rtol=0)
    assert lc.epoch(model, 20)["lc_distance"] < 1e-2


def test_the_compression_step_keeps_the_largest_of_the_whole_network() -> None:
    torch.manual_seed(2)
    values = {"a": torch.randn(5, 5), "b": 3 * torch.randn(4, 2)}
    found = top_weights(values, 0.8)
    both = torch.cat([v.flatten() for v in values.values()])
    assert torch.equal(torch.cat([v.flatten() for v in found.values()]), keep_largest(both, 7))


def run(folder: Path | None, seen: list[dict[str, float]] | None = None) -> tuple[nn.Module, LC]:
    torch.manual_seed(0)
    model, lc = create("resnet_digits"), LC(0.9, mu=1e-2, iterations=5)
    config = TrainConfig(epochs=4, batch_size=64)
    history = fit(model, load("digits", limit=128), config, folder=folder, extras=[lc])
    if seen is not None:
        seen += [dict(record.extra) for record in history.epochs]
    return model, lc


def test_training_ends_sparse_and_resumes_exactly(tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    model, lc = run(None, seen)
    weights = {n: p.detach() for n, p in model.named_parameters()}
    total = sum(mask.numel() for mask in lc.masks.values())
    assert sum(int(weights[n].count_nonzero()) for n in lc.masks) == int(0.1 * total + 0.5)
    assert all(torch.equal(weights[n] != 0, mask) for n, mask in lc.masks.items())
    assert [row["lc_mu"] for row in seen] == pytest.approx([1e-2 * 1.1**k for k in (1, 2, 3, 4)])
    # Interrupted within the second epoch (after the first was written), and run again.
    steps = 0

    class Interrupt(LC):
        def weights(self, model: nn.Module) -> None:
            nonlocal steps
            super().weights(model)
            steps += 1
            if steps == 3:
                raise KeyboardInterrupt

        def settings(self) -> dict[str, object]:
            return {**super().settings(), "extra": "LC"}

    torch.manual_seed(0)
    broken = create("resnet_digits")
    config, data = TrainConfig(epochs=4, batch_size=64), load("digits", limit=128)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, data, config, folder=tmp_path, extras=[Interrupt(0.9, mu=1e-2, iterations=5)])
    again, _ = run(tmp_path)
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def schedule(lc: LC, steps: int) -> list[float]:
    """μ of every gradient step of a training, its changes alone."""
    model = Bowl(torch.ones(2, 2), torch.ones(2, 2))
    lc.start(model, steps, 1)
    found = []
    for _ in range(steps):
        found.append(lc.strength)
        lc.weights(model)
    return [mu for k, mu in enumerate(found) if k == 0 or mu != found[k - 1]]


@pytest.mark.parametrize(("steps", "iterations"), [(4800, 40), (144, 12), (5, 1), (30, 2)])
def test_by_default_a_training_of_any_length_ends_with_the_same_strength(steps: int, iterations: int) -> None:
    found = schedule(LC(0.5), steps)
    assert len(found) == iterations
    assert found[-1] == 1
    if iterations > 1:
        assert found == pytest.approx([1.1 ** (39 * (k / (iterations - 1) - 1)) for k in range(iterations)])


def test_the_papers_schedule_and_others_are_had_by_name() -> None:
    assert schedule(LC(0.5, mu=9e-5), 80) == pytest.approx([9e-5 * 1.1**n for n in range(40)])
    assert schedule(LC(0.5, mu=0.1, final_mu=0.8, iterations=4), 8) == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert schedule(LC(0.5, final_mu=8, growth=2, iterations=3), 36) == pytest.approx([2, 4, 8])
    with pytest.raises(InputError, match="give two of the three"):
        LC(0.5, mu=0.1, final_mu=0.8, growth=2)


def test_a_short_training_by_default_ends_close_to_its_compressed_form() -> None:
    """The paper's μ, for long trainings, leaves the two apart, and says so."""
    found = {}
    for name, options in (("default", {}), ("paper", {"mu": 9e-5})):
        torch.manual_seed(0)
        model, lc = create("resnet_digits"), LC(0.8, **options)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            history = fit(model, load("digits", limit=256), TrainConfig(epochs=8, batch_size=16), extras=[lc])
        found[name] = history.epochs[-1].extra["lc_distance"], [str(w.message) for w in said]
    assert found["default"][0] < 0.3 < found["paper"][0]
    assert not any("LC" in words for words in found["default"][1])
    assert any("has not converged" in words and "final_mu" in words for words in found["paper"][1])


@pytest.mark.parametrize("bad", [{"ratio": 1.0}, {"mu": 0.0}, {"growth": 0.9}, {"iterations": 0}])
def test_values_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        LC(**bad)  # type: ignore[arg-type]
