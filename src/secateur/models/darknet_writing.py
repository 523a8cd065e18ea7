"""Writes ``.cfg`` and ``.weights`` of a Darknet network as it is now: its channels and layers may have been cut.

Darknet's format knows a list of layers, each with a number of filters, and which earlier layers a shortcut or a route
takes. Whether it says what the network computes is not argued but tried: the text is read again, the network that it
describes gets the values, and both are compared before a file gets its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.core import arguments
from secateur.core.errors import ExportError, InputError, SecateurError, first_line
from secateur.core.files import disk_errors, whole
from secateur.models.darknet import Convolution, Darknet, Residual
from secateur.models.darknet_cfg import Section, parse_cfg, write_cfg
from secateur.models.darknet_weights import DarknetHeader, values_of

__all__ = ["write_darknet"]

_NEAR = 1e-9  # of the largest output, in double precision: rounding is 1e-14, and a mistake 1e-6 or more


@arguments.checked
def write_darknet(
    model: object, cfg: str | Path, weights: str | Path | None = None, *, header: DarknetHeader | None = None
) -> None:
    """Writes a Darknet network, dense or pruned, for Darknet's own tools.

    Options that the network was read with (training, thresholds) stay in the ``.cfg``; numbers of filters and layers
    are those of the network now. Weights of other precisions are rounded to float32.

    Args:
        model: A network of a ``.cfg`` or a built-in one, or the result of a cut of one.
        cfg: The ``.cfg`` file to write.
        weights: The ``.weights`` file to write; ``None`` for the ``.cfg`` alone.
        header: What it begins with (:func:`read_header` reads one); by default version 0.2.5 and no images seen,
            with which Darknet begins to train from the start.

    Raises:
        ExportError: The network is none of Darknet's, or was cut in a way that the format cannot say; names the layer.
        DataError: The disk is full.
    """
    if weights is not None and Path(weights).absolute() == Path(cfg).absolute():
        raise InputError(f"write_darknet: cfg and weights are the same file, {str(cfg)!r}")
    network = _network(model)
    sections = _sections(network)
    text = write_cfg(sections)
    again = _read_again(network, text)
    _compare(network, again)
    for name, path in ((n, Path(p)) for n, p in (("cfg", cfg), ("weights", weights)) if p is not None):
        if path.is_dir():
            raise InputError(f"write_darknet({name}=…) is a file to write; got the folder {str(path)!r}.")
        if not path.parent.is_dir():
            raise InputError(f"write_darknet: there is no folder {str(path.parent)!r} to write {path.name!r} into.")
    if weights is not None:
        values = b"".join(t.detach().to("cpu", torch.float32).numpy().tobytes() for t in values_of(again))
        _write(Path(weights), (header or DarknetHeader()).bytes + values)
    _write(Path(cfg), text.encode())


def _write(path: Path, content: bytes) -> None:
    with disk_errors(path.parent), whole(path) as draft:
        draft.write_bytes(content)


def _network(model: object) -> Darknet:
    network = model if isinstance(model, nn.Module) else getattr(model, "model", model)  # the result of a cut
    if isinstance(network, Darknet):
        return network
    name = type(network).__name__
    raise ExportError(
        f"Darknet's format says networks that come from a .cfg or are built in (darknet53, yolov3, yolov3_tiny, "
        f"mini_yolov3) and kept their class; got {name}. Write it as .onnx instead."
    )


# --------------------------------------------------------------------------------------------------- the sections now


def _sections(network: Darknet) -> list[Section]:
    """What the network's ``.cfg`` would say now."""
    net, *layers = network.sections
    written: list[Section] = [net]
    place = {-1: -1}  # of every layer's output: old number → new number
    spans = _spans(network)
    for index, inputs in network.steps:
        module = network.layers[str(index)]
        if _is_removed(module, layers[index]):
            place[index] = place[inputs[0]]
            continue
        for inner, part in spans[index]:
            written.append(_resized(layers[inner], part, inner))
        section = layers[index]
        if section.kind == "convolutional":
            section = _resized(section, module, index)
        now = len(written) - 1  # [net] is no layer
        written.append(_renumbered(section, index, now, place))
        place[index] = now
    return written


def _spans(network: Darknet) -> dict[int, list[tuple[int, nn.Module]]]:
    """By layer, the layers that a residual block holds before its own, which have no step of their own."""
    found: dict[int, list[tuple[int, nn.Module]]] = {}
    for index, _ in network.steps:
        module = network.layers[str(index)]
        branch = list(module.branch) if isinstance(module, Residual) else []
        found[index] = list(enumerate(branch, index - len(branch)))
    return found


