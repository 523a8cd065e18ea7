"""Masks of single weights: which stay; held through training, cut along with channels, kept in files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.core import arguments
from secateur.core.errors import InputError, UnknownNameError, WeightsError, first_line
from secateur.core.files import whole
from secateur.core.patterns import checked, covered
from secateur.core.plan import Plan, remember, remembered
from secateur.core.reading import parse_json, plain
from secateur.graph.copies import deep_copy
from secateur.train.extras import Extra

__all__ = [
    "HoldMasks",
    "Masks",
    "apply_masks",
    "copied",
    "follow",
    "load_masks",
    "masks_of",
    "save_masks",
    "weights_of",
]

Masks = Mapping[str, Tensor]
"""Parameter name → bool tensor of its shape; true = stays."""


_NOT_PRUNED = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)


def weights_of(
    model: nn.Module, *, only: Iterable[str] | None = None, ignore: Iterable[str] = ()
) -> dict[str, nn.Parameter]:
    """The weights that single-weight pruning speaks of, by name; shared ones once.

    Those are the parameters of two dimensions and more whose name has ``weight`` in it, but for embeddings and
    normalisations (and the lengths that weight norm keeps). With ``only``, whatever parameters of two dimensions and
    more it names.

    Args:
        model: Any network.
        only: Names or patterns of modules or parameters.
        ignore: Likewise; they are left alone.

    Raises:
        UnknownNameError: A name or pattern that fits nothing.
        InputError: Weights that are whole numbers, or none at all.

    >>> list(weights_of(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))))
    ['0.weight', '3.weight']
    """
    named = dict(model.named_parameters())
    names = [n for n, _ in model.named_modules() if n] + list(named)
    only, ignore = None if only is None else checked(only, names, "only"), checked(ignore, names, "ignore")
    others = {id(m.weight) for m in model.modules() if isinstance(m, _NOT_PRUNED)}
    found = {}
    for name, weight in named.items():
        leaf = name.rpartition(".")[2]
        usual = "weight" in leaf and leaf != "weight_g" and id(weight) not in others
        wanted = usual if only is None else covered(name, only)
        if wanted and weight.ndim >= 2 and not covered(name, ignore):
            found[name] = weight
    for name, weight in found.items():
        if not weight.is_floating_point():
            raise InputError(
                f"The weights {name!r} are whole or complex numbers ({weight.dtype}): prune the float network, or "
                f"leave them out with ignore=[{name!r}]."
            )
    if not found:
        raise InputError("There is no weight to prune: only and ignore leave no parameter of two dimensions or more.")
    return found


@arguments.checked
def masks_of(model: nn.Module, *, only: Iterable[str] | None = None, ignore: Iterable[str] = ()) -> dict[str, Tensor]:
    """Reads the masks off a sparse network: what is exactly zero was removed.

    That is how masks survive saving and loading: a sparse network is an ordinary one with zeros in it.
    """
    return {name: weight.detach() != 0 for name, weight in weights_of(model, only=only, ignore=ignore).items()}


def copied(model: nn.Module) -> nn.Module:
    """A deep copy that remembers how the network was cut; a traced graph's own copy forgets."""
    twin = deep_copy(model)
    if (plan := remembered(model)) is not None:
        remember(twin, plan)
    return twin


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Sets the removed weights of ``model`` to zero, in place.

    Raises:
        UnknownNameError: A mask that names no parameter.
        InputError: A mask of another shape.
    """
    for weight, gone in _removed(model, masks):
        weight.masked_fill_(gone, 0)


def _removed(model: nn.Module, masks: Masks) -> list[tuple[nn.Parameter, Tensor]]:
    """Each masked parameter with what is removed of it, on its device and in its memory layout."""
    named = dict(model.named_parameters(remove_duplicate=False))
    pairs = []
    for name, mask in masks.items():
        if name not in named:
            raise UnknownNameError("parameter to mask", name, named)
        weight = named[name]
        if mask.shape != weight.shape or mask.dtype != torch.bool:
            raise InputError(
                f"The mask of {name!r} is {mask.dtype} of shape {tuple(mask.shape)}; wanted torch.bool of shape "
                f"{tuple(weight.shape)}."
            )
        pairs.append((weight, torch.empty_like(weight, dtype=torch.bool).copy_(~mask)))
    return pairs


def follow(masks: Masks, plan: Plan, model: nn.Module) -> dict[str, Tensor]:
    """Cuts masks as ``plan`` cut their parameters; of layers that ``model`` no longer has, nothing stays.

    Args:
        masks: Of the network before the cut.
        plan: In the indices of that network.
        model: The network after it.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    found = {}
    for name, mask in masks.items():
        for dim, kept in plan.keep.get(name, {}).items():
            mask = mask.index_select(dim, torch.tensor(kept, device=mask.device))
        if name in named:
            found[name] = mask
    return found


