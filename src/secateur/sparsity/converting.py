"""Sparse layers become faster ones, where that is measured to be so on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.core import arguments
from secateur.core.batches import batch_size, tensors
from secateur.core.checks import check_network, run
from secateur.core.errors import InputError, VerificationError, WeightsError, first_line
from secateur.core.files import whole
from secateur.core.modes import evaluating, no_gc
from secateur.core.patterns import checked, covered
from secateur.core.types import ExampleInputs, call
from secateur.graph.copies import deep_copy
from secateur.models.safetensors_file import read_safetensors
from secateur.sparsity.kernels import (
    PRODUCTS,
    Gathered,
    RowWise,
    SparseLayer,
    check_gathered,
    check_rows,
    supported,
)
from secateur.timing.rounds import rounds, thread_count, timed
from secateur.timing.timings import Spread, spread

__all__ = ["Converted", "ConvertedLayer", "convert_sparse", "load_converted"]

TOLERANCE = 1e-4
LEAST_ZEROS = 0.5
"""Layers with fewer zeros are not tried: no sparse product comes near a dense one there."""


@dataclass(frozen=True)
class ConvertedLayer:
    """One linear layer or 1×1 convolution, and what was measured of it.

    Attributes:
        name: Of the module.
        sparsity: Share of its weights that are zero.
        product: ``row-wise`` or ``gathered``; ``dense`` where it stays as it is.
        speedup: Dense over sparse time of the fastest sparse product, paired by round; ``None`` where none was tried.
    """

    name: str
    sparsity: float
    product: str
    speedup: Spread | None


@dataclass(frozen=True)
class Converted:
    """A network for inference with sparse products where they are faster.

    Attributes:
        model: A new network.
        layers: Every layer that could have been converted, also those that stay dense.
        speedup: Of the whole network, measured against the one handed in; ``None`` where no layer was converted.
        max_relative_error: max |converted − dense| / max |dense| over the outputs.
        batch: Samples per call that were measured.
        threads: Threads inside an operator that were measured.
    """

    model: nn.Module
    layers: tuple[ConvertedLayer, ...]
    speedup: Spread | None
    max_relative_error: float
    batch: int
    threads: int

    @property
    def headline(self) -> str:
        """One sentence."""
        done = sum(layer.product != "dense" for layer in self.layers)
        where = f"in PyTorch, batch {self.batch}, {self.threads} thread{'s' * (self.threads > 1)}"
        if self.speedup is None:
            return f"None of {len(self.layers)} layers is faster by a sparse product {where}; the network stays dense"
        return (
            f"{done} of {len(self.layers)} layers converted to sparse products: the network is "
            f"{self.speedup.median:.2f}× as fast as dense {where} (measured; q05 {self.speedup.q05:.2f}, "
            f"q95 {self.speedup.q95:.2f})"
        )

    def __repr__(self) -> str:
        """The headline and the layers."""
        lines = [
            f"  {x.name}: {x.sparsity:.1%} zeros, {x.product}"
            + ("" if x.speedup is None else f" ({x.speedup.median:.2f}× by the best sparse product)")
            for x in self.layers
        ]
        return "\n".join([f"Converted({self.headline})", *lines])

    @arguments.checked
    def save(self, path: str | Path) -> Path:
        """Writes the state (index and value tensors) as safetensors; :func:`load_converted` reads it."""
        state = {n: t.detach().contiguous().clone() for n, t in self.model.state_dict().items()}
        with whole(Path(path)) as draft:
            save_file(state, draft)
        return Path(path)


@arguments.checked
def convert_sparse(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    threads: int = 1,
    min_speedup: float = 1.05,
    budget_s: float = 20.0,
    only: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
) -> Converted:
    """Replaces linear layers and 1×1 convolutions by sparse products where those are measured to be faster.

    Zeros by themselves make nothing faster in any runtime (docs/sparsity.md). A product that skips them pays at about
    90 % zeros: by compressed rows wherever they lie, or, better, by gathered inputs where whole blocks are zero
    (``sparsify(model, pattern="block 16x1", …)``). Each layer is timed on the input that it gets from
    ``example_inputs``, dense and sparse in shuffled rounds; the converted network is compared with the dense one.

    Args:
        model: The sparse network, on the CPU; it is left untouched.
        example_inputs: What it is called with. The batch matters: gains at 1 and at 32 differ.
        threads: Threads inside an operator.
        min_speedup: Median gain from which on a layer is converted.
        budget_s: Seconds for all measurements; three rounds each are made in any case.
        only: Modules (names or patterns) that alone are tried.
        ignore: Modules that stay dense.

    Returns:
        A new network for inference (it has no gradient), with the measured gain of every layer.

    Raises:
        InputError: No linear layer or 1×1 convolution on the CPU, or a number out of range.
        VerificationError: The outputs differ from the dense network's by more than 1e-4.
    """
    if threads < 1 or not min_speedup > 0 or not budget_s > 0:
        raise InputError(f"threads, min_speedup and budget_s are positive; got {threads}, {min_speedup}, {budget_s}.")
    check_network(model, example_inputs)
    candidates = _candidates(model, only, ignore)
    result = deep_copy(model).eval()
    for parameter in result.parameters():
        parameter.requires_grad_(False)
    with thread_count(threads), no_gc(), torch.inference_mode():
        seen = _inputs_of(result, candidates, example_inputs)
        share = budget_s / (len(seen) + 1)
        layers = [_converted(result, name, seen.get(name), min_speedup, share) for name in candidates]
        gain, error = None, 0.0
        if any(layer.product != "dense" for layer in layers):
            error = _difference(model, result, example_inputs)
            gain = _whole(model, result, example_inputs, share)
    return Converted(result, tuple(layers), gain, error, batch_size(example_inputs), threads)


@arguments.checked
def load_converted(path: str | Path, model: nn.Module) -> nn.Module:
    """Reads what :meth:`Converted.save` wrote.

    Args:
        path: The file.
        model: The dense network of the same shapes; it is left untouched.

    Raises:
        WeightsError: The file is missing or damaged, or belongs to another network.
    """
    result = deep_copy(model).eval()
    try:
        state = read_safetensors(path)
        for name in [key.removesuffix(".product.values") for key in state if key.endswith(".product.values")]:
            own = {key.rpartition(".")[2]: t for key, t in state.items() if key.startswith(f"{name}.")}
            layer = result.get_submodule(name)
            made = _read(own, layer)
            result.set_submodule(name, _standing_for(layer, made))
        result.load_state_dict(state)
    except (RuntimeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} does not fit the network: {first_line(error)}.") from error
    return result.requires_grad_(False)


def _read(own: dict[str, Tensor], layer: Any) -> Gathered | RowWise:
    """The product that a file holds for a layer; its indices are looked at, for they are used unchecked."""
    rows, width = layer.weight.shape[:2]
    if own["values"].dtype != layer.weight.dtype:
        raise ValueError(f"values of type {own['values'].dtype} stand for weights of type {layer.weight.dtype}")
    if "index" in own:
        check_gathered(own["values"], own["index"], rows, width)
        return Gathered(own["values"], own["index"])
    check_rows(own["values"], own["columns"], own["starts"], rows, width)
    return RowWise(own["values"], own["columns"], own["starts"], width)


def _candidates(model: nn.Module, only: Iterable[str] | None, ignore: Iterable[str]) -> list[str]:
    names = [name for name, _ in model.named_modules() if name]
    only, ignore = None if only is None else checked(only, names, "only"), checked(ignore, names, "ignore")
    found = [
        name
        for name, module in model.named_modules()
        if name and supported(module) and (only is None or covered(name, only)) and not covered(name, ignore)
    ]
    if not found:
        left = " that only and ignore leave" if only is not None or ignore else ""
        raise InputError(
            "convert_sparse works on nn.Linear and on nn.Conv2d with a kernel of 1×1, float32 on the CPU; "
            f"this network ({type(model).__name__}) has none{left}."
        )
    return found


def _inputs_of(model: nn.Module, names: Iterable[str], inputs: ExampleInputs) -> dict[str, Tensor]:
    """What every layer is called with (the first time)."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
            seen.setdefault(name, given[0])

        return hook

    hooks = [model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    try:
        run(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _converted(model: nn.Module, name: str, x: Tensor | None, min_speedup: float, budget_s: float) -> ConvertedLayer:
    """Times a layer against its sparse forms, and puts the fastest in its place where it is faster."""
    layer = model.get_submodule(name)
    matrix: Tensor = layer.weight.detach().flatten(1)  # type: ignore[operator]
    sparsity = 1 - int(matrix.count_nonzero()) / matrix.numel()
    if x is None or sparsity < LEAST_ZEROS:
        return ConvertedLayer(name, sparsity, "dense", None)
    made = {kind: product for kind, make in PRODUCTS.items() if (product := make(matrix)) is not None}
    tried = {kind: _standing_for(layer, product) for kind, product in made.items()}
    runs = {kind: timed(lambda m=m: m(x)) for kind, m in {"dense": layer, **tried}.items()}  # type: ignore[misc]
    _, samples = rounds(runs, budget_s=budget_s)
    gains = {k: spread([a / b for a, b in zip(samples["dense"], samples[k], strict=True)]) for k in tried}
    best = max(gains, key=lambda kind: gains[kind].median)
    if gains[best].median < min_speedup:
        return ConvertedLayer(name, sparsity, "dense", gains[best])
    for other in [n for n, module in model.named_modules(remove_duplicate=False) if module is layer]:
        model.set_submodule(other, tried[best])
    return ConvertedLayer(name, sparsity, best, gains[best])


def _standing_for(layer: Any, product: nn.Module) -> SparseLayer:
    bias = None if layer.bias is None else layer.bias.detach()
    return SparseLayer(product, bias, layer.stride if isinstance(layer, nn.Conv2d) else None)


def _difference(model: nn.Module, converted: nn.Module, inputs: ExampleInputs) -> float:
    with evaluating(model):
        pairs = list(zip(tensors(call(converted, inputs)), tensors(call(model, inputs)), strict=True))
    worst = max(float((a - b).abs().max()) / max(float(b.abs().max()), 1e-12) for a, b in pairs)
    if not worst <= TOLERANCE:
        raise VerificationError(
            f"The converted network differs from the dense one by {worst:.1e}, relative (tolerance {TOLERANCE:.0e}); "
            "leave layers out with ignore=…."
        )
    return worst


def _whole(model: nn.Module, converted: nn.Module, inputs: ExampleInputs, budget_s: float) -> Spread:
    with evaluating(model):
        runs = {"dense": timed(lambda: call(model, inputs)), "sparse": timed(lambda: call(converted, inputs))}
        _, samples = rounds(runs, budget_s=budget_s)
    return spread([a / b for a, b in zip(samples["dense"], samples["sparse"], strict=True)])
