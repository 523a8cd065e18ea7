"""Structural copies of networks, whatever they hold besides tensors: locks, files, hooks, the last activations."""

from __future__ import annotations

import copy
import functools
import types
import warnings
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

__all__ = ["Copier", "copy_network", "deep_copy", "plain_network", "running_copy", "shallow_copy", "unwrapped"]

_ATOMS = (int, float, complex, str, bytes, bool, type(None), type, types.FunctionType, types.BuiltinFunctionType,
          types.ModuleType, weakref.ReferenceType, Enum, torch.dtype, torch.device, torch.Size,
          torch.memory_format)  # fmt: skip


def copy_network(model: nn.Module, tensors: Mapping[int, Tensor], others: Callable[[Tensor], Tensor]) -> nn.Module:
    """Copies the module tree with other tensors in it.

    ``copy.deepcopy`` stops at the first thing that it cannot copy: an activation that a module or a hook keeps, a lock,
    an open file, a queue, a generator. Here containers and modules are copied, and what cannot be copied is shared.

    Args:
        model: The network; it is not touched.
        tensors: What takes the place of its tensors, by the ``id`` of the tensor that was there.
        others: Makes what takes the place of any tensor that is not in ``tensors`` (plain attributes, activations).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copying a traced graph warns about the pytree it carries
        copied = Copier(tensors, others).value(model)
    assert isinstance(copied, nn.Module)
    return copied


def shallow_copy(model: nn.Module) -> nn.Module:
    """Copies the module tree but shares every tensor: free of charge and safe to switch mode."""
    held = (*model.parameters(), *model.buffers())
    return copy_network(model, {id(t): t for t in held}, lambda t: t if t.is_leaf else t.detach())


def running_copy(model: nn.Module) -> nn.Module:
    """A copy that can be run: parameters are shared, but what a network may write into (buffers) is its own."""
    held = {id(p): p for p in model.parameters()}
    return copy_network(model, held | {id(b): _cloned(b) for b in model.buffers()}, lambda t: t.detach().clone())


def deep_copy(model: nn.Module) -> nn.Module:
    """A copy with tensors of its own, as ``copy.deepcopy`` makes it where it can."""
    held = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy_network(model, {key: _cloned(t) for key, t in held.items()}, _cloned)


def _cloned(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copied, requires_grad=tensor.requires_grad)
    return copied.requires_grad_(tensor.requires_grad and tensor.is_leaf)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside wrappers that only run it elsewhere or otherwise: parallel, compiled, averaged.

    >>> unwrapped(nn.DataParallel(nn.Linear(2, 3)))
    Linear(in_features=2, out_features=3, bias=True)
    """
    while True:
        if isinstance(model, _WRAPPERS):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):  # torch.compile's OptimizedModule
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def plain_network(model: nn.Module) -> nn.Module:
    """The bare network, with tensors that can be traced and trained; a copy where inference mode made some of them."""
    bare = unwrapped(model)
    made_so = any(not is_lazy(t) and t.is_inference() for t in (*bare.parameters(), *bare.buffers()))
    return deep_copy(bare) if made_so else bare


_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)


_PLAIN = {int, float, str, bool, type(None)}
_DICTIONARIES = {dict, OrderedDict, set}
_OWN = {name for name, held in vars(nn.Module()).items() if type(held) in _DICTIONARIES}
"""Dictionaries that every module has, of tensors, modules and hooks; most of them are empty."""


