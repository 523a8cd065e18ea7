"""Small networks for mutants.py, one for each way of writing that a cut can go wrong in, and what weights they get."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Any
"""What a network is called with: a tuple or a dict of keyword inputs."""


@dataclass(frozen=True)
class Network:
    """A network, what it is fed, and which of its weights the variants change.

    Attributes:
        make: Gives the network.
        sample: Gives inputs of the kind it takes.
        last: Patterns of the last weights of its branches, which a dead branch has at zero.
        head: Pattern of the last layer's weights, which dead outputs have at zero.
        scale: Pattern of its LayerScale weights.
    """

    make: Callable[[], nn.Module]
    sample: Callable[[torch.Generator], Inputs]
    last: tuple[str, ...] = ()
    head: str = ""
    scale: str = ""

    @property
    def variants(self) -> list[str]:
        found = ["settled", "std 0.02", "std 0.005", "zero biases"]
        found += ["dead branches"] if self.last else []
        found += ["dead outputs"] if self.head else []
        return found + (["LayerScale 1e-6", "LayerScale near 1e-6"] if self.scale else [])


NETWORKS: dict[str, Network] = {}


def add(name: str, sample: Callable[[torch.Generator], Inputs], **weights: Any) -> Callable[..., Any]:
    def register(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        NETWORKS[name] = Network(make, sample, **weights)
        return make

    return register


def build(name: str, variant: str) -> nn.Module:
    """The network in eval mode with the variant's weights."""
    torch.manual_seed(0)
    network = NETWORKS[name]
    model = network.make().eval()
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        if variant not in ("dead branches", "dead outputs"):  # these stay as they are when training starts
            _settle(model, noise)
        if variant.startswith("std"):
            for weight in (p for p in model.parameters() if p.ndim > 1):
                weight.copy_(torch.randn(weight.shape, generator=noise) * float(variant.split()[1]))
        zero = {"zero biases": ("*bias", "*beta"), "dead branches": network.last, "dead outputs": (network.head,)}
        for name_, weight in _matching(model, zero.get(variant, ())):
            if name_.endswith("bias") or weight.ndim > 1 or variant == "dead branches":
                weight.zero_()
        for _, weight in _matching(model, (network.scale,) if "LayerScale" in variant else ()):
            spread = torch.randn(weight.shape, generator=noise) * ("near" in variant)
            weight.copy_(1e-6 * (1 + 0.3 * spread))
    return model


def _matching(model: nn.Module, patterns: tuple[str, ...]) -> Iterator[tuple[str, nn.Parameter]]:
    return ((n, p) for n, p in model.named_parameters() if any(fnmatch(n, pattern) for pattern in patterns))


def _settle(model: nn.Module, noise: torch.Generator) -> None:
    """Biases, scales and statistics away from zero and one, as in a trained network."""
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or tensor.ndim > 1:
            continue
        step = torch.randn(tensor.shape, generator=noise) * 0.1
        tensor.copy_(tensor * (1 + step) if name.endswith("running_var") else tensor + step)


# ------------------------------------------------------------------------------------------------------- inputs


def image(channels: int, size: int, *more: int) -> Callable[[torch.Generator], Inputs]:
    return lambda g: (torch.randn(2, channels, size, *(more or (size,)), generator=g),)


def sequence(length: int, width: int) -> Callable[[torch.Generator], Inputs]:
    return lambda g: (torch.randn(2, length, width, generator=g),)


def words(length: int = 7, vocabulary: int = 50, mask: bool = False) -> Callable[[torch.Generator], Inputs]:
    def sample(g: torch.Generator) -> Inputs:
        found = {"input_ids": torch.randint(0, vocabulary, (2, length), generator=g)}
        if mask:
            found["attention_mask"] = (torch.arange(length) < torch.tensor([[length], [length - 2]])).long()
        return found

    return sample


def positional(inputs: Inputs) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Positional and keyword arguments."""
    return ((), inputs) if isinstance(inputs, Mapping) else (inputs, {})


class Parts(nn.Module):
    """Parts and a function of (parts, input): a network in a few lines."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)
