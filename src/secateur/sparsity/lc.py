"""LC: training that alternates between learning and compressing, until both agree on the weights that stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.sparsity.alternating import Alternating
from secateur.sparsity.patterns import Pattern
from secateur.sparsity.select import Layer, by_ratio

__all__ = ["LC", "top_weights"]

GROWTH = 1.1
"""The paper's factor of μ from one iteration to the next."""

FINAL_MU, RANGE, LEAST_STEPS = 1.0, 1.1**39, 12
"""Where nobody says: μ of the last iteration, how often it is the first one's (41 times, as in the paper), and gradient
steps that an iteration has at least."""


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


class LC(Alternating):
    """The learning-compression algorithm for pruning, as an augmented Lagrangian.

    Carreira-Perpiñán & Idelbayev, "Learning-Compression" Algorithms for Neural Net Pruning, CVPR 2018, §3:
    for μ = μ₀ < μ₁ < …, the L step trains the loss plus μ/2 ‖w − θ − λ/μ‖², the C step sets θ to the largest
    weights of w − λ/μ over the whole network, and λ ← λ − μ (w − θ). It ends with w = θ. The penalty enters as
    its gradient, μ (w − θ) − λ.

    The ``iterations`` are spread evenly over the steps of a training run. The paper's schedule, μₙ = 9e-5 · 1.1ⁿ for
    n < 40, is for L steps of thousands of gradient steps; it is had with ``LC(ratio, mu=9e-5)``. By default it is the
    last μ that is fixed (1), and the first (1/41, the paper's range), and the growth follows from the number of
    iterations; an L step has at least 12 gradient steps, so a short training has fewer of them: with less, λ adds up
    what no L step had the time to follow.
    """

    name: ClassVar[str] = "LC"
    remedy: ClassVar[str] = "Train for longer, or with a higher final_mu (or mu)."

    @arguments.checked
    def __init__(
        self,
        ratio: float = 0.95,
        *,
        mu: float | None = None,
        final_mu: float | None = None,
        growth: float | None = None,
        iterations: int = 40,
        only: Iterable[str] | None = None,
        ignore: Iterable[str] = (),
    ) -> None:
        """Sets how much is removed and how the penalty grows.

        Args:
            ratio: Share of the weights to remove, in [0, 1).
            mu: μ₀ (the paper's: 9e-5); ``None`` to work it out from ``final_mu``: 1/41 of
                that, or as ``growth`` says. With it, there are as many
                iterations as asked for.
            final_mu: μ of the last iteration; ``None`` for 1, or where ``mu`` is given, for what that grows to.
            growth: μ of iteration n is μ₀ · growthⁿ; ``None`` for 1.1 with ``mu`` alone, else for what leads from the
                first to the last.
            iterations: How many L and C steps, at most.
            only: Modules or parameters that alone are pruned.
            ignore: Modules or parameters that are left alone.

        Raises:
            InputError: A value out of range, or three numbers for a schedule that two of them fix.
        """
        if (
            not 0 <= ratio < 1
            or iterations < 1
            or any(v is not None and v <= 0 for v in (mu, final_mu))
            or (growth is not None and growth < 1)
        ):
            raise InputError(
                "LC wants a ratio in [0, 1), mu and final_mu above 0, growth and iterations of at least 1; got "
                f"{ratio=}, {mu=}, {final_mu=}, {growth=}, {iterations=}."
            )
        if mu is not None and final_mu is not None and (growth is not None or final_mu < mu):
            raise InputError(
                "LC's penalty grows from mu to final_mu, which fixes its growth: give two of the three, with final_mu "
                f"not below mu; got {mu=}, {final_mu=}, {growth=}."
            )
        super().__init__(iterations, only, ignore)
        self.ratio, self.mu, self.final_mu, self.growth = ratio, mu, final_mu, growth

    def settings(self) -> dict[str, Any]:
        """Everything that decides the outcome."""
        own = {"ratio": self.ratio, "mu": self.mu, "final_mu": self.final_mu, "growth": self.growth}
        return {**super().settings(), **own}

    @property
    def rounds(self) -> int:
        """Iterations in this training; by default an L step has at least 12 gradient steps."""
        return super().rounds if self.mu is not None else max(1, min(self.iterations, self._steps // LEAST_STEPS))

    @property
    def strength(self) -> float:
        """μ of the present iteration."""
        last = self.rounds - 1
        number = min(self.iteration, last)
        if self.mu is None:
            final = FINAL_MU if self.final_mu is None else self.final_mu
            return float(final / (self.growth or RANGE ** (1 / max(last, 1))) ** (last - number))
        if self.final_mu is None:
            return float(self.mu * (self.growth or GROWTH) ** number)
        return float(self.mu * (self.final_mu / self.mu) ** (number / max(last, 1)))

    @torch.no_grad()
    def project(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The compression step: the largest weights of the whole network."""
        return top_weights(values, self.ratio)
