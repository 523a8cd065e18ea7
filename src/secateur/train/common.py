"""What training and evaluation share: modes, layouts, logits and the first look at a network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from secateur.data.types import DataSet
from secateur.errors import InputError

__all__ = ["device_of", "first_look", "in_mode", "logits_of"]


def device_of(model: nn.Module) -> torch.device:
    """Where the network's tensors are."""
    tensor = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device


@contextlib.contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Puts ``model`` into a mode, and every module back into its own afterwards."""
    found = [(module, module.training) for module in model.modules()]
    was = model.training
    try:
        _set_mode(model, training)
        yield
    finally:
        _set_mode(model, was)
        for module, flag in found:  # single modules may differ, a frozen batch norm for instance
            module.training = flag


def _set_mode(model: nn.Module, training: bool) -> None:
    try:
        model.train(training)
    except NotImplementedError:  # a graph from torch.export has no modes unless it was given them
        if training:
            raise InputError(
                "This exported graph has no training mode: torch.export.export made it for inference. "
                "Train the network itself, or a graph that Secateur's surgery returned."
            ) from None


def logits_of(output: object) -> Tensor:
    """The class scores among what a network returns (GoogLeNet adds side heads while it trains)."""
    if isinstance(output, Tensor):
        return output
    scores = getattr(output, "logits", None)
    if scores is None and isinstance(output, tuple | list) and output:
        scores = output[0]
    if scores is None and isinstance(output, dict):
        scores = output.get("logits", output.get("out"))
    if not isinstance(scores, Tensor):
        raise InputError(f"The network returns {type(output).__name__}; wanted class scores (B, classes).")
    return scores


def first_look(model: nn.Module, data: DataSet, *, channels_last: bool) -> torch.memory_format:
    """Runs two images, so that a misfit is told before anything else; returns the layout to use.

    Networks that reshape with ``view`` refuse channels-last images; they get the contiguous layout.

    Raises:
        InputError: The network does not take the data set's images, or has another number of classes.
    """
    device = device_of(model)
    images = data.normalise(torch.zeros(2, *data.shape, dtype=torch.uint8, device=device))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    with torch.no_grad(), torch.random.fork_rng(devices=[]), in_mode(model, training=False):
        try:
            output = model(images.contiguous(memory_format=layout))
        except RuntimeError as error:
            if channels_last and "view" in str(error):
                return first_look(model, data, channels_last=False)
            reason = str(error).splitlines()[0]
            raise InputError(
                f"The network does not take {data.name}'s images of shape {data.shape}: {reason}"
            ) from error
    scores = logits_of(output)
    if scores.ndim != 2 or scores.shape[1] != len(data.classes):
        raise InputError(
            f"The network returns scores of shape {tuple(scores.shape)} for 2 images; {data.name} has "
            f"{len(data.classes)} classes. Build it with classes={len(data.classes)}, or use "
            f"secateur.models.replace_head(model, {len(data.classes)})."
        )
    return layout
