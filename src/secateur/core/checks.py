"""What a network and its inputs have to be before anything is done to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError, SecateurError, WeightsError
from secateur.core.quantisers import computes_in_float, holds_still, imitating, observes, unseen
from secateur.core.types import ExampleInputs, call

__all__ = ["check_inputs", "check_kind", "check_network", "check_weights", "count_unsound",
           "is_torchvision_detector", "run"]  # fmt: skip


def check_network(model: nn.Module, inputs: ExampleInputs) -> None:
    """Refuses what cannot be pruned, with the name of the module, parameter, buffer or input.

    Raises:
        InputError: Scripted, quantised or lazy modules; inputs without a sample or with NaN; weights and inputs on
            different devices.
        WeightsError: NaN, infinite or impossible numbers in parameters and buffers.
    """
    check_weights(model)
    check_inputs(inputs)
    _same_device(model, inputs)


def is_torchvision_detector(model: object) -> bool:
    """Whether it is one of torchvision's detectors (Faster R-CNN and its kin, RetinaNet, FCOS, SSD), by its class.

    >>> is_torchvision_detector(nn.Linear(2, 2))
    False
    """
    kinds = ((kind.__module__, kind.__name__) for kind in type(model).__mro__)
    return any(m.startswith("torchvision.models.detection.") and name in _DETECTORS for m, name in kinds)


_DETECTORS = {"GeneralizedRCNN", "RetinaNet", "FCOS", "SSD"}


def check_kind(model: nn.Module) -> None:
    """Refuses modules that cannot be traced whatever their weights are.

    Raises:
        InputError: Scripted, quantised, sharded or lazy modules, sparse parameters.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a torch.nn.Module; got {type(model).__name__}.")
    for name, module in model.named_modules():
        where = f"The module {name!r}" if name else "The network (model)"
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(f"{where} is scripted, and torch.export traces Python: hand over the original module.")
        if type(module).__module__.startswith("torch.distributed.fsdp"):
            raise InputError(f"{where} is sharded over processes ({type(module).__name__}): {_GATHER}")
        if ".quantized" in type(module).__module__ and not computes_in_float(module):
            raise InputError(f"{where} is quantised ({type(module).__name__}): prune the float network, then quantise.")
    _check_quantisers(model)
    for name, tensor, kind in _tensors(model):
        if hasattr(tensor, "full_tensor"):  # DTensor
            raise InputError(f"The {kind} {name!r} is sharded over processes ({type(tensor).__name__}): {_GATHER}")
        if is_lazy(tensor):
            raise InputError(f"The {kind} {name!r} has no shape yet: run the network once on an input first.")
        if tensor.is_quantized:
            raise InputError(f"The {kind} {name!r} is quantised: prune the float network, then quantise.")
        if tensor.layout != torch.strided:
            raise InputError(f"The {kind} {name!r} is sparse ({tensor.layout}): make it dense first, with .to_dense().")


def _check_quantisers(model: nn.Module) -> None:
    found = list(imitating(model))
    ran = any(observes(module) and not unseen(module) for _, module in found)
    for name, module in found:
        if unseen(module) and not ran:  # where others have seen numbers, nothing runs through this one
            raise InputError(
                f"The module {name!r} imitates quantisation ({type(module).__name__}) and has seen no numbers yet, so "
                "its scale is not known: run the network on a batch first, or prune before prepare_qat."
            )
        if not holds_still(module):
            raise InputError(
                f"The module {name!r} imitates quantisation in a way of its own ({type(module).__name__}), which a "
                "proof cannot hold still: prune the float network first, then prepare the result for training."
            )


_GATHER = (
    "gather the weights into a plain copy of the network (get_model_state_dict with full_state_dict), prune that, and "
    "shard the result; or prune before sharding."
)


def check_weights(model: nn.Module) -> None:
    """Refuses what :func:`check_kind` does, and numbers that no trained network holds.

    Raises:
        InputError: See :func:`check_kind`.
        WeightsError: NaN anywhere; infinity in parameters and statistics (in other buffers it is what masks and
            limits are made of); a negative running variance.
    """
    check_kind(model)
    for name, tensor, kind in _tensors(model):
        if not _holds_numbers(tensor):
            continue
        leaf = name.rpartition(".")[2]
        bound = kind == "buffer" and not leaf.startswith("running_")  # masks and limits may be infinite
        if bad := count_unsound(tensor, infinite=(-1, 1) if bound else ()):
            raise WeightsError(
                f"The {kind} {name!r} holds {bad} NaN or infinite values of {tensor.numel()}; scores would mean "
                "nothing. Load sound weights first."
            )
        if leaf == "running_var" and float(tensor.min()) < 0:
            raise WeightsError(
                f"The {kind} {name!r} holds {int((tensor < 0).sum())} negative variances of {tensor.numel()}; their "
                "roots are NaN. Load sound weights first."
            )


