"""Penalties during training: what pushes scales and groups of weights to zero while the network learns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from secateur.core import arguments
from secateur.core.errors import InputError, UnknownNameError
from secateur.core.registry import Registry
from secateur.core.types import ExampleInputs
from secateur.graph.flow import flow
from secateur.graph.groups import Groups, solve
from secateur.graph.scales import scale_names
from secateur.graph.trace import trace
from secateur.train.extras import Extra

__all__ = ["PENALTIES", "SMALL", "BatchNormL1", "Penalty", "distribution"]

SMALL = 0.01
"""Scales and norms below this are counted as small in the records."""

BINS = 40
SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class Penalty(Extra):
    """Base of penalties λ·Σ size, added to the loss by their sub-gradient.

    A new one is a class with :meth:`sizes` and :meth:`subgradients`, registered by
    ``@PENALTIES.register("name")``; recipes then take it as ``penalty: {name: …, weight: …}``. The sub-gradient
    is added after backward, so it is exact in mixed precision too, and it is 0 at 0: what is gone stays gone.

    Attributes:
        name: What recipes call it.
        weight: λ.
    """

    name: ClassVar[str]

    @arguments.checked
    def __init__(self, weight: float) -> None:
        """``weight`` is λ, at least 0."""
        if not 0 <= weight < float("inf"):
            raise InputError(f"The penalty {self.name!r} wants a weight of at least 0; got {weight!r}.")
        self.weight = float(weight)
        self._before: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """Key of the penalty's numbers in an epoch's record."""
        return self.name

    def settings(self) -> dict[str, Any]:
        """Name and weight."""
        return {"extra": self.label, "weight": self.weight}

    def bind(self, model: nn.Module, example_inputs: ExampleInputs) -> Self:
        """Finds out, by label flow, which parameters are meant; called before training.

        Raises:
            TraceError: The network cannot be traced.
            InputError: The penalty meets no parameter.
        """
        groups = solve(flow(trace(model, example_inputs)))
        self.find(groups)
        return self

    def find(self, groups: Groups) -> None:
        """Notes what the penalty is on, as names and indices."""

    @abstractmethod
    def sizes(self, model: nn.Module) -> Tensor:
        """What the penalty sums, without λ: one number per scale or group, shape (n,)."""

    @abstractmethod
    def subgradients(self, model: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Parameters with the sub-gradient of Σ :meth:`sizes`, of the parameter's shape; 0 where a size is 0."""

    def start(self, model: nn.Module, steps_per_epoch: int, epochs: int) -> None:
        """Looks at the sizes as they are before training.

        Raises:
            InputError: The penalty meets no parameter of the network.
        """
        self._before = distribution(self.sizes(model))

    @torch.no_grad()
    def gradients(self, model: nn.Module) -> None:
        """Adds λ · sub-gradient."""
        for parameter, gradient in self.subgradients(model):
            if parameter.grad is not None:
                parameter.grad.add_(gradient, alpha=self.weight)

    def epoch(self, model: nn.Module, epoch: int) -> Mapping[str, Any]:
        """How the sizes are distributed now (and, with the first epoch, how they were before it)."""
        now = distribution(self.sizes(model))
        return {self.label: {**now, "before": self._before} if epoch == 1 else now}


PENALTIES: Registry[type[Penalty]] = Registry("penalty")
"""Classes by the name that recipes use."""


@torch.no_grad()
def distribution(sizes: Tensor) -> dict[str, Any]:
    """How sizes ≥ 0 are distributed, as small plain numbers.

    Args:
        sizes: Shape (n,).

    Returns:
        ``count``, their ``sum``, the share that is ``small`` (below 0.01), ``quantiles`` at 0, 5, 25, 50, 75, 95
        and 100 %, and ``counts`` in 40 equal bins from 0 to ``high``, the largest.

    >>> found = distribution(torch.tensor([0.0, 1.0, 1.0, 2.0]))
    >>> found["sum"], found["small"], found["quantiles"][3], found["high"], sum(found["counts"])
    (4.0, 0.25, 1.0, 2.0, 4)
    """
    sizes = sizes.detach().double().cpu()
    high = float(sizes.max())
    bins = (sizes / (high or 1.0) * BINS).long().clamp_(max=BINS - 1)
    return {
        "count": len(sizes),
        "sum": float(sizes.sum()),
        "small": float((sizes < SMALL).double().mean()),
        "quantiles": torch.quantile(sizes, torch.tensor(SHARES, dtype=torch.double)).tolist(),
        "high": high,
        "counts": torch.bincount(bins, minlength=BINS).tolist(),
    }


