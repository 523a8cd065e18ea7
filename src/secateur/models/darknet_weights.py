"""Darknet's ``.weights`` files: a header and then bare float32 values, in the order of the layers.

Nothing in the file says what a value belongs to, so the only protection against a wrong pairing is the size, which
has to fit to the byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.core import arguments
from secateur.core.errors import WeightsError
from secateur.core.reading import opened
from secateur.models.darknet import Convolution, Darknet
from secateur.models.weights import load_weights

__all__ = ["DarknetHeader", "load_darknet", "read_header", "values_of"]


@dataclass(frozen=True)
class DarknetHeader:
    """What a ``.weights`` file begins with.

    Attributes:
        major: Of the version; from 0.2 on, ``seen`` has 64 bits.
        minor: Of the version.
        revision: Of the version.
        seen: Images that the network was trained on so far; Darknet's learning rates go by it.
    """

    major: int = 0
    minor: int = 2
    revision: int = 5
    seen: int = 0

    @property
    def bytes(self) -> bytes:
        """As they stand in the file."""
        return struct.pack("<iiiq" if _is_wide(self.major, self.minor) else "<iiii", *astuple(self))


def _is_wide(major: int, minor: int) -> bool:
    return major * 10 + minor >= 2


@arguments.checked
def read_header(path: str | Path) -> DarknetHeader:
    """The header of a ``.weights`` file.

    Raises:
        WeightsError: The file is missing, or no such file.
    """
    path = Path(path)
    with opened(path, WeightsError) as file:
        head = file.read(20)
    if len(head) < 16 or not all(0 <= number < 1000 for number in struct.unpack("<ii", head[:8])):
        raise WeightsError(
            f"{path.name} does not start with a Darknet header (version numbers): it is no .weights file."
        )
    major, minor, revision = struct.unpack("<iii", head[:12])
    form = "<q" if _is_wide(major, minor) else "<i"
    seen = head[12 : 12 + struct.calcsize(form)].ljust(struct.calcsize(form), b"\0")
    return DarknetHeader(major, minor, revision, *struct.unpack(form, seen))


def load_darknet(model: nn.Module, path: str | Path, *, convolutions: int | None = None) -> nn.Module:
    """Loads a ``.weights`` file into ``model`` in place, all of it or nothing, and returns it.

    Format (little endian): major, minor, revision as int32; images seen as int64 from version 0.2 on, else int32;
    then for every convolution β, γ, mean and variance of its batch normalisation (or its bias), then the weight
    (out, in/groups, height, width), all float32.

    Args:
        model: A :class:`Darknet` network.
        path: The file.
        convolutions: How many convolutions the file holds, for files that were cut off behind the backbone
            (``darknet53.conv.74`` holds 52); all by default.

    Raises:
        WeightsError: The file is missing, shorter or longer than the network, or holds NaN; or the network is none
            of Darknet's.
    """
    path = Path(path)
    if not isinstance(model, Darknet):
        raise WeightsError(f"{path.name} is a Darknet file; it fits networks of a .cfg, not {type(model).__name__}.")
    tensors = list(_tensors(model, convolutions))
    values = _read(path, sum(t.numel() for _, t in tensors))
    given = {name: value.clone() for name, value in model.state_dict().items()}
    start = 0
    for name, tensor in tensors:
        piece = values[start : start + tensor.numel()]
        given[name] = torch.from_numpy(piece.astype(np.float32)).reshape(tensor.shape).to(tensor)
        start += tensor.numel()
    return load_weights(model, given)


def values_of(model: Darknet) -> Iterator[Tensor]:
    """The network's values in the order of a ``.weights`` file."""
    return (tensor for _, tensor in _tensors(model, None))


def _tensors(model: Darknet, convolutions: int | None) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors in the order of the file."""
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, Convolution)]
    for path, layer in layers[:convolutions]:
        if isinstance(layer.norm, nn.BatchNorm2d):
            for leaf in ("bias", "weight", "running_mean", "running_var"):
                yield f"{path}.norm.{leaf}", getattr(layer.norm, leaf)
        elif layer.conv.bias is not None:
            yield f"{path}.conv.bias", layer.conv.bias
        yield f"{path}.conv.weight", layer.conv.weight


def _read(path: Path, wanted: int) -> NDArray[np.float32]:
    """The values behind the header; checks the size before anything is read."""
    start = len(read_header(path).bytes)
    size = path.stat().st_size
    whole = start + 4 * wanted
    if size != whole:
        raise WeightsError(
            f"{path.name} {'is cut off' if size < whole else 'is too long'} for this network: {size:,} bytes, wanted "
            f"{whole:,} ({start} of header and {wanted:,} values). It belongs to another .cfg or another number of "
            "classes, or was not loaded whole."
        )
    return np.memmap(path, dtype="<f4", mode="r", offset=start, shape=(wanted,))
