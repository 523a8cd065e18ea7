"""Networks from ONNX files go back into them: the user's file with smaller constants, proven in its runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.core.errors import ExportError, InputError
from secateur.core.modes import evaluating
from secateur.core.plan import Plan, remembered
from secateur.core.types import ExampleInputs
from secateur.exports.checks import ExportCheck
from secateur.graph.copies import deep_copy
from secateur.models.onnx_file import OnnxNetwork, file_of
from secateur.models.onnx_file.running import SMALLEST, TOLERANCE, distance, results, watched
from secateur.runtimes import Runtime
from secateur.runtimes.parity import label_matches
from secateur.surgery.lifted import Draws, Lifted, double

__all__ = ["rename", "write_again"]

_SAME = 1e-9
"""What two computations in double precision may differ by, relative to the largest value."""


def write_again(
    network: OnnxNetwork, dense: nn.Module | None, inputs: ExampleInputs, file: Path, runtime: Runtime, path: Path,
    tolerance: float,
) -> ExportCheck:  # fmt: skip
    """Writes the file of ``network`` and proves it in ONNX Runtime, at the given sizes and at others that it takes.

    Args:
        network: What was read from a file, cut or trained since.
        dense: The network before the cut, where that is known.
        inputs: What it is called with.
        file: Where to write.
        runtime: ONNX Runtime.
        path: What the file will be called.
        tolerance: Allowed difference from the network, relative to each output's largest value (at least 1); that to
            small values (at least 0.01) and to the masked dense file is 1e-3 at most.

    Raises:
        Unwritable: A submodule is no node of the file any more.
        ExportError: The file computes something else than the network, or than the masked dense file,
            or cannot be written.
    """
    with evaluating(network):
        content = file_of(network)
        masked = _masked(network, dense if isinstance(dense, OnnxNetwork) else None, inputs)
        own = _listed(inputs)
        others = next((given for given in network.other_inputs(own) if _takes(network, given)), None)
        sizes = [own] if others is None else [own, others]
        found = [_compared(network, content, masked, given, tolerance) for given in sizes]
    try:
        file.write_bytes(content)
    except OSError as error:
        raise ExportError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error
    batches = [int(tensors[0].shape[0]) if tensors and tensors[0].ndim else 1 for tensors in sizes]
    apart = [other for _, _, other in found if other is not None]
    return ExportCheck(
        runtime.format, str(path), len(content), max(one for one, _, _ in found), tolerance,
        min(labels for _, labels, _ in found), sum(batches), tuple(dict.fromkeys(batches)), len(set(batches)) > 1,
        runtime.version(), masked_difference=max(apart, default=None),
    )  # fmt: skip


def rename(file: Path, dense: OnnxNetwork) -> None:
    """Gives the inputs and outputs of a file that was written anew the names that they had in the dense one."""
    import onnx

    model = onnx.load(file)
    ends = (*model.graph.input, *model.graph.output)
    wanted = (*dense.given, *dense.made)
    if len(ends) != len(wanted):
        return
    inner = {name for node in model.graph.node for name in (*node.input, *node.output)} - {end.name for end in ends}
    if inner & set(wanted):  # a value between the nodes is called so
        return
    new = {end.name: name for end, name in zip(ends, wanted, strict=True)}
    for end in ends:
        end.name = new[end.name]
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    onnx.save(model, file)


def _listed(inputs: ExampleInputs) -> tuple[Tensor, ...]:
    if isinstance(inputs, Mapping):
        raise InputError("A network from an ONNX file is called with a tensor or a tuple of tensors, not with names.")
    return tuple(pytree.tree_leaves(inputs))


def _takes(network: OnnxNetwork, inputs: tuple[Tensor, ...]) -> bool:
    """Whether the dense file runs on inputs of these sizes."""
    try:
        results(network.source.content, network.given, inputs)
    except InputError:
        return False
    return True


def _compared(
    network: OnnxNetwork, content: bytes, masked: bytes | None, inputs: tuple[Tensor, ...], tolerance: float
) -> tuple[float, float, float | None]:
    """Difference of the file from the network, the share of equal labels, and the difference from the masked file."""
    small = results(content, network.given, inputs)
    with torch.no_grad():
        found = network(*inputs)
    own = found if isinstance(found, tuple) else (found,)
    _judged(network, "the network", small, own)
    one = _judged(network, "the network", small, own, tolerance, least=1.0)
    same = label_matches(own[0], small[0])
    labels = float(same.float().mean()) if same.numel() else 1.0
    if masked is None:
        return one, labels, None
    # What goes into a last sigmoid or softmax too: its own values may be all but constant.
    small, dense = (results(watched(file), network.given, inputs) for file in (content, masked))
    return one, labels, _judged(network, "the masked dense file", small, dense)


def _judged(
    network: OnnxNetwork, what: str, found: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float = TOLERANCE,
    *, least: float = SMALLEST,
) -> float:  # fmt: skip
    apart = [distance(a, b, least) for a, b in zip(found, wanted, strict=True)]
    worst = max(apart, default=0.0)
    if not worst <= tolerance:
        name = [*network.made, "what makes the last one"][min(apart.index(worst), len(network.made))]
        raise ExportError(
            f"The cut file differs from {what} by {worst:.2g} at its output {name!r} in ONNX Runtime (accepted "
            f"{tolerance:.0e}). No file was written."
        )
    return worst


# ------------------------------------------------------------------------------------------------- the masked file


def _masked(network: OnnxNetwork, dense: OnnxNetwork | None, inputs: ExampleInputs) -> bytes | None:
    """The dense file with all entries that were removed at zero, if that computes what the smaller network does."""
    plan = remembered(network)
    if plan is None or dense is None:
        return None
    zeroed = _zeroed(dense, plan)
    if not _equal(network, zeroed, inputs):
        return None
    return file_of(zeroed)


def _zeroed(dense: OnnxNetwork, plan: Plan) -> OnnxNetwork:
    twin = deep_copy(dense)
    assert isinstance(twin, OnnxNetwork)
    named: dict[str, Any] = dict(twin.named_parameters(remove_duplicate=False))
    named |= dict(twin.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for name, dims in plan.keep.items():
            for dim, kept in dims.items():
                gone = torch.ones(named[name].shape[dim], dtype=torch.bool)
                gone[list(kept)] = False
                named[name].index_fill_(dim, gone.nonzero().flatten(), 0)
    return twin


def _equal(network: OnnxNetwork, zeroed: OnnxNetwork, inputs: ExampleInputs) -> bool:
    """Whether both compute the same in double precision."""
    doubled = [double(t) for t in _listed(inputs)]
    both = []
    for one in (network, zeroed):
        with torch.no_grad(), Lifted(Draws()):
            both.append(deep_copy(one).double()(*doubled))
    pairs = zip(*(one if isinstance(one, tuple) else (one,) for one in both), strict=True)
    return all(distance(a, b) <= _SAME for a, b in pairs)
