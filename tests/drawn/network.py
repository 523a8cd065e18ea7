"""Whole networks: inputs, a stem, constructions, heads."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drawn.base import CHANNEL, KINDS, SPATIAL, Draw, Kept, Step, spread
from drawn.branches import drawn_step, fitting

SIZES = {"signal": (8,), "image": (6, 6), "volume": (4, 4, 4), "tokens": (6,), "features": ()}


class Network(nn.Module):
    """A drawn network.

    Args:
        steps: Constructions, stem first.
        heads: Layers that read the last tensor; ``None`` where it is an output itself.
        settings: ``pool`` (channels alone are read), ``form`` of the outputs, ``second`` input.
    """

    def __init__(self, stem: nn.Module, steps: list[Step], heads: list[nn.Module], settings: dict[str, Any]) -> None:
        super().__init__()
        self.stem, self.steps, self.heads = stem, nn.ModuleList(steps), nn.ModuleList(heads)
        self.settings = settings
        if settings["second"]:
            self.second = nn.Linear(3, settings["width"])

    def forward(self, x: Tensor, z: Tensor | None = None) -> Any:
        x = self._joined(self._begun(x), z)
        for step in self.steps:
            x = step(x)
        return self._ended(x)

    def _begun(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return y if self.settings["ids"] else F.relu(y)

    def _joined(self, x: Tensor, z: Tensor | None) -> Tensor:
        if z is None:
            return x
        gate, dim = self.second(z), CHANNEL[self.settings["domain"]]
        gate = gate.view(gate.shape[0], *[gate.shape[1] if k == dim else 1 for k in range(1, x.ndim)])
        return x * torch.sigmoid(gate) if self.settings["second"] == "gate" else x + gate

    def _ended(self, x: Tensor) -> Any:
        dim = CHANNEL[self.settings["last"]]
        if self.settings["pool"]:
            x = x.mean([k for k in range(1, x.ndim) if k != dim])
        outs = [head(x) for head in self.heads]
        form = self.settings["form"]
        if form == "dict":
            return {f"out{k}": y for k, y in enumerate(outs)}
        return outs[0] if form == "one" else tuple(outs)

    def masked(self, x: Tensor, z: Tensor | None, kept: Kept) -> list[Tensor]:
        """Outputs of the network from which the plan's entries were removed."""
        rows = 1 if self.settings["ids"] else 0
        left, dim = kept(self.stem.weight, rows), CHANNEL[self.settings["domain"]]  # type: ignore[arg-type]
        y = self._joined(self._begun(x), z)
        y = torch.where(spread(left, y, dim), y, 0)
        for step in self.steps:
            y, left = step.masked(y, left, kept)  # type: ignore[operator]
        found = self._ended(y)
        return (
            list(found.values()) if isinstance(found, dict) else [found] if isinstance(found, Tensor) else list(found)
        )


@dataclass(frozen=True)
class Drawn:
    """A network, what it is made of and how to call it.

    Attributes:
        seed: What it was drawn from.
        model: The network, in eval mode.
        kinds: Its constructions in order, inner ones after the one that they are in.
        single: Whether it leaves double precision by a cast of its own.
    """

    seed: int
    model: Network
    kinds: tuple[str, ...]
    single: bool

    def inputs(self, number: int, batch: int = 2, more: int = 0) -> dict[str, Tensor]:
        """Inputs by name, the ``number``-th draw of them; ``more`` is added to every size (height, length …)."""
        generator = torch.Generator().manual_seed(1000 * self.seed + number)
        settings = self.model.settings
        sizes = [n + more for n in SIZES[settings["domain"]]]
        if settings["ids"]:
            x = torch.randint(0, 11, (batch, *sizes), generator=generator)
        elif settings["domain"] in ("tokens", "features"):
            x = torch.randn(batch, *sizes, 5, generator=generator)
        else:
            x = torch.randn(batch, 3, *sizes, generator=generator)
        more_inputs = {"z": torch.randn(batch, 3, generator=generator)} if settings["second"] else {}
        return {"x": x, **more_inputs}

    def example(self, number: int = 0) -> Any:
        """The same as the library takes them: a tensor, a tuple, or named."""
        given = self.inputs(number)
        return {"named": given, "tuple": tuple(given.values())}.get(self.model.settings["call"], given["x"])


