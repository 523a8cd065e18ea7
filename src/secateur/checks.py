"""What a network and its inputs have to be before anything is done to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from secateur.errors import InputError, WeightsError
from secateur.types import ExampleInputs

__all__ = ["check_network"]


def check_network(model: nn.Module, inputs: ExampleInputs) -> None:
    """Refuses what cannot be pruned, with the name of the module or parameter.

    Raises:
        InputError: Scripted, quantised or lazy modules; weights and inputs on different devices.
        WeightsError: NaN or infinite weights.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a torch.nn.Module; got {type(model).__name__}.")
    for name, module in model.named_modules():
        where = f"The module {name!r}" if name else "The network"
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(f"{where} is scripted, and torch.export traces Python: hand over the original module.")
        if ".quantized" in type(module).__module__:
            raise InputError(f"{where} is quantised ({type(module).__name__}): prune the float network, then quantise.")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        _check_tensor(name, tensor)
    _same_device(model, inputs)


def _check_tensor(name: str, tensor: Tensor) -> None:
    if is_lazy(tensor):
        raise InputError(f"The parameter {name!r} has no shape yet: run the network once on an input first.")
    if tensor.is_quantized:
        raise InputError(f"The tensor {name!r} is quantised: prune the float network, then quantise.")
    if isinstance(tensor, nn.Parameter) and (tensor.is_floating_point() or tensor.is_complex()):
        finite = torch.isfinite(tensor) if tensor.device.type != "meta" else torch.ones(1)
        if not finite.all():
            bad = int(finite.numel() - finite.sum())
            raise WeightsError(
                f"The parameter {name!r} holds {bad} NaN or infinite values of {tensor.numel()}; scores would mean "
                "nothing. Load sound weights first."
            )


def _same_device(model: nn.Module, inputs: ExampleInputs) -> None:
    weights = {t.device.type: n for n, t in model.named_parameters()}
    if len(weights) != 1:  # none at all, or spread over devices on purpose: the network itself knows
        return
    (device, name), *_ = weights.items()
    for value in pytree.tree_leaves(dict(inputs) if hasattr(inputs, "keys") else inputs):
        if isinstance(value, Tensor) and value.device.type != device:
            raise InputError(
                f"The example inputs are on {value.device.type!r}, the weights ({name!r}, …) on {device!r}: move one "
                "to the other."
            )