def check_inputs(inputs: ExampleInputs, name: str = "example_inputs") -> None:
    """Refuses inputs that no network can be traced or judged with.

    Args:
        inputs: What a network is called with.
        name: What the argument is called.

    Raises:
        InputError: No tensor in them, no sample, NaN or plus infinity (minus infinity is what masks are made of).
    """
    found = list(_named(inputs))
    if not found:
        raise InputError(
            f"{name} holds no tensor, so there is nothing to trace the network with: give a tensor, a tuple or a dict "
            "of what the network is called with."
        )
    for which, tensor in found:
        where = f"{name}{f', {which},' if which else ''}"
        if tensor.layout is not torch.strided:
            raise InputError(
                f"{where} is sparse ({tensor.layout}), and networks are traced with dense ones: to_dense()."
            )
        if tensor.ndim and not tensor.shape[0]:
            raise InputError(
                f"{where} has no sample (shape {tuple(tensor.shape)}, whose first size is the batch): give one or more."
            )
        if _holds_numbers(tensor) and (bad := count_unsound(tensor, infinite=(-1,))):
            raise InputError(f"{where} holds {bad} NaN or infinite values of {tensor.numel()}: give finite ones.")


def run(model: nn.Module, inputs: ExampleInputs, name: str = "example_inputs") -> Any:
    """Calls ``model``; what the network itself raises becomes one sentence that names the argument.

    Raises:
        InputError: The network does not run on ``inputs``.
    """
    try:
        return call(model, inputs)
    except SecateurError:
        raise
    except Exception as error:  # a network may raise anything
        shapes = [tuple(tensor.shape) for _, tensor in _named(inputs)]
        lines = str(error).strip().splitlines() or [""]
        raise InputError(
            f"{type(model).__name__} does not run on {name} (shapes {shapes}): {type(error).__name__}: "
            f"{lines[0][:300]}. Give inputs of the shape and type that it expects."
        ) from error


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor, str]]:
    yield from ((name, tensor, "parameter") for name, tensor in model.named_parameters())
    yield from ((name, tensor, "buffer") for name, tensor in model.named_buffers())


def _named(inputs: ExampleInputs) -> Iterator[tuple[str, Tensor]]:
    """Every tensor, with the words for where it stands; none for a single one."""
    if isinstance(inputs, Tensor):
        yield "", inputs
        return
    plain = dict(inputs) if isinstance(inputs, Mapping) else inputs
    for path, leaf in pytree.tree_flatten_with_path(plain)[0]:
        if isinstance(leaf, Tensor):
            yield f"at {pytree.keystr(path)}", leaf


def _holds_numbers(tensor: Tensor) -> bool:
    """Whether there are floating-point numbers to look at; a meta tensor has none."""
    return (tensor.is_floating_point() or tensor.is_complex()) and tensor.device.type != "meta" and tensor.numel() > 0


def count_unsound(tensor: Tensor, *, infinite: tuple[int, ...] = ()) -> int:
    """How many values are NaN or infinite; infinity of a sign that is in ``infinite`` is sound."""
    values = torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor.detach()
    if values.element_size() < 2:  # the types of 8 bits have no such operators of their own
        values = values.float()
    if isfinite(float(values.sum())):  # as it is not where anything in it is not, and many times faster
        return 0
    sound = torch.isfinite(values)
    if sound.all():
        return 0
    for sign in infinite:
        sound = sound | (values == sign * torch.inf)
    return int((~sound).sum())


def _same_device(model: nn.Module, inputs: ExampleInputs) -> None:
    weights = {t.device.type: n for n, t in model.named_parameters()}
    if len(weights) != 1:  # none at all, or spread over devices on purpose: the network itself knows
        return
    (device, name), *_ = weights.items()
    for _, value in _named(inputs):
        if value.device.type != device:
            raise InputError(
                f"The example inputs (example_inputs) are on {value.device.type!r}, the weights ({name!r}, …) on "
                f"{device!r}: move one to the other."
            )
