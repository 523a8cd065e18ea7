"""Training that alternates with a projection: the weights learn, a copy of them obeys a constraint, both are drawn
together."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur.core.errors import SecateurWarning
from secateur.sparsity.masks import weights_of
from secateur.train.extras import Extra
from secateur.train.loop import TrainingError

__all__ = ["APART", "Alternating"]

APART = 0.3
"""Distance ‖w − θ‖ / ‖w‖ at the end of a training above which the two have not come together."""


class Alternating(Extra):
    """Base of methods that minimise the loss under a constraint on the weights w by alternating two steps.

    The augmented Lagrangian is L(w) + μ/2 ‖w − θ − λ/μ‖². The first step trains w on it, so its gradient,
    μ (w − θ) − λ, is added to that of the loss. The second, at the end of every iteration, sets θ to the projection
    of w − λ/μ on the constraint, and λ ← λ − μ (w − θ); μ grows from iteration to iteration. In the scaled form of
    ADMM (Boyd et al. 2011, §3.1.1) ρ = μ, Z = θ and U = −λ/μ. In the end w = Π(w − λ/μ), so the constraint holds
    exactly. The ``iterations`` are spread evenly over the steps of a training run.

    Every epoch's record holds μ, the distance ‖w − θ‖ / ‖w‖ and how far the last iteration moved θ, relative to θ.

    Attributes:
        name: What messages and records call the method.
        compressed: θ by parameter name.
        multipliers: λ by parameter name.
    """

    name: ClassVar[str]
    remedy: ClassVar[str]

    def __init__(self, iterations: int, only: Iterable[str] | None, ignore: Iterable[str]) -> None:
        """``iterations``: how often the steps alternate; ``only`` and ``ignore``: which weights take part."""
        self.iterations = iterations
        self.only = None if only is None else tuple(only)
        self.ignore = tuple(ignore)
        self.compressed: dict[str, Tensor] = {}
        self.multipliers: dict[str, Tensor] = {}
        self._weights: dict[str, nn.Parameter] = {}
        self._steps, self._step = 1, 0
        self._moved = self._before = math.nan
        self._warned = False

    @property
    @abstractmethod
    def strength(self) -> float:
        """μ of the present iteration."""

    @abstractmethod
    def project(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The projection of weights, by parameter name, on the constraint; entries that it removes are zero."""

    @property
    def iteration(self) -> int:
        """Number of the present iteration, from 0; in the end the number of iterations."""
        return self._step * self.rounds // self._steps

    @property
    def rounds(self) -> int:
        """Iterations in this training: those asked for, as far as it has steps for them."""
        return min(self.iterations, self._steps)

    @property
    def masks(self) -> dict[str, Tensor]:
        """Which weights the last projection left."""
        return {name: theta != 0 for name, theta in self.compressed.items()}

    def settings(self) -> dict[str, Any]:
        """Everything that decides the outcome."""
        chosen = {"only": None if self.only is None else list(self.only), "ignore": list(self.ignore)}
        return {**super().settings(), "iterations": self.iterations, **chosen}

    def choose(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The weights that take part, by name."""
        return dict(weights_of(model, only=self.only, ignore=self.ignore))

    def start(self, model: nn.Module, steps_per_epoch: int, epochs: int) -> None:
        """Finds the weights; before the first step θ is what the projection leaves of the dense network's weights."""
        self._weights = self.choose(model)
        self._steps = max(1, steps_per_epoch * epochs)
        if not self.compressed:
            self.compressed = self.project({n: w.detach() for n, w in self._weights.items()})
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
        """Counts the step; at the end of an iteration, projects and moves the multipliers."""
        before, mu = self.iteration, self.strength
        self._step += 1
        if self.iteration > before:
            shifted = {name: weight - self.multipliers[name] / mu for name, weight in self._weights.items()}
            found = self.project(shifted)
            moved = {name: theta - self.compressed[name] for name, theta in found.items()}
            self.compressed, self._moved = found, _norm(moved) / max(_norm(found), 1e-30)
            for name, weight in self._weights.items():
                self.multipliers[name].sub_(weight - found[name], alpha=mu)

    @torch.no_grad()
    def epoch(self, model: nn.Module, epoch: int) -> Mapping[str, Any]:
        """μ, the distance ‖w − θ‖ / ‖w‖, and ‖θ − θ before‖ / ‖θ‖ of the last iteration.

        Warns while the training runs where w moves away from θ: above a distance of 1 w is nearer to zero than to θ.

        Raises:
            TrainingError: One of them is not a number any more.
        """
        distance = self.distance
        if not math.isfinite(distance):
            raise TrainingError(f"{self.name} diverged in epoch {epoch}: ‖w − θ‖ is {distance}. {self.remedy}")
        if distance > 1 and distance > self._before and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.name} is diverging: by epoch {epoch} the weights are {distance:.2f} times their own size from "
                f"their projection, and the distance grows. {self.remedy}",
                SecateurWarning,
                stacklevel=2,
            )
        self._before = distance
        key = self.name.lower()
        moved = {} if math.isnan(self._moved) else {f"{key}_moved": self._moved}
        return {f"{key}_{self.symbol}": self.strength, f"{key}_distance": distance, **moved}

    symbol: ClassVar[str] = "mu"

    @property
    def distance(self) -> float:
        """‖w − θ‖ / ‖w‖ over all weights that take part: the relative primal residual."""
        apart = {name: weight.detach() - self.compressed[name] for name, weight in self._weights.items()}
        return _norm(apart) / max(_norm(self._weights), 1e-30)

    @torch.no_grad()
    def finish(self, model: nn.Module) -> None:
        """Sets the weights to θ; warns if that takes away much of them."""
        distance = self.distance if self._weights else 0.0
        if distance > APART and self._step:
            warnings.warn(
                f"{self.name} has not converged: in the end the weights were {distance:.0%} of their size from their "
                f"projection, which takes their place now. {self.remedy}",
                SecateurWarning,
                stacklevel=2,
            )
        named = dict(model.named_parameters())
        for name, theta in self.compressed.items():
            named[name].copy_(theta)

    def state_dict(self) -> dict[str, Any]:
        """Steps done, θ and λ, and what the next warning depends on."""
        said = {"moved": self._moved, "before": self._before, "warned": self._warned}
        return {"step": self._step, "compressed": self.compressed, "multipliers": self.multipliers, **said}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes them back."""
        self._step = state["step"]
        self.compressed, self.multipliers = dict(state["compressed"]), dict(state["multipliers"])
        self._moved, self._before, self._warned = state["moved"], state["before"], state["warned"]


def _norm(values: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float(v.detach().double().square().sum()) for v in values.values()))
