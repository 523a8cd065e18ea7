"""Modules that imitate quantisation (quantisation-aware training): what they are, and how they hold still.

While they observe, what a network computes depends on all that it was run on before, in eval mode too. A cut is made
and proven with the ranges as they stand; the network that is returned observes on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["computes_in_float", "hold_still", "holds_still", "imitating", "observes", "unseen"]


def imitating(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Modules of a network that imitate quantisation, with their names."""
    bases = _classes("FakeQuantizeBase", _FAKE)
    for name, module in model.named_modules() if bases else ():
        if isinstance(module, bases):
            yield name, module


def observes(module: Any) -> bool:
    """Whether it keeps the least number that it has seen."""
    return isinstance(getattr(getattr(module, "activation_post_process", None), "min_val", None), Tensor)


def unseen(module: Any) -> bool:
    """Whether it observes ranges and has seen no numbers yet, so that nobody knows its scales."""
    low = getattr(getattr(module, "activation_post_process", None), "min_val", None)
    return isinstance(low, Tensor) and bool(module.observer_enabled[0]) and (not low.numel() or bool(low.isinf().any()))


def holds_still(module: Any) -> bool:
    """Whether a fake quantiser can be kept from observing: it is one operator, or computes as PyTorch's own does."""
    known = (*_classes("FakeQuantize", _FAKE), *_classes("FusedMovingAvgObsFakeQuantize", _FAKE))
    return any(type(module).forward is kind.forward for kind in known)


def computes_in_float(module: nn.Module) -> bool:
    """Whether a module of a quantisation library holds nothing quantised (the sum of a skip that is to be observed)."""
    home = ("torch.ao.nn.quantized.modules.functional_modules",)
    return isinstance(module, (*_classes("FloatFunctional", home), *_classes("FXFloatFunctional", home)))


_FAKE = ("torch.ao.quantization.fake_quantize", "torchao.quantization.pt2e.fake_quantize")
_OBSERVERS = ("torch.ao.quantization.observer", "torchao.quantization.pt2e.observer")
"""Where PyTorch's two libraries for it keep them; the second's are copies of the first's."""


def hold_still(twin: nn.Module) -> None:
    """Makes fake quantisers of a (copied) network compute one operator of their buffers, and observe nothing.

    Those whose forward asks Python what to do read numbers that a recording has not. The fused ones are one operator
    as they are; it observes, but not in the proof. Observers by themselves (before quantisation without training) hand
    on what they get.
    """
    observers = _classes("ObserverBase", _OBSERVERS)
    for module in twin.modules() if observers else ():
        if isinstance(module, observers):
            object.__setattr__(module, "forward", _same)
    asking = [kind.forward for kind in _classes("FakeQuantize", _FAKE)]
    for _, module in imitating(twin):
        if any(type(module).forward is one for one in asking):
            object.__setattr__(module, "forward", _Still(module))


def _same(x: Tensor) -> Tensor:
    return x


class _Still:
    """The forward of a fake quantiser whose ranges stay.

    Observed ranges are operands of a choice that never falls on them, so that they follow the channels.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        own, observer = self.module, self.module.activation_post_process
        scale, never = own.scale, torch.zeros(1, dtype=torch.bool, device=own.scale.device)
        for name in ("min_val", "max_val"):
            if isinstance(seen := getattr(observer, name, None), Tensor):
                scale = torch.where(never, seen, scale)
        limits = observer.quant_min, observer.quant_max
        if own.is_per_channel:
            rounded = torch.fake_quantize_per_channel_affine(x, scale, own.zero_point, own.ch_axis, *limits)
        else:
            rounded = torch.fake_quantize_per_tensor_affine(x, scale, own.zero_point, *limits)
        return torch.where(own.fake_quant_enabled.bool(), rounded, x)


def _classes(name: str, homes: tuple[str, ...]) -> tuple[Any, ...]:
    """Classes of that name, of libraries that anybody has imported: without that there is no module of them."""
    found = (getattr(sys.modules.get(home), name, None) for home in homes)
    return tuple(kind for kind in found if isinstance(kind, type))
