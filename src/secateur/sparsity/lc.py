"""LC: training that alternates between learning and compressing, until both agree on the weights that stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.sparsity.masks import weights_of
from secateur.sparsity.patterns import Pattern
from secateur.sparsity.select import Layer, by_ratio
from secateur.train.extras import Extra

__all__ = ["LC", "top_weights"]


def top_weights(values: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """The compression step: all but the largest weights of the whole network set to zero.

    Π(w) of Carreira-Perpiñán & Idelbayev 2018, §3 (ℓ0 constraint ‖θ‖₀ ≤ κ, with κ = (1 − ratio) · weights).

    Args:
        values: Weights by parameter name.
        ratio: Share of them to remove, in [0, 1), exactly; no layer empties.

    >>> top_weights({"a": torch.tensor([3.0, -1.0]), "b": torch.tensor([0.5, -2.0])}, 0.5)
    {'a': tensor([3., 0.]), 'b': tensor([ 0., -2.])}
    """
    sizes = {name: weight.detach().abs().double().cpu() for name, weight in values.items()}
    layers = [Layer(name, size, torch.ones(size.shape, dtype=torch.bool)) for name, size in sizes.items()]
    masks = by_ratio(layers, Pattern("element"), dict.fromkeys(values, ratio), pooled=True)
    return {name: weight.detach().masked_fill(~masks[name].to(weight.device), 0) for name, weight in values.items()}


class LC(Extra):
    """The learning-compression algorithm for pruning, as an augmented Lagrangian.

    Carreira-Perpiñán & Idelbayev, "Learning-Compression" Algorithms for Neural Net Pruning, CVPR 2018, §3:
    for μ = μ₀ < μ₁ < …, the L step trains the loss plus μ/2 ‖w − θ − λ/μ‖², the C step sets θ to the largest
    weights of w − λ/μ over the whole network, and λ ← λ − μ (w − θ). It ends with w = θ. The penalty enters as
    its gradient, μ (w − θ) − λ.

    The ``iterations`` are spread evenly over the steps of a training run.
    """

    @arguments.checked
    def __init__(
        self,
        ratio: float = 0.95,
        *,
        mu: float = 9e-5,
        growth: float = 1.1,
        iterations: int = 40,
        only: Iterable[str] | None = None,
        ignore: Iterable[str] = (),
    ) -> None:
        """Sets how much is removed and how the penalty grows.

        Args:
            ratio: Share of the weights to remove, in [0, 1).
            mu: μ₀.
            growth: μ of iteration n is μ₀ · growthⁿ.
            iterations: How many L and C steps.
            only: Modules or parameters that alone are pruned.
            ignore: Modules or parameters that are left alone.

        Raises:
            InputError: A value out of range.
        """
        if not 0 <= ratio < 1 or mu <= 0 or growth < 1 or iterations < 1:
            raise InputError(
                "LC wants a ratio in [0, 1), mu above 0, growth and iterations of at least 1; got "
                f"{ratio=}, {mu=}, {growth=}, {iterations=}."
            )
        self.ratio, self.mu, self.growth, self.iterations = ratio, mu, growth, iterations
        self.only = None if only is None else tuple(only)
        self.ignore = tuple(ignore)
        self.compressed: dict[str, Tensor] = {}
        self.multipliers: dict[str, Tensor] = {}
        self._weights: dict[str, nn.Parameter] = {}
        self._steps, self._step = 1, 0

    @property
    def masks(self) -> dict[str, Tensor]:
        """Which weights the last C step left."""
        return {name: theta != 0 for name, theta in self.compressed.items()}

    @property
    def strength(self) -> float:
        """μ of the present iteration."""
        return self.mu * self.growth ** min(self._iteration, self.iterations - 1)

    @property
    def _iteration(self) -> int:
        return self._step * self.iterations // self._steps

    def settings(self) -> dict[str, Any]:
        """Everything that decides the outcome."""
        own = {"ratio": self.ratio, "mu": self.mu, "growth": self.growth, "iterations": self.iterations}
        chosen = {"only": None if self.only is None else list(self.only), "ignore": list(self.ignore)}
        return {**super().settings(), **own, **chosen}

    def start(self, model: nn.Module, steps_per_epoch: int, epochs: int) -> None:
        """Finds the weights; before the first step θ is what the dense network's weights leave."""
        self._weights = dict(weights_of(model, only=self.only, ignore=self.ignore))
        self._steps = max(1, steps_per_epoch * epochs)
        if not self.compressed:
            self.compressed = top_weights(self._weights, self.ratio)
            self.multipliers = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        for kept in (self.compressed, self.multipliers):  # those of a checkpoint come on the CPU
            for name, weight in self._weights.items():
                kept[name] = torch.empty_like(weight).copy_(kept[name]).detach()

    @torch.no_grad()
    def gradients(self, model: nn.Module) -> None:
        """Adds the gradient of μ/2 ‖w − θ − λ/μ‖²."""
        mu = self.strength
        for name, weight in self._weights.items():
            if weight.grad is not None:
                weight.grad.add_(weight - self.compressed[name], alpha=mu).sub_(self.multipliers[name])

    @torch.no_grad()
    def weights(self, model: nn.Module) -> None:
        """Counts the step; at the end of an iteration, compresses."""
        before, mu = self._iteration, self.strength
        self._step += 1
        if self._iteration > before:
            shifted = {name: weight - self.multipliers[name] / mu for name, weight in self._weights.items()}
            self.compressed = top_weights(shifted, self.ratio)
            for name, weight in self._weights.items():
                self.multipliers[name].sub_(weight - self.compressed[name], alpha=mu)

    @torch.no_grad()
    def epoch(self, model: nn.Module, epoch: int) -> Mapping[str, Any]:
        """μ, and how far the weights are from their compressed form: ‖w − θ‖ / ‖w‖."""
        far = sum(float((w - self.compressed[n]).square().sum()) for n, w in self._weights.items())
        size = sum(float(w.square().sum()) for w in self._weights.values())
        return {"lc_mu": self.strength, "lc_distance": (far / max(size, 1e-30)) ** 0.5}

    @torch.no_grad()
    def finish(self, model: nn.Module) -> None:
        """Sets the weights to θ."""
        named = dict(model.named_parameters())
        for name, theta in self.compressed.items():
            named[name].copy_(theta)

    def state_dict(self) -> dict[str, Any]:
        """Steps done, θ and λ."""
        return {"step": self._step, "compressed": self.compressed, "multipliers": self.multipliers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes them back."""
        self._step = state["step"]
        self.compressed, self.multipliers = dict(state["compressed"]), dict(state["multipliers"])
