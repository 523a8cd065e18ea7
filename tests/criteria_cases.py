"""Small networks for criteria, whose maps and consumers a test can name, and slow loops over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.criteria import CRITERIA
from secateur.criteria.scoring import score
from secateur.cut.analysis import analyse
from secateur.graph.groups import Groups
from zoo import Lambda, settle

Masks = dict[str, Tensor]
"""Factors of units where they enter their consumers, by group name."""


class Case:
    """A network, written out so that masks can be put where units enter their consumers.

    Attributes:
        model: The network.
        shape: Of one sample.
        relus: By group: names of the ReLU modules that its channels pass.
        consumers: By group: names of the layers that its channels enter.
        units: By group: how many channels.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, ...],
        *,
        relus: dict[str, list[str]],
        consumers: dict[str, list[str]],
        units: dict[str, int],
    ) -> None:
        self.model, self.shape = settle(model), shape
        self.relus, self.consumers, self.units = relus, consumers, units
        self.groups: Groups = analyse(self.model, torch.randn(2, *shape)).groups
        assert {g.name: len(g) for g in self.groups.items} == units

    def images(self, count: int = 12) -> Tensor:
        return torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(3))

    def labels(self, count: int = 12) -> Tensor:
        return torch.randint(0, 5, (count,), generator=torch.Generator().manual_seed(4))

    def scores(self, criterion: Any, data: Any = None) -> dict[str, Tensor]:
        found = score(self.groups, criterion, data=data).values
        return {self.groups.items[number].name: torch.from_numpy(v) for number, v in found.items()}

    def seen(self, modules: Sequence[str], images: Tensor, *, inputs: bool = False) -> dict[str, Tensor]:
        """What modules give (or are given)."""
        values: dict[str, Tensor] = {}
        hooks = []
        for name in modules:

            def note(_: nn.Module, given: Any, made: Tensor, name: str = name) -> None:
                values[name] = (given[0] if inputs else made).detach().clone()

            hooks.append(self.model.get_submodule(name).register_forward_hook(note))
        with torch.no_grad():
            self.model(images)
        for hook in hooks:
            hook.remove()
        return values

    def masked_loss(self, image: Tensor, label: Tensor, masks: Masks) -> Tensor:
        """Cross-entropy with masks multiplied to what consumers are given."""
        hooks = []
        for group, modules in self.consumers.items():
            for name in modules:

                def scale(module: nn.Module, given: Any, group: str = group) -> Any:
                    factor = masks[group]
                    if isinstance(module, nn.Linear):
                        return (given[0] * factor.repeat_interleave(given[0].shape[-1] // len(factor)),)
                    return (given[0] * factor.view(-1, 1, 1),)

                hooks.append(self.model.get_submodule(name).register_forward_pre_hook(scale))
        loss = F.cross_entropy(self.model(image.unsqueeze(0)), label.unsqueeze(0))
        for hook in hooks:
            hook.remove()
        return loss


class Chain(nn.Module):
    """Convolution, (batch norm,) ReLU; every part has a name."""

    def __init__(self, i: int, o: int, **options: Any) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(i, o, 3, padding=1, **options), nn.BatchNorm2d(o), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))  # type: ignore[no-any-return]


def flattened() -> Case:
    """Convolutions, then a linear layer over channels and positions."""
    model = nn.Sequential(Chain(3, 8), nn.MaxPool2d(2), Chain(8, 6), nn.Flatten(), nn.Linear(6 * 4, 5))
    return Case(
        model, (3, 4, 4),
        relus={"0.conv": ["0.relu"], "2.conv": ["2.relu"]},
        consumers={"0.conv": ["2.conv"], "2.conv": ["4"]},
        units={"0.conv": 8, "2.conv": 6},
    )  # fmt: skip


def residual() -> Case:
    """A stream of three writers: two ReLUs pass it, a convolution and the classifier read it."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = m.out(m.b(m.a(x)) + x)
        return m.fc(x.mean((2, 3)))  # type: ignore[no-any-return]

    parts: dict[str, nn.Module] = {"stem": Chain(3, 7), "a": Chain(7, 9), "b": nn.Conv2d(9, 7, 1), "out": nn.ReLU()}
    return Case(
        Lambda(run, **parts, fc=nn.Linear(7, 5)), (3, 3, 3),
        relus={"stem.conv": ["stem.relu", "out"], "a.conv": ["a.relu"]},
        consumers={"stem.conv": ["a.conv", "fc"], "a.conv": ["b"]},
        units={"stem.conv": 7, "a.conv": 9},
    )  # fmt: skip


def depthwise() -> Case:
    """A depthwise convolution between two pointwise ones."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6(),
        nn.Conv2d(8, 6, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip
    return Case(
        model, (3, 3, 3),
        relus={"0": ["1", "3"], "4": ["5"]},
        consumers={"0": ["4"], "4": ["8"]},
        units={"0": 8, "4": 6},
    )  # fmt: skip


CASES: dict[str, Callable[[], Case]] = {f.__name__: f for f in (flattened, residual, depthwise)}


def by_channel(value: Tensor, units: int) -> Tensor:
    """Values of each channel in a row, shape (units, everything else)."""
    return value.reshape(len(value), units, -1).transpose(0, 1).reshape(units, -1)


def built_in() -> list[str]:
    """Names of Secateur's own criteria; other tests register theirs."""
    return [
        n for n in CRITERIA if (score := CRITERIA[n].score) is not None and score.__module__.startswith("secateur.")
    ]