def draw(seed: int, only: str | None = None) -> Drawn:
    """The network of a seed.

    Args:
        seed: Any whole number; the same gives the same network everywhere.
        only: A construction that it has to contain, which is tried first.
    """
    rng = random.Random(seed)
    torch.manual_seed(seed)
    domain = rng.choice([*SIZES, "image", "tokens"] if only is None else [d for d in SIZES if d in KINDS[only][1]])
    width = rng.choice((4, 6, 8, 8, 12))
    ids = domain == "tokens" and rng.random() < 0.4
    second = rng.choice((None, None, None, "gate", "add"))
    stem = _stem(domain, width, ids)
    kinds, steps = [], []
    shape: tuple[int, ...] = (2, width, *SIZES[domain]) if domain in SPATIAL else (2, *SIZES[domain], width)
    here = domain
    for k in range(rng.randint(2, 6)):
        at = Draw(rng, shape, here)
        first = fitting(only, at) if only is not None and k == 0 else None
        name, step = (only, first) if only is not None and first is not None else drawn_step(at)
        kinds += [name, *getattr(step, "inner", [])]
        steps.append(step)
        with torch.no_grad():
            shape = tuple(step(torch.randn(shape)).shape)
        here = step.domain
    pool = here not in ("features",) and rng.random() < 0.7
    heads: list[nn.Module] = [_head(here, shape, pool, rng) for _ in range(rng.choice((1, 1, 2)))]
    form = rng.choice(("tuple", "dict")) if len(heads) > 1 else rng.choice(("one", "one", "one", "dict"))
    settings = {
        "domain": domain,
        "width": width,
        "ids": ids,
        "second": second,
        "pool": pool,
        "last": here,
        "form": form,
        "call": rng.choice(("named", "tuple")) if second else rng.choice(("named", "plain", "plain")),
    }
    model = Network(stem, steps, heads, settings).eval()
    _weights(model, rng.choice(("plain", "plain", "plain", "zero biases", "small")))
    return Drawn(seed, model, tuple(kinds), any(getattr(m, "single", False) for m in model.modules()))


def _stem(domain: str, width: int, ids: bool) -> nn.Module:
    if ids:
        return nn.Embedding(11, width)
    if domain in ("tokens", "features"):
        return nn.Linear(5, width)
    return {"signal": nn.Conv1d, "image": nn.Conv2d, "volume": nn.Conv3d}[domain](3, width, 3, padding=1)


def _head(domain: str, shape: tuple[int, ...], pool: bool, rng: random.Random) -> nn.Module:
    width = shape[CHANNEL[domain]]
    if rng.random() < 0.05 and not pool:
        return nn.Identity()
    if pool or domain in ("tokens", "features"):
        return nn.Linear(width, 3)
    return {"signal": nn.Conv1d, "image": nn.Conv2d, "volume": nn.Conv3d}[domain](width, 3, 1)


def _weights(model: nn.Module, style: str) -> None:
    """Statistics and scales that are not accidentally zero or one; zero biases or small weights where asked."""
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            leaf = name.rpartition(".")[2]
            if leaf == "running_var":
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
            elif leaf == "running_mean":
                tensor.copy_(torch.randn(tensor.shape) * 0.3)
            elif leaf in ("bias", "in_proj_bias"):
                tensor.zero_() if style == "zero biases" else tensor.add_(torch.randn(tensor.shape) * 0.2)
            elif leaf == "weight" and tensor.ndim == 1:
                tensor.add_(torch.randn(tensor.shape) * 0.2)
            elif leaf == "weight" and style == "small":
                tensor.mul_(0.05)


__all__ = ["Drawn", "Network", "draw"]