def _is_removed(module: nn.Module, section: Section) -> bool:
    """Whether a residual block went whole, and hands on what it is given."""
    return section.kind == "shortcut" and isinstance(module, nn.Identity)


def _resized(section: Section, module: nn.Module, index: int) -> Section:
    """A convolution with the numbers that its module has now."""
    if not isinstance(module, Convolution) or not isinstance(module.conv, nn.Conv2d):
        raise ExportError(
            f"Darknet's format cannot say what became of layer {index} ([{section.kind}]): it is a "
            f"{type(module).__name__} now. Write the network as .onnx instead."
        )
    options = dict(section.options)
    options["filters"] = str(module.conv.out_channels)
    if "groups" in options or module.conv.groups > 1:
        options["groups"] = str(module.conv.groups)
    if not isinstance(module.norm, nn.BatchNorm2d):  # folded into the convolution
        options.pop("batch_normalize", None)
    return replace(section, options=options)


def _renumbered(section: Section, index: int, now: int, place: Mapping[int, int]) -> Section:
    """A section with the new numbers of the layers that it takes."""
    key = {"shortcut": "from", "route": "layers"}.get(section.kind)
    if key is None:
        return section
    numbers = []
    for number in section.numbers(key):
        source = place[number if number >= 0 else index + number]
        if source < 0:
            raise ExportError(
                f"Darknet's format cannot say what became of layer {index} ([{section.kind}]): it takes the image "
                "itself now, for everything before it was removed."
            )
        numbers.append(source if number >= 0 else source - now)
    return replace(section, options={**section.options, key: ", ".join(map(str, numbers))})


# ------------------------------------------------------------------------------------------------------- and whether


def _read_again(network: Darknet, text: str) -> Darknet:
    """The network that a text describes, with the values of ``network`` in double precision."""
    try:
        again = Darknet(parse_cfg(text, "the .cfg that would be written")).double()
    except SecateurError as error:
        raise ExportError(f"Darknet's format cannot say this network: {first_line(error)}") from error
    mine = [m for m in network.modules() if isinstance(m, Convolution)]
    theirs = [m for m in again.modules() if isinstance(m, Convolution)]
    with torch.no_grad():
        for layer, other in zip(mine, theirs, strict=True):
            _copy(layer, other)
    return again


def _copy(layer: Convolution, other: Convolution) -> None:
    """Copies a convolution's values; a bias before a batch normalisation goes into its mean."""
    conv, norm = layer.conv, layer.norm
    if conv.weight.shape != other.conv.weight.shape:
        raise ExportError(
            f"Darknet's format cannot say this network: a convolution has weights of {tuple(conv.weight.shape)} and "
            f"its place in the .cfg gives {tuple(other.conv.weight.shape)}. Write the network as .onnx instead."
        )
    other.conv.weight.copy_(conv.weight)
    bias = conv.bias.double() if conv.bias is not None else torch.zeros(conv.out_channels, device=conv.weight.device)
    if isinstance(norm, nn.BatchNorm2d) and isinstance(other.norm, nn.BatchNorm2d):
        values: dict[str, Tensor | None] = {
            "weight": norm.weight,
            "bias": norm.bias,
            "running_mean": None if norm.running_mean is None else norm.running_mean - bias,
            "running_var": norm.running_var,
        }
        for name, value in values.items():
            if value is None:
                raise ExportError(f"Darknet's format wants a batch normalisation with {name}; one has none.")
            getattr(other.norm, name).copy_(value)
    elif other.conv.bias is not None:
        other.conv.bias.copy_(bias)


def _compare(network: Darknet, again: Darknet) -> None:
    """Holds both against each other on noise, in double precision and evaluation mode."""
    channels, *sides = network.image
    strides = prod(s.number("stride", 1) for s in network.sections if s.kind in ("convolutional", "maxpool"))
    size = [min(side, max(64, 2 * strides)) for side in sides]
    noise = torch.randn(2, channels, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    outputs = [_outputs(one, noise) for one in (network, again)]
    for one, other in zip(*outputs, strict=True):
        error = float((one - other).abs().max() / one.abs().max().clamp(min=1e-12)) if one.shape == other.shape else 1.0
        if not error <= _NEAR:
            raise ExportError(
                f"Darknet's format cannot say this network: what the .cfg describes differs by {error:.1e} of the "
                "largest output. Write it as .onnx instead."
            )


def _outputs(network: Darknet, noise: Tensor) -> Sequence[Tensor]:
    with torch.no_grad():
        found = deepcopy(network).cpu().double().eval()(noise)
    return (found,) if isinstance(found, Tensor) else tuple(found)