# ---------------------------------------------------------------------------------------------------- training


class HoldMasks(Extra):
    """Keeps removed weights at zero while a network is trained.

    Their gradients are zeroed, so that clipping does not see them, and after the optimiser's step the weights
    themselves: neither momentum nor weight decay brings one back (Han et al. 2015, arXiv:1506.02626, §3.2).
    """

    @arguments.checked
    def __init__(self, masks: Masks) -> None:
        """``masks``: which weights stay, by parameter name."""
        self.masks = dict(masks)
        self._pairs: list[tuple[nn.Parameter, Tensor]] = []

    def settings(self) -> dict[str, Any]:
        """The digest of the masks: a run is continued with the same ones only."""
        return {**super().settings(), "masks": digest(self.masks)}

    def start(self, model: nn.Module, steps_per_epoch: int, epochs: int) -> None:
        """Checks the masks and zeroes what they remove."""
        self._pairs = _removed(model, self.masks)
        self.weights(model)

    def gradients(self, model: nn.Module) -> None:
        """Zeroes the gradients of removed weights."""
        for weight, gone in self._pairs:
            if weight.grad is not None:
                weight.grad.masked_fill_(gone, 0)

    @torch.no_grad()
    def weights(self, model: nn.Module) -> None:
        """Zeroes the removed weights."""
        for weight, gone in self._pairs:
            weight.masked_fill_(gone, 0)

    def finish(self, model: nn.Module) -> None:
        """Zeroes them in the weights that the network ends with, which an earlier epoch may have left."""
        apply_masks(model, self.masks)


# ------------------------------------------------------------------------------------------------------- files


def digest(masks: Masks) -> str:
    """SHA-256 of names, shapes and bits.

    >>> digest({"w": torch.tensor([True])}) != digest({"w": torch.tensor([False])})
    True
    """
    found = hashlib.sha256()
    for name in sorted(masks):
        found.update(f"{name}{tuple(masks[name].shape)}".encode())
        found.update(_packed(masks[name]).numpy().tobytes())
    return found.hexdigest()


def _packed(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy().reshape(-1)))


def _unpacked(packed: NDArray[np.uint8], shape: list[int]) -> Tensor:
    count = prod(shape)
    if min(shape, default=0) < 0 or packed.ndim != 1 or packed.dtype != np.uint8 or len(packed) != -(-count // 8):
        raise ValueError(f"{len(packed)} bytes for {count} weights")
    return torch.from_numpy(np.unpackbits(packed, count=count).astype(bool).reshape(shape))


def save_masks(masks: Masks, path: Path) -> None:
    """Writes masks as safetensors, eight weights a byte, in one step."""
    shapes = json.dumps({name: list(mask.shape) for name, mask in masks.items()})
    packed = {name: _packed(mask) for name, mask in masks.items()}
    with whole(path) as draft:
        save_file(packed, draft, metadata={"shapes": shapes})


def load_masks(path: Path) -> dict[str, Tensor]:
    """Reads what :func:`save_masks` wrote.

    Raises:
        WeightsError: The file is missing or damaged.
    """
    try:
        with safe_open(plain(path, WeightsError), framework="numpy") as file:
            shapes = parse_json(file.metadata()["shapes"], str(path), WeightsError)
            return {name: _unpacked(file.get_tensor(name), shape) for name, shape in shapes.items()}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        words = first_line(error)
        raise WeightsError(f"{path} holds no masks, or is damaged ({words}). Make the network sparse anew.") from error
