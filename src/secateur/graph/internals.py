"""What the recorder needs of PyTorch that PyTorch does not promise to keep; ``tests/graph/test_internals.py`` says what
breaks when one of them goes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.fx.graph import CodeGen, _PyTreeCodeGen, _PyTreeInfo
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["FunctionMode", "LazyGraphModule", "OperatorMode", "codegen", "exporting", "flat_wrapper", "parts_of",
           "pytree", "sharding_state"]  # fmt: skip

OperatorMode = TorchDispatchMode
"""Sees every operator; under inference mode before it is taken apart."""

FunctionMode = TorchFunctionMode
"""Sees every call of PyTorch's Python functions, and reads of a tensor's attributes."""

LazyGraphModule = _LazyGraphModule
"""A graph module whose code is written when it is first called."""


def codegen(names: Sequence[str], inputs: Any, outputs: Any) -> CodeGen:
    """Makes a graph take and give what a network does, with its containers: specifications of :mod:`pytree`."""
    return _PyTreeCodeGen(_PyTreeInfo(list(names), inputs, outputs))


def parts_of(spec: Any) -> list[Any]:
    """What a specification of :mod:`pytree` holds; called another name until PyTorch 2.10."""
    return list(spec.children() if hasattr(spec, "children") else spec.children_specs)


def sharding_state(module: nn.Module) -> Any:
    """What ``fully_shard`` remembers of a module that it was called with; ``None`` for any other module."""
    get = getattr(type(module), "_get_fsdp_state", None)
    return None if get is None else get(module)


def flat_wrapper(module: nn.Module) -> Any:
    """The module itself, where it is a wrapper that shards what is inside as one flat tensor; else ``None``."""
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    return module if kind is not None and isinstance(module, kind) else None


@contextmanager
def exporting() -> Iterator[None]:
    """Libraries take the ways that they keep for tracers; attention its plain way. For the whole process."""
    flags = torch.compiler._is_exporting_flag, torch.compiler._is_compiling_flag
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.compiler._is_exporting_flag = torch.compiler._is_compiling_flag = True
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.compiler._is_exporting_flag, torch.compiler._is_compiling_flag = flags
        torch.backends.mha.set_fastpath_enabled(fast)
