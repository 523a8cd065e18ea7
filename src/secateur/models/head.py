"""Transfer: the same network with a new classifier for other classes."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import Tensor, nn

from secateur.errors import InputError

__all__ = ["replace_head"]


class _PoolHead(nn.Module):
    """Global average pooling and a linear layer, at the place of a classifier of several layers.

    The feature map arrives flattened, (B, C·area) with the pixels of a channel side by side.
    """

    def __init__(self, channels: int, area: int, head: nn.Module) -> None:
        super().__init__()
        self.channels, self.area = channels, area
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """(B, C·area) → (B, classes)."""
        return self.head(x.unflatten(1, (self.channels, self.area)).mean(2))  # type: ignore[no-any-return]


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
            (VGG's and AlexNet's ImageNet form) by global average pooling and the new head.
        seed: Of the new head's weights; PyTorch's global generator is left alone.

    Raises:
        InputError: There is no classifier to replace.

    >>> from secateur.models import create
    >>> replace_head(create("resnet20"), 4).linear
    Linear(in_features=64, out_features=4, bias=True)
    """
    if classes < 1 or (hidden is not None and hidden < 1):
        raise InputError(f"A head wants at least 1 class and 1 hidden unit; got {classes} and {hidden}.")
    model = copy.deepcopy(model)
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
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(layer, nn.Conv2d):
            widths = [layer.in_channels, *([hidden] if hidden else []), classes]
            parts: list[nn.Module] = [nn.Conv2d(a, b, 1) for a, b in zip(widths, widths[1:], strict=False)]
        else:
            widths = [layer.in_features, *([hidden] if hidden else []), classes]
            parts = [nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
    head = parts[0] if hidden is None else nn.Sequential(parts[0], nn.ReLU(), parts[1])
    return head.to(layer.weight.device, layer.weight.dtype).train(layer.training)


def _replace_classifier(model: nn.Module, classes: int, hidden: int | None, seed: int) -> nn.Module:
    """Swaps the module that holds the last linear layers for pooling and one head."""
    name, last = _last_layer(model)
    parent_name = name.rpartition(".")[0]
    parent = model.get_submodule(parent_name)
    linears = [m for m in parent.modules() if isinstance(m, nn.Linear)]
    convolutions = [m for _, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    channels = convolutions[-1].out_channels if convolutions else 0
    features = linears[0].in_features if linears else 0
    if not parent_name or not isinstance(parent, nn.Sequential) or not channels or features % channels:
        raise InputError(
            f"pool=True wants a classifier of several layers behind a flattened feature map (VGG, AlexNet); "
            f"{type(model).__name__} ends in {name!r}: use pool=False."
        )
    flat = nn.Linear(channels, 1, device=last.weight.device, dtype=last.weight.dtype)
    head = _PoolHead(channels, features // channels, _new_head(flat, classes, hidden, seed))
    model.set_submodule(parent_name, head)
    return model
