"""Bytes: of a network on disk, and at the peak of one forward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core import arguments
from secateur.core.batches import tensors
from secateur.core.checks import check_inputs, check_kind, run
from secateur.core.errors import InputError
from secateur.core.modes import evaluating
from secateur.core.types import ExampleInputs

__all__ = ["peak_memory", "size_on_disk"]


@arguments.checked
def size_on_disk(target: nn.Module | str | PathLike[str]) -> int:
    """Returns bytes: of a file, of all files in a folder, or of a network's weights as safetensors.

    Tensors that share their storage (tied weights) are counted once.

    Raises:
        InputError: When the path does not exist.

    >>> size_on_disk(nn.Linear(2, 1, bias=False)) - 8  # 2 weights of 4 bytes, and the header
    72
    """
    if isinstance(target, nn.Module):
        return _weights_size(target)
    path = Path(target)
    if not path.exists():
        raise InputError(f"Cannot measure the size of {str(path)!r}: there is no such file or folder.")
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


@arguments.checked
def peak_memory(model: nn.Module, inputs: ExampleInputs) -> int:
    """Returns the bytes of tensors alive at the peak of one forward pass, weights and inputs included.

    Counted from the tensors that the operators hand out and the moment each is freed, in evaluation mode
    without gradients: the same number on every run and machine. Scratch space inside an operator and the
    memory of Python and of the libraries are not in it.

    >>> net = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU())  # 128 bytes of weights
    >>> peak_memory(net, torch.zeros(1, 4))  # + input 16, both activations 32
    208
    """
    check_kind(model)
    check_inputs(inputs, "inputs")
    watch = _LiveBytes()
    watch.hold([*model.parameters(), *model.buffers(), *tensors(inputs)])
    with evaluating(model), torch.no_grad(), watch:
        run(model, inputs, "inputs")
    return watch.peak


def _weights_size(model: nn.Module) -> int:
    from safetensors.torch import save

    unique: dict[tuple[int, tuple[int, ...]], tuple[str, Tensor]] = {}
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):  # an empty tensor has no address of its own
            unique.setdefault((value.data_ptr() or id(value), tuple(value.shape)), (name, value))
    # A clone each: safetensors refuses views that share memory in other ways.
    return len(save({name: value.detach().cpu().clone().contiguous() for name, value in unique.values()}))


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operators return, and subtracts each when it is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.hold(tensors(result))
        return result

    def hold(self, held: Iterable[Tensor]) -> None:
        """Counts the storages that are not counted yet."""
        for tensor in held:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._seen:
                self._seen.add(key)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._free, key, storage.nbytes())
        self.peak = max(self.peak, self.live)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size
