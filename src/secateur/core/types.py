"""The frozen data that stages hand to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.core.tables import Shown, Table

__all__ = ["Counts", "ExampleInputs", "LayerCount", "Member", "Target", "Unsupported", "Verification"]

ExampleInputs = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""What a network is called with: one tensor, a tuple of positional or a dict of keyword inputs."""


@dataclass(frozen=True)
class LayerCount:
    """Parameters and multiply-accumulates of one weight-bearing module.

    Attributes:
        name: Dotted module name (empty for an operator outside any submodule).
        kind: The operator, for instance ``conv2d`` or ``linear``.
        out_channels: Output channels or features.
        params: Parameters held by the module.
        macs: Multiply-accumulates for one sample (FLOPs are twice that).
    """

    name: str
    kind: str
    out_channels: int
    params: int
    macs: int


@dataclass(frozen=True, repr=False)
class Counts(Shown):
    """Size of a network: parameters and multiply-accumulates for **one** sample.

    Attributes:
        params: All parameters, each counted once.
        macs: MACs of convolutions, linear layers and matrix products (FLOPs are twice that).
        layers: The weight-bearing layers in the order of execution.
    """

    params: int
    macs: int
    layers: tuple[LayerCount, ...] = ()

    def table(self) -> Table:
        """Its layers, with what each has."""
        rows = [(n.name or "(top level)", n.kind, f"{n.out_channels:,}", f"{n.params:,}", f"{n.macs:,}")
                for n in self.layers]  # fmt: skip
        layers = f"{len(rows)} layer{'s' * (len(rows) != 1)} with weights"
        headline = f"{self.params:,} parameters, {self.macs:,} MACs a sample, {layers}"
        return Table(headline, ("Layer", "Operator", "Outputs", "Parameters", "MACs"), rows, words=(0, 1))


_LATENCIES = ("latency", "latency_ms")
_WHERE = ("runtime", "batch", "threads")


@arguments.checked
@dataclass(frozen=True)
class Target:
    """An absolute or relative budget: give exactly one measure; a latency also names its runtime.

    Attributes:
        params: Parameters to keep: a count (``> 1``) or a share of the dense network (``<= 1.0``).
        macs: MACs of one sample to keep: a count (``> 1``) or a share of the dense network.
        energy: Energy of one sample by the model of :func:`secateur.cost.energy`: in multiply-accumulates
            (``> 1``; the model's own unit, of which millijoules are only a multiple by an assumed 4.6 pJ) or a share.
        size: Bytes of the file of weights (safetensors, with its header), or a share of the dense network's.
        latency: Measured time of one call in ``runtime`` as a share (``<= 1.0``) of the dense network's.
        latency_ms: Measured milliseconds of one call in ``runtime``.
        metric: How much of a task's leading metric may be lost, in its own unit and direction: -0.5 for half a point of
            accuracy; for :func:`secateur.prune_to`.
        runtime: Where a latency is measured, a name in :data:`secateur.runtimes.RUNTIMES`.
        batch: Samples per call that a latency is of.
        threads: Threads inside an operator that a latency is of.

    >>> target = Target(macs=0.5)
    >>> target.measure, target.of(1000)
    ('macs', 500.0)
    >>> Target()  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    secateur.core.errors.InputError: A target names one of params, macs, energy, ...; got none of them.
    """

    params: float | None = None
    macs: float | None = None
    energy: float | None = None
    size: float | None = None
    latency: float | None = None
    latency_ms: float | None = None
    metric: float | None = None
    runtime: str | None = None
    batch: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        """Checks that one positive number was given, and with a latency where it is measured."""
        given = self.given
        names = ", ".join(f.name for f in fields(self) if f.name not in _WHERE)
        if len(given) != 1:
            got = " and ".join(given) or "none of them"
            raise InputError(f"A target names one of {names}; got {got}.")
        (name, value), *_ = given.items()
        if name == "metric":
            if not (value and isfinite(value)):
                raise InputError(f"metric=… is how much may be lost, -0.5 for half a point of accuracy; got {value!r}.")
        elif name in _LATENCIES:
            self._check_latency(name, value)
        elif not value > 0:
            raise InputError(f"{name}=… is what is kept: a share in (0, 1] or a count above 1; got {value!r}.")
        elif self.runtime is not None:
            raise InputError(
                f"Target(runtime={self.runtime!r}) says where a latency is measured; {name} has no runtime."
            )

    def _check_latency(self, name: str, value: float) -> None:
        if not 0 < value < float("inf") or (name == "latency" and value > 1):
            wants = "a share in (0, 1] (milliseconds: latency_ms)" if name == "latency" else "milliseconds above 0"
            raise InputError(f"{name}=… is the time that is kept: it wants {wants}; got {value!r}.")
        if self.runtime is None:
            raise InputError(f"{name}=… wants a runtime to measure it in, for instance runtime='onnxruntime'.")
        for setting in ("batch", "threads"):
            if not getattr(self, setting) >= 1:
                raise InputError(f"Target({setting}=…) is at least 1; got {getattr(self, setting)!r}.")

    @property
    def given(self) -> dict[str, float]:
        """What was given, by name: for records."""
        names = (f.name for f in fields(self) if f.name not in _WHERE)
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def measured(self) -> bool:
        """Whether it is a latency, which is measured, not counted."""
        return self.measure in _LATENCIES

    @property
    def measure(self) -> str:
        """What is to be reached: the name of the field that was given."""
        return next(iter(self.given))

    def of(self, dense: float) -> float:
        """The absolute target, given what the dense network has of that measure."""
        value = self.given[self.measure]
        return float(value * dense if value <= 1 else value)


@dataclass(frozen=True)
class Member:
    """One dimension of one parameter or buffer that a unit takes part in.

    Attributes:
        parameter: Name in the state dict.
        dim: Dimension that is cut.
        consumes: Whether the dimension is the contracted one (a consumer's input channels).
    """

    parameter: str
    dim: int
    consumes: bool


@dataclass(frozen=True)
class Unsupported:
    """An operator without a rule, or a use that keeps parameters from being pruned.

    Attributes:
        operator: For instance ``aten.cumsum.default``.
        module: Dotted name of the module that calls it.
        reason: Why everything that touches it was pinned.
        pinned_params: Parameters that cannot be pruned because of it.
        line: The line of the network's code that calls it, ``net.py:12, 'x = x.sort()[0]'``; empty where none is known.
    """

    operator: str
    module: str
    reason: str
    pinned_params: int = 0
    line: str = ""

    def __str__(self) -> str:
        """Operator, module, reason and line, as a sentence has them."""
        where = f"{self.operator} in {self.module or '(top level)'} ({self.reason})"
        return f"{where}, at {self.line}" if self.line else where


@dataclass(frozen=True)
class Verification:
    """Proof that the pruned network computes what the masked dense network computes.

    Attributes:
        max_relative_error: max |pruned − masked dense| relative to what the input moves, the worst over all outputs,
            on the user's weights and on sharpened ones.
        tolerance: What it was compared with.
        dtype: Precision in which it was computed.
        outputs: How many output tensors were compared.
        proven: Whether the input moves every output that the cut reaches; where it moves nothing, nothing is proven.
        unproven: The outputs that nothing moved.
    """

    max_relative_error: float
    tolerance: float
    dtype: str = "float64"
    outputs: int = field(default=1)
    proven: bool = True
    unproven: tuple[str, ...] = ()


def call(model: torch.nn.Module, inputs: ExampleInputs) -> Any:
    """Calls ``model`` the way ``inputs`` asks for."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
