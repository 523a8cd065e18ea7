"""From a file to a network that was compared with ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from secateur.core import arguments
from secateur.core.errors import InputError, UnknownNameError, VerificationError
from secateur.models.onnx_file.network import OnnxNetwork, built, random_tensor
from secateur.models.onnx_file.ops.elementwise import dtype_of
from secateur.models.onnx_file.ops.pieces import note_pieces
from secateur.models.onnx_file.proto import inputs_of, read_model
from secateur.models.onnx_file.registry import Refused
from secateur.models.onnx_file.running import TOLERANCE, distance, results

__all__ = ["read_onnx"]

_LARGEST = 2**28
"""Numbers of one example input."""


@arguments.checked
def read_onnx(
    path: str | PathLike[str], sizes: Mapping[str, int | Sequence[int]] | Sequence[int] | None = None, *, seed: int = 0
) -> OnnxNetwork:
    """Reads an ONNX file as a network that every verb takes, and compares it with ONNX Runtime.

    Args:
        path: The file; weights may lie in files beside it.
        sizes: What the file leaves free: a shape for an input (``{"x": (1, 3, 48, 320)}``; 0 where the file says it
            itself), a number for a free dimension by its name (``{"height": 48}``), or a shape for the first input
            alone. The batch is 1 where nothing is said of it.
        seed: Of the example inputs, which are random numbers.

    Returns:
        A network in evaluation mode; it knows its ``example_inputs``.

    Raises:
        InputError: It holds what cannot be followed (control flow, operators of others, quantised weights; names the
            node), or a free dimension has no size.
        WeightsError: It is missing or damaged, or names weights outside its folder.
        VerificationError: The network that was read computes something else than ONNX Runtime.
    """
    model = read_model(path)
    network = built(model, model.SerializeToString(), str(path))
    given = sizes if isinstance(sizes, Mapping) else {network.given[0]: sizes} if sizes and network.given else {}
    network._samples = _samples(model, dict(given), seed, str(path))
    network._free = {value.name: _free_dims(value) for value in inputs_of(model)}
    check_first(network)
    return network


def check_first(network: OnnxNetwork) -> None:
    """Runs the network without values, then with them, and then beside ONNX Runtime.

    Raises:
        InputError: A node cannot be computed; names it.
        VerificationError: ONNX Runtime computes something else.
    """
    inputs = network.example_inputs
    _without_values(network, inputs)
    with torch.no_grad():
        found = network.first_run(*inputs, seen=note_pieces)
    ours = found if isinstance(found, tuple) else (found,)
    theirs = results(network.source.content, network.given, inputs)
    for name, a, b in zip(network.made, ours, theirs, strict=True):
        apart = distance(a, b)
        if not apart <= TOLERANCE:
            raise VerificationError(
                f"{network.source.path} was read wrongly: its output {name!r} differs by {apart:.2g} from ONNX "
                f"Runtime's (accepted {TOLERANCE:.0e}). Nothing was cut; please report the file's operators."
            )


def _without_values(network: OnnxNetwork, inputs: tuple[Any, ...]) -> None:
    """Every node runs on shapes alone first: what would fill the memory is refused before it does."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    log = logging.getLogger("torch._subclasses.fake_tensor")  # it prints a traceback of what is answered here
    before, log.disabled = log.disabled, True
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
            network.first_run(*(mode.from_tensor(tensor) for tensor in inputs))
    except Refused as error:
        raise InputError(f"{network.source.path}: {error}") from error
    finally:
        log.disabled = before


def _samples(model: Any, sizes: dict[str, Any], seed: int, path: str) -> dict[str, Tensor]:
    """Seeded random numbers for every input."""
    generator = torch.Generator().manual_seed(seed)
    known = {value.name for value in inputs_of(model)}
    known |= {d.dim_param for v in inputs_of(model) for d in v.type.tensor_type.shape.dim if d.dim_param}
    for name in sizes:
        if name not in known:
            raise UnknownNameError("input or free dimension", name, known, argument="sizes")
    found = {}
    batches = {v.type.tensor_type.shape.dim[0].dim_param for v in inputs_of(model) if v.type.tensor_type.shape.dim}
    for value in inputs_of(model):
        shape = _shape(value, sizes, path, batches - {""})
        found[value.name] = random_tensor(shape, _type(value, path), generator)
    return found


def _type(value: Any, path: str) -> torch.dtype:
    try:
        return dtype_of(value.type.tensor_type.elem_type)
    except Refused as error:
        raise InputError(f"{path}: the input {value.name!r} cannot be given: it {error}.") from error


def _shape(value: Any, sizes: dict[str, Any], path: str, batches: set[str]) -> list[int]:
    """The shape of an input; names of free dimensions that it settles are settled for further inputs."""
    kind = value.type.tensor_type
    given = sizes.get(value.name)
    given = [given] if isinstance(given, int) else given
    if not kind.HasField("shape") and given is None:
        raise InputError(f"{path} does not say how many dimensions the input {value.name!r} has: give its shape as "
                         f"sizes={{{value.name!r}: (…)}}.")  # fmt: skip
    dims = list(kind.shape.dim)
    if given is not None and kind.HasField("shape") and len(given) != len(dims):
        raise InputError(f"{path}: the input {value.name!r} has {len(dims)} dimensions; sizes gives {len(given)}.")
    if given is not None and not kind.HasField("shape"):
        return _bounded(list(given), value.name, path)
    shape = []
    for k, dim in enumerate(dims):
        fixed = dim.dim_value if dim.dim_value > 0 else None
        wanted = fixed if fixed or (k and dim.dim_param not in batches) else 1
        wanted = sizes.get(dim.dim_param, wanted) if dim.dim_param else wanted
        wanted = given[k] if given is not None and given[k] else wanted
        if wanted is None:
            raise InputError(_free(value, dims, path))
        if fixed is not None and wanted != fixed:
            raise InputError(f"{path}: dimension {k} of the input {value.name!r} is {fixed}; sizes gives {wanted}.")
        if dim.dim_param and isinstance(wanted, int):
            sizes.setdefault(dim.dim_param, wanted)
        shape.append(wanted)
    return _bounded(shape, value.name, path)


def _free_dims(value: Any) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(k for k, dim in enumerate(dims) if not dim.dim_value > 0)


def _free(value: Any, dims: list[Any], path: str) -> str:
    words = ", ".join(str(d.dim_value) if d.dim_value > 0 else d.dim_param or "?" for d in dims)
    example = ", ".join(str(d.dim_value) if d.dim_value > 0 else "1" if not k else "…" for k, d in enumerate(dims))
    return (
        f"{path} leaves sizes of its input {value.name!r} free ({words}): say what they are, as "
        f"sizes={{{value.name!r}: ({example})}}, or --input-shape on the command line."
    )


def _bounded(shape: list[Any], name: str, path: str) -> list[int]:
    sound = all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in shape)
    count = 1
    for size in shape if sound else ():
        count *= size
    if not sound or count > _LARGEST:
        raise InputError(f"{path}: the input {name!r} cannot have the shape {tuple(shape)}: sizes are whole numbers "
                         f"above 0, {_LARGEST:,} numbers at most.")  # fmt: skip
    return shape