@PENALTIES.register("bn_l1")
class BatchNormL1(Penalty):
    """Network Slimming: λ Σ|γ| over the scales of batch normalisation.

    The sub-gradient λ·sign(γ) is added to γ's gradient, with sign(0) = 0. Source: Liu et al. 2017, Learning
    Efficient Convolutional Networks through Network Slimming, https://arxiv.org/abs/1708.06519, eq. 1 and §4.3
    (λ = 1e-4 for VGG, 1e-5 for ResNet and DenseNet; γ starts at 0.5 in training from scratch).

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    >>> penalty = BatchNormL1(0.1)
    >>> net(torch.randn(4, 1, 5, 5)).sum().backward()
    >>> before = net[1].weight.grad.clone()
    >>> penalty.gradients(net)
    >>> net[1].weight.grad - before
    tensor([0.1000, 0.1000])
    """

    name = "bn_l1"

    @arguments.checked
    def __init__(
        self,
        weight: float = 1e-4,
        *,
        scales: Literal["all", "prunable", "inside"] = "all",
        init: float | None = None,
    ) -> None:
        """Settings of the penalty.

        Args:
            weight: λ.
            scales: Which γ: ``all``, those of channels that can be removed (``prunable``), or only of channels
                inside a block, not of a residual stream (``inside``). The last two need :meth:`bind`.
            init: Value that these γ start the training from; ``None`` leaves them as they are.
        """
        super().__init__(weight)
        if scales not in ("all", "prunable", "inside"):
            raise UnknownNameError("choice of scales", scales, ("all", "prunable", "inside"))
        if init is not None and not 0 < init < float("inf"):
            raise InputError(f"bn_l1 starts γ from a positive number; got init={init!r}.")
        self.scales, self.init = scales, init
        self._names: tuple[str, ...] | None = None
        self._resumed = False

    def settings(self) -> dict[str, Any]:
        """Which γ, and where they start."""
        return {**super().settings(), "scales": self.scales, "init": self.init}

    def find(self, groups: Groups) -> None:
        """Notes the names of the γ that are meant."""
        found = set(scale_names(groups.flow.traced.nodes))
        if self.scales != "all":
            chosen = [g for g in groups.items if self.scales == "prunable" or not g.spans]
            found &= {member.parameter for group in chosen for member in group.members}
        self._names = tuple(sorted(found))
        self._refuse_none(self._names)

    def sizes(self, model: nn.Module) -> Tensor:
        """|γ| of all channels, shape (n,)."""
        return torch.cat([gamma.detach().abs().flatten() for gamma in self._gammas(model)])

    def subgradients(self, model: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """sign(γ)."""
        for gamma in self._gammas(model):
            yield gamma, gamma.detach().sign()

    def start(self, model: nn.Module, steps_per_epoch: int, epochs: int) -> None:
        """Sets γ to its first value where one is asked for (not in a run that goes on)."""
        for gamma in self._gammas(model) if self.init is not None and not self._resumed else ():
            nn.init.constant_(gamma, float(self.init or 0))
        super().start(model, steps_per_epoch, epochs)

    def state_dict(self) -> dict[str, Any]:
        """Says that γ has had its first value."""
        return {"started": True}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Leaves γ as it is."""
        self._resumed = bool(state["started"])

    def _gammas(self, model: nn.Module) -> list[nn.Parameter]:
        """The scales that learn."""
        if self._names is not None:
            known = dict(model.named_parameters(remove_duplicate=False))
            found = [known[name] for name in self._names if name in known]
        else:
            found = [m.weight for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine]
        found = [gamma for gamma in found if gamma.requires_grad]
        self._refuse_none(found)
        return found

    def _refuse_none(self, found: object) -> None:
        if self._names is None and self.scales != "all":
            raise InputError(f"bn_l1 with scales={self.scales!r} needs bind(model, example_inputs) before training.")
        if not found:
            which = {"all": "", "prunable": " of a removable channel", "inside": " of a channel inside a block"}
            raise InputError(
                f"The penalty 'bn_l1' meets no parameter: the network has no learned batch-norm scale"
                f"{which[self.scales]}. Take group_lasso instead, or scales: all."
            )