class Copier:
    """One walk over a network; ``memo`` maps what was met to its copy, as in ``copy.deepcopy``."""

    def __init__(self, tensors: Mapping[int, Tensor], others: Callable[[Tensor], Tensor]) -> None:
        """As :func:`copy_network`."""
        self.memo: dict[int, Any] = dict(tensors)
        self.others = others
        self.alive: list[Any] = []  # ids in the memo are good as long as the objects live

    def value(self, value: Any) -> Any:
        """The copy of anything."""
        if type(value) in _PLAIN or isinstance(value, _ATOMS):
            return value
        if id(value) in self.memo:
            return self.memo[id(value)]
        made = self._made(value)
        self.memo[id(value)] = made
        self.alive.append(value)
        return made

    def _made(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.others(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        if type(value) in (dict, OrderedDict, list, deque, set, tuple, frozenset):
            return self._container(value)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self.value, value))
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, self.value(value.__self__))
        if type(value) is functools.partial:
            return functools.partial(self.value(value.func), *map(self.value, value.args), **self.value(value.keywords))
        return self._object(value)

    def _container(self, value: Any) -> Any:
        if isinstance(value, (tuple, frozenset)):
            return type(value)(map(self.value, value))
        made: Any = deque(maxlen=value.maxlen) if isinstance(value, deque) else type(value)()
        self.memo[id(value)] = made
        if isinstance(value, dict):
            made.update({key: self.value(item) for key, item in value.items()})
        elif isinstance(value, set):
            made.update(map(self.value, value))
        else:
            made.extend(map(self.value, value))
        return made

    def _module(self, module: nn.Module) -> nn.Module:
        own = getattr(type(module), "__deepcopy__", None)
        if own is not None and not parametrize.is_parametrized(module):
            if isinstance(module, GraphModule):  # deepcopy sees to its code; what it holds is copied here first
                for child in module.children():
                    self.value(child)
            return copy.deepcopy(module, self.memo)
        made: Any = type(module).__new__(type(module))
        self.memo[id(module)] = made
        # A module with parametrisations refuses to be serialised; its attributes say all there is.
        state = dict(vars(module)) if parametrize.is_parametrized(module) else _state(module)
        made.__setstate__({name: self._held(name, held) for name, held in state.items()})
        return made  # type: ignore[no-any-return]

    def _held(self, name: str, held: Any) -> Any:
        """What a module has under a name: as a rule, nothing in one of PyTorch's own dictionaries."""
        if name == "forward" and type(held) is types.FunctionType:
            return self._forward(held)
        return type(held)() if name in _OWN and not held and type(held) in _DICTIONARIES else self.value(held)

    def _forward(self, function: types.FunctionType) -> Any:
        """A function that was put in the place of a forward: the modules that it calls are the copy's."""

        def inside(value: Any) -> Any:
            holder = value.__self__ if isinstance(value, types.MethodType) else value
            return self.value(value) if isinstance(holder, nn.Module) else value

        def filled(cell: types.CellType) -> types.CellType:
            try:
                return types.CellType(inside(cell.cell_contents))
            except ValueError:  # nothing is in it yet
                return cell

        cells = tuple(map(filled, function.__closure__ or ()))
        defaults = None if function.__defaults__ is None else tuple(map(inside, function.__defaults__))
        made = types.FunctionType(function.__code__, function.__globals__, function.__name__, defaults, cells)
        made.__kwdefaults__ = {k: inside(v) for k, v in (function.__kwdefaults__ or {}).items()} or None
        return functools.update_wrapper(made, function, assigned=("__doc__", "__module__"))

    def _object(self, value: Any) -> Any:
        """Anything else: as ``copy.deepcopy`` has it, or else attribute by attribute, or else the thing itself."""
        memo = dict(self.memo)
        try:
            made = copy.deepcopy(value, memo)
        except Exception:
            return self._by_attributes(value)
        self.memo.update(memo)
        return made

    def _by_attributes(self, value: Any) -> Any:
        kind: Any = type(value)
        plain = all(getattr(kind, name) is getattr(object, name) for name in ("__reduce__", "__reduce_ex__"))
        if not (plain and hasattr(value, "__dict__")):
            return value
        try:
            made = self.memo[id(value)] = kind.__new__(kind)
            made.__dict__.update({name: self.value(held) for name, held in vars(value).items()})
        except Exception:
            return value
        return made


def _state(module: Any) -> dict[str, Any]:
    return dict(module.__getstate__())
