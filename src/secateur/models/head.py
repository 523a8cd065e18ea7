"""Transfer: the same network with a new classifier for other classes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.graph.copies import deep_copy

__all__ = ["replace_head"]


@arguments.checked
def replace_head(
    model: nn.Module, classes: int, *, hidden: int | None = None, pool: bool = False, seed: int = 0
) -> nn.Module:
    """Returns a copy of ``model`` whose classifier tells ``classes`` classes apart.

    The last linear layer (or 1×1 convolution, as in SqueezeNet) is replaced by
    ``Linear(classes)``, or with ``hidden`` by ``Linear(hidden) → ReLU → Linear(classes)``.

    Args:
        model: Left untouched.
        classes: Outputs of the new head.
        hidden: Width of the added dense layer, if one is wanted.
        pool: Replace a whole classifier of several linear layers behind a flattened feature map
            (VGG's and AlexNet's ImageNet form) by global average pooling and the new head. A network that pools
            so already, before its one linear layer, gets the new head alone.
        seed: Of the new head's weights; PyTorch's global generator is left alone.

    Raises:
        InputError: There is no classifier to replace.

    >>> from secateur.models import create
    >>> replace_head(create("resnet20"), 4).linear
    Linear(in_features=64, out_features=4, bias=True)
    """
    if classes < 1 or (hidden is not None and hidden < 1):
        raise InputError(
            f"replace_head wants classes, and hidden where it is given, of at least 1; got {classes} and {hidden}."
        )
    model = deep_copy(model)
    if pool:
        return _replace_classifier(model, classes, hidden, seed)
    name, layer = _last_layer(model)
    model.set_submodule(name, _new_head(layer, classes, hidden, seed))
    return model


def _last_layer(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """The last linear layer by order of definition; failing that, the last 1×1 convolution."""
    for kind in (nn.Linear, nn.Conv2d):
        for name, module in reversed([*_leaves(model)]):
            if isinstance(module, kind) and name and not _auxiliary(name):
                if isinstance(module, nn.Conv2d) and tuple(module.kernel_size) != (1, 1):
                    break  # the network's last convolution is no classifier
                return name, module
    raise InputError(f"{type(model).__name__} has no linear layer or 1×1 convolution at its end to replace.")


def _leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if not any(module.children()))


def _auxiliary(name: str) -> bool:
    """GoogLeNet's and Inception's training-time side heads are no classifiers of the network."""
    return name.split(".")[0].lower().startswith("aux")


def _new_head(layer: nn.Linear | nn.Conv2d, classes: int, hidden: int | None, seed: int) -> nn.Module:
    convolution = isinstance(layer, nn.Conv2d)
    inputs = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features
    widths = [inputs, *([] if hidden is None else [hidden]), classes]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = [nn.Conv2d(a, b, 1) if convolution else nn.Linear(a, b) for a, b in pairwise(widths)]
    head = parts[0] if hidden is None else nn.Sequential(parts[0], nn.ReLU(), parts[1])
    return head.to(layer.weight.device, layer.weight.dtype).train(layer.training)


def _replace_classifier(model: nn.Module, classes: int, hidden: int | None, seed: int) -> nn.Module:
    """Pools the feature map to one pixel and puts one head in the place of the whole classifier."""
    name, last = _last_layer(model)
    classifier_name = name.rpartition(".")[0]
    classifier = model.get_submodule(classifier_name)
    owner = model.get_submodule(classifier_name.rpartition(".")[0])
    linears = [m for m in classifier.modules() if isinstance(m, nn.Linear)]
    pools = [(n, m) for n, m in owner.named_children() if isinstance(m, nn.AdaptiveAvgPool2d)]
    area = math.prod(_pair(pools[-1][1].output_size)) if pools else 0
    if not classifier_name and area == 1:  # it has that form already
        model.set_submodule(name, _new_head(last, classes, hidden, seed))
        return model
    if not classifier_name or not linears or not area or linears[0].in_features % area:
        raise InputError(
            f"pool=True wants an adaptive average pooling and then a classifier of several linear layers "
            f"(VGG, AlexNet); {type(model).__name__} ends in {name!r} alone: use pool=False."
        )
    owner.set_submodule(pools[-1][0], nn.AdaptiveAvgPool2d(1))
    flat = nn.Linear(linears[0].in_features // area, 1, device=last.weight.device, dtype=last.weight.dtype)
    model.set_submodule(classifier_name, _new_head(flat.train(last.training), classes, hidden, seed))
    return model


def _pair(size: object) -> tuple[int, int]:
    """PyTorch's ``output_size``: one number for both sides or two."""
    first, second = size if isinstance(size, tuple) else (size, size)
    return int(first or 0), int(second or 0)
