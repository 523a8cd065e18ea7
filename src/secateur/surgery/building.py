"""Classes that are built anew from a configuration, and what of a network such a configuration describes."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import VerificationError, first_line
from secateur.graph.calling import TRACING, preserved_rng
from secateur.graph.internals import FunctionMode
from secateur.graph.numbers import Free
from secateur.graph.outside import undisturbed
from secateur.surgery.adapted import Bare, bare

__all__ = [
    "Asked",
    "Unsayable",
    "agree",
    "built",
    "described",
    "has_configuration",
    "instance",
    "same_shapes",
    "shapes_of",
]


class Unsayable(VerificationError):
    """A configuration cannot say the plan; says why."""


def has_configuration(model: nn.Module) -> bool:
    """Whether a network carries a configuration from which its class is built and saved, as transformers has it."""
    config: Any = getattr(model, "config", None)
    return hasattr(config, "to_dict") and hasattr(type(config), "from_dict") and hasattr(model, "save_pretrained")


def described(model: nn.Module) -> list[Bare]:
    """What of a network a configuration describes: the network itself, or the outermost of its modules that carry one.

    Args:
        model: A network; its class need not be one that carries a configuration.

    Returns:
        Nothing for a network in which there is no such thing.
    """
    if has_configuration(model) and (_is_of_it(bare(model).network) or not any(map(has_configuration, _inner(model)))):
        return [bare(model)]
    found: list[Bare] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{one.path}.") for one in found)
        if path and not inside and has_configuration(module) and _is_of_it(bare(module).network):
            found.append(bare(module, path))
    return found


def _inner(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if module is not model)


def _is_of_it(model: nn.Module) -> bool:
    """Whether a network's class is built from such a configuration: it says so, or it can be."""
    if isinstance(said := getattr(type(model), "config_class", None), type) and isinstance(model.config, said):
        return True
    with preserved_rng(), undisturbed(model):
        try:
            return agree(built(model, model.config), model)
        except Unsayable:
            return False


def built(model: nn.Module, config: Any) -> nn.Module:
    """The class, made from what a file of this configuration would say; without memory for weights where it can be."""
    try:
        described = type(config).from_dict(copy.deepcopy(config).to_dict())
    except Exception as error:
        raise Unsayable(first_line(error)) from error
    return instance(model, described)


def instance(model: nn.Module, config: Any, asked: Asked | None = None) -> nn.Module:
    """The class, made from a configuration as it is.

    Args:
        model: One of the class.
        config: The configuration; the class gets a copy.
        asked: Notes what the sizes of parameters are made of.

    Raises:
        Unsayable: The class cannot be made from it.
    """
    kind: Any = type(model)
    try:
        with _without_weights(asked), asked or nullcontext():
            made = kind(copy.copy(config))
    except Exception as error:  # the class raises what it likes
        raise Unsayable(f"its class cannot be built from it ({first_line(error)})") from error
    assert isinstance(made, nn.Module)
    return made


class Asked(FunctionMode):
    """Notes of parameters which sizes their tensors were asked for with, where these remember what they are."""

    def __init__(self) -> None:
        """Nothing is noted yet."""
        super().__init__()
        self.of: dict[tuple[int, str], tuple[Any, ...]] = {}
        self._made: dict[int, tuple[Any, ...]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one function of PyTorch's."""
        result = func(*args, **(kwargs or {}))
        sizes = (kwargs or {}).get("size", args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args)
        if isinstance(result, Tensor) and any(isinstance(s, Free) for s in sizes) and len(sizes) == result.ndim:
            self._made[result.untyped_storage()._cdata] = tuple(sizes)  # nobody has to hold it: shapes are compared
        return result

    def registered(self, module: nn.Module, name: str, tensor: Tensor) -> None:
        """A module takes a tensor as its parameter."""
        sizes = self._made.pop(tensor.untyped_storage()._cdata, None)
        if sizes is not None and tuple(map(int, sizes)) == tuple(tensor.shape):
            self.of[id(module), name] = sizes


@contextmanager
def _without_weights(asked: Asked | None) -> Iterator[None]:
    """Parameters lose their memory as soon as a module holds them; buffers have their values. For the whole process."""
    register, here = nn.Module.register_parameter, threading.get_ident()

    def empty(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if type(param) is nn.Parameter and threading.get_ident() == here:  # what other threads make stays as it is
            if asked is not None:
                asked.registered(module, name, param.data)
            param = nn.Parameter(param.detach().to("meta"), param.requires_grad)
        register(module, name, param)

    with TRACING:
        nn.Module.register_parameter = empty  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            nn.Module.register_parameter = register  # type: ignore[method-assign]


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of what a file of the network would hold."""
    return {n: tuple(t.shape) for n, t in model.state_dict().items() if isinstance(t, torch.Tensor)}


def agree(built: nn.Module, model: nn.Module) -> bool:
    """Whether a class that was built has the tensors of a network; it may have more where that does without (``None``).

    ``BertModel(config, add_pooling_layer=False)`` does without a module that its configuration knows nothing of.
    """
    return same_shapes(shapes_of(built), shapes_of(model), model)


def same_shapes(made: Mapping[str, Any], wanted: Mapping[str, Any], model: nn.Module) -> bool:
    """:func:`agree` of shapes; ``model`` says what it does without."""
    more = [name for name in made if name not in wanted]
    return all(made.get(n) == shape for n, shape in wanted.items()) and all(_does_without(model, n) for n in more)


def _does_without(model: nn.Module, name: str) -> bool:
    module: Any = model
    for part in name.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
        if module is None:
            return True
    return False
