"""Calibration data: batches of the shape that the network was traced with, checked before anything is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.core.checks import check_inputs
from secateur.core.errors import InputError
from secateur.graph.trace import Traced, to_args

__all__ = ["Calibration", "batches", "first_batch"]

Calibration = Tensor | tuple[Any, ...] | Mapping[str, Any] | Iterable[Any]
"""Unlabelled inputs: one tensor, tuple or dict with all samples, or an iterable of batches of these."""


def batches(calibration: Calibration, traced: Traced, batch_size: int) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yields (positional, keyword) inputs of at most ``batch_size`` samples.

    A network whose batch size is fixed gets batches of exactly that size; samples that are left over are dropped.

    Raises:
        InputError: No samples, another shape or type than the network was traced with, NaN or infinite values.
    """
    size = batch_size if traced.dynamic else traced.batch
    seen = 0
    for part in _parts(calibration):
        args, kwargs = _taken(part)
        _check(args, kwargs, traced)
        whole = next(t.shape[0] for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor))
        for start in range(0, whole if traced.dynamic else whole - size + 1, size):
            cut = slice(start, start + size)
            yield pytree.tree_map(lambda v, c=cut: v[c] if isinstance(v, Tensor) and v.ndim else v, (args, kwargs))
            seen += 1
    if not seen:
        need = "one" if traced.dynamic else f"{size} (the network's batch size is fixed)"
        raise InputError(f"calibration holds too few samples: at least {need} wanted. Give 128 or more.")


def first_batch(calibration: Calibration) -> tuple[Any, Calibration]:
    """Two samples to trace a network with, and the data unharmed (an iterator has lost its first batch)."""
    if not isinstance(calibration, (Tensor, tuple, Mapping)):
        calibration = list(_parts(calibration))
    parts = _parts(calibration)
    part = next(iter(parts), None)
    if part is None:
        raise InputError("calibration holds no batch.")
    _taken(part)
    check_inputs(tuple(part) if isinstance(part, list) else part, "calibration")
    return pytree.tree_map(lambda v: v[:2] if isinstance(v, Tensor) and v.ndim else v, part), calibration


def _taken(part: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A batch as positional and keyword inputs."""
    if isinstance(part, Mapping) and not all(isinstance(name, str) for name in part):
        raise InputError("calibration holds a dict whose keys are no names of inputs (strings).")
    if not isinstance(part, (Tensor, tuple, list, Mapping)):
        raise InputError(
            f"Every batch of calibration is a tensor, a tuple or a dict of inputs; got one of {type(part).__name__}."
        )
    return to_args(tuple(part) if isinstance(part, list) else part)


def _parts(calibration: Calibration) -> Iterable[Any]:
    if isinstance(calibration, (Tensor, tuple, Mapping)):
        return [calibration]
    if isinstance(calibration, Iterable) and not isinstance(calibration, (str, bytes)):
        return calibration
    raise InputError(
        "calibration is a tensor, tuple or dict of inputs, or an iterable of batches; got "
        f"{type(calibration).__name__}."
    )


def _check(args: tuple[Any, ...], kwargs: dict[str, Any], traced: Traced) -> None:
    got, want = (pytree.tree_leaves(t) for t in ((args, kwargs), (traced.args, traced.kwargs)))
    if len(got) != len(want):
        raise InputError(
            f"A calibration batch has {len(got)} inputs; the network was traced with {len(want)}. Leave the labels out."
        )
    for mine, example in zip(got, want, strict=True):
        if not isinstance(example, Tensor):
            continue
        if not isinstance(mine, Tensor) or mine.shape[1:] != example.shape[1:] or mine.dtype != example.dtype:
            shape = f"{tuple(mine.shape)} {mine.dtype}" if isinstance(mine, Tensor) else type(mine).__name__
            raise InputError(
                f"Calibration data of shape {shape} does not fit the network, which was traced with "
                f"{tuple(example.shape)} {example.dtype} (the first size is the batch)."
            )
        if mine.is_floating_point() and not torch.isfinite(mine).all():
            raise InputError("The calibration data holds NaN or infinite values.")
