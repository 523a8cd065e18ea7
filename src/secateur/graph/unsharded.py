"""Networks whose weights are sharded over processes (PyTorch's ``fully_shard``): whole copies, and sharded again."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.graph.copies import Copier, unwrapped
from secateur.graph.internals import flat_wrapper, sharding_state

__all__ = [
    "Shards",
    "agreed",
    "gathered",
    "groups_of",
    "is_sharded",
    "laid_out",
    "resharded",
    "shard_again",
    "shards_of",
    "whole",
]

_MARKS = ("__composable_api_state_key", "_is_fsdp_managed_module", "_fsdp_use_orig_params")
"""Attributes of modules that sharding has left there."""


@dataclass(frozen=True)
class Shards:
    """One call of ``fully_shard``, as far as it can be read off the network.

    Attributes:
        paths: The modules that it was called with.
        mesh: Its processes.
        settings: Its further arguments.
        dims: Dimension of the shards of parameters by name, where that is not the first.
        whole: Names of parameters that it left whole.
        unread: What could not be read.
    """

    paths: tuple[str, ...]
    mesh: Any
    settings: Mapping[str, Any]
    dims: Mapping[str, int]
    whole: frozenset[str]
    unread: tuple[str, ...]


def is_sharded(model: nn.Module) -> bool:
    """Whether ``fully_shard`` was called with modules of a network, or the older wrapper."""
    return any(sharding_state(m) is not None or flat_wrapper(m) is not None for m in unwrapped(model).modules())


def whole(tensor: Any) -> Any:
    """All of a tensor that is sharded; a collective. Anything else as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def laid_out(tensor: Tensor, like: Any) -> Tensor:
    """A whole tensor, sharded as another one is (if it is); every process has the whole one."""
    if not hasattr(like, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def gathered(model: nn.Module) -> nn.Module:
    """A copy of a sharded network with whole weights, of the classes that it had before; a collective."""
    bare = unwrapped(model)
    resharded(bare)
    wrapper = next((m for m in bare.modules() if flat_wrapper(m) is not None), None)
    summoned: Any = getattr(type(wrapper), "summon_full_params", None)
    with nullcontext() if summoned is None else summoned(bare, writeback=False):
        return _copied(bare)


def _copied(bare: nn.Module) -> nn.Module:
    held: dict[int, Tensor] = {}
    for tensor in (*bare.parameters(), *bare.buffers()):
        value = whole(tensor.detach())
        value = value.clone() if value is tensor or value.data_ptr() == tensor.data_ptr() else value
        held[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
    made = _Gatherer(held, lambda t: whole(t.detach()).clone()).value(bare)
    assert isinstance(made, nn.Module)
    return made


def resharded(model: nn.Module) -> None:
    """Takes the whole weights away that a forward pass may have left in a network of ``fully_shard``."""
    for module in model.modules():
        if sharding_state(module) is not None:
            module.reshard()  # type: ignore[operator]


class _Gatherer(Copier):
    """Copies sharded modules as those that they were."""

    def _module(self, module: nn.Module) -> nn.Module:
        if (wrapper := flat_wrapper(module)) is not None:
            return self.value(wrapper.module)  # type: ignore[no-any-return]
        state = sharding_state(module)
        made: Any
        if state is None:
            made = super()._module(module)
            for mark in [name for name in vars(made) if name.startswith(_MARKS)]:
                delattr(made, mark)
            return made  # type: ignore[no-any-return]
        kind: Any = type(module).__mro__[type(module)._orig_cls_mro_index]  # type: ignore[attr-defined]
        made = kind.__new__(kind)
        self.memo[id(module)] = made
        own = {name: held for name, held in vars(module).items() if not name.startswith(_MARKS)}
        own |= {name: _others(own[name], state) for name in ("_forward_hooks", "_forward_pre_hooks")}
        made.__setstate__({name: self._held(name, held) for name, held in own.items()})
        return made  # type: ignore[no-any-return]


def _others(hooks: Any, state: Any) -> Any:
    """Hooks that are not of sharding."""
    kept = {key: hook for key, hook in hooks.items() if not _belongs(hook, state)}
    return type(hooks)(kept)


def _belongs(hook: Any, state: Any) -> bool:
    inner = [hook, *(c.cell_contents for c in getattr(hook, "__closure__", None) or ())]
    return any(isinstance(one, types.MethodType) and one.__self__ is state for one in inner)


# ----------------------------------------------------------------------------------------------- sharded again


def shards_of(model: nn.Module) -> list[Shards]:
    """The calls of ``fully_shard`` that a network has behind it, those of inner modules first."""
    bare = unwrapped(model)
    resharded(bare)
    paths = {id(module): path for path, module in bare.named_modules()}
    names = {id(p): name for name, p in bare.named_parameters()}
    states = {id(s): s for m in bare.modules() if (s := sharding_state(m)) is not None}
    found = [_read(state, paths, names) for state in states.values()]
    return sorted(found, key=lambda one: -max(path.count(".") + bool(path) for path in one.paths))


def _read(state: Any, paths: Mapping[int, str], names: Mapping[int, str]) -> Shards:
    modules, groups = state._modules, state._fsdp_param_groups
    placed = tuple(paths[id(module)] for module in modules)
    if not groups:
        return Shards(placed, None, {}, {}, frozenset(), ())
    group, unread = groups[0], []
    if not hasattr(group.mesh_info, "shard_mesh_size"):  # replicated, not sharded
        return Shards(placed, None, {}, {}, frozenset(), ("replication",))
    if len(groups) > 1 or getattr(group.mesh_info, "dp_mesh_dims", None) is not None:
        unread.append("several meshes")
    if state._states_to_forward_prefetch or state._states_to_backward_prefetch:
        unread.append("the order of prefetching")
    after = None if state._auto_reshard_after_forward else _after_forward(group)
    settings = {"mp_policy": group.mp_policy, "offload_policy": group.offload_policy, "reshard_after_forward": after}
    own = [p for module in modules for p in module.parameters() if id(p) in names]
    dims = {names[id(p)]: d for p in own if (d := _dim(p))}
    left = frozenset(names[id(p)] for p in own if not hasattr(p, "full_tensor"))
    return Shards(placed, group.mesh_info.mesh, settings, dims, left, tuple(unread))


def _after_forward(group: Any) -> bool | int:
    after, own = group.post_forward_mesh_info, group.mesh_info
    return False if after is None else True if after is own else int(after.shard_mesh_size)


def _dim(parameter: Any) -> int:
    """The dimension that a parameter is sharded along; 0 for one that is whole."""
    dims = [int(p.dim) for p in getattr(parameter, "placements", ()) if p.is_shard()]
    return dims[0] if dims else 0


def shard_again(
    small: nn.Module, shards: Sequence[Shards], dense: Callable[[str], str], dead: Collection[str]
) -> list[str]:  # fmt: skip
    """Shards a smaller network in place, where the network was that it was cut from.

    Args:
        small: The smaller network, whole.
        shards: What :func:`shards_of` gave, of the network that was cut.
        dense: What a name of the smaller network was before the cut.
        dead: Modules of it inside which nothing is called any more (they are graphs).

    Returns:
        What is otherwise than it was.
    """
    from torch.distributed.fsdp import fully_shard

    modules = {dense(path) if path else "": module for path, module in small.named_modules()}
    notes = list(dict.fromkeys(f"{what} of fully_shard was not restored" for one in shards for what in one.unread))
    for one in shards:
        called = [modules[p] for p in one.paths if p in modules and not _inside(p, dead)]
        called = [m for m in called if next(m.parameters(), None) is not None]
        if one.mesh is None or not called:
            continue
        left = {p for n, p in small.named_parameters() if dense(n) in one.whole}
        dims = {id(p): one.dims[dense(n)] for n, p in small.named_parameters() if dense(n) in one.dims}
        notes += _uneven(small, dims, one.mesh)
        places: Any = _places(dims) if dims else None
        several: Any = called[0] if len(called) == 1 else called
        fully_shard(several, mesh=one.mesh, shard_placement_fn=places, ignored_params=left or None, **one.settings)
    return notes


def _uneven(small: nn.Module, dims: dict[int, int], mesh: Any) -> Iterator[str]:
    """Parameters that another dimension than the first no longer divides: along the first, and a note."""
    for name, parameter in small.named_parameters():
        dim = dims.get(id(parameter), 0)
        if dim and parameter.shape[dim] % mesh.size(mesh.ndim - 1):
            del dims[id(parameter)]
            yield f"{name} is sharded along its first dimension, because dimension {dim} is not a multiple any more"


def _places(dims: Mapping[int, int]) -> Callable[[nn.Parameter], Any]:
    from torch.distributed.tensor import Shard

    return lambda parameter: Shard(dims[id(parameter)]) if id(parameter) in dims else None


def _inside(path: str, dead: Collection[str]) -> bool:
    return bool(path) and any(not one or path.startswith(f"{one}.") for one in dead)


def groups_of(model: nn.Module) -> list[Any]:
    """Groups of processes that a network is sharded over."""
    bare = unwrapped(model)
    mesh = next((one.mesh for one in shards_of(bare) if one.mesh is not None), None)
    if mesh is not None:
        return [mesh.get_group(dim) for dim in range(mesh.ndim)]
    return [w.process_group for m in bare.modules() if (w := flat_wrapper(m)) is not None][:1]


def agreed(groups: Sequence[Any], word: str) -> list[str]:
    """What every process of some groups says, each thing once; a collective."""
    said = [word]
    for group in groups:
        heard: list[Any] = [None] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(heard, said, group=group)
        said = sorted({one for several in heard for one in several})
    return said
