"""Single-weight pruning: removes weights, blocks or kernels of a network, which keeps its shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.fx import GraphModule

from secateur.core import arguments
from secateur.core.checks import check_weights
from secateur.core.errors import InputError, UnknownNameError
from secateur.core.inputs import Data
from secateur.core.plan import remembered
from secateur.core.types import Counts, ExampleInputs
from secateur.cost.counts import count
from secateur.criteria.weight_statistics import Weighing
from secateur.cut.pruned import Pruned
from secateur.sparsity.masks import Masks, apply_masks, copied, weights_of
from secateur.sparsity.patterns import Pattern, parse_pattern
from secateur.sparsity.scores import Score, scored_by, scored_layer
from secateur.sparsity.select import Layer, by_pattern, by_ratio, by_threshold
from secateur.sparsity.shares import Amount, shares

__all__ = ["ZEROS", "LayerSparsity", "Sparse", "sparse", "sparsify"]


SCOPES = ("local", "global")

ZEROS = (
    "Zeros count as size only: they make the stored file smaller (compress), but PyTorch, ONNX Runtime, OpenVINO and "
    "LiteRT take as long as without them. Faster it gets where whole channels of zeros are cut (purify, remove_zeros) "
    "or where convert_sparse measures a sparse product to win."
)
"""What measurements say of single weights that are zero (docs/sparsity.md)."""


@dataclass(frozen=True)
class LayerSparsity:
    """How one weight came out.

    Attributes:
        name: Of the parameter.
        weights: Entries.
        kept: Entries that stay.
    """

    name: str
    weights: int
    kept: int

    @property
    def sparsity(self) -> float:
        """Share of entries removed."""
        return 1 - self.kept / self.weights


@dataclass(frozen=True)
class Sparse(Pruned):
    """A network with weights removed: same shapes, real zeros, no wrappers.

    What it was cut to before goes on to count; without an earlier cut its plan is empty, and without example inputs
    its MACs are not known (0).

    Attributes:
        model: The sparse network, a new one.
        masks: Which weights stay, by parameter name (:class:`~secateur.sparsity.HoldMasks` holds them in training).
        layers: What is left of each masked parameter.
        notes: What the user should know.
    """

    masks: Mapping[str, Tensor] = field(default_factory=dict, compare=False)
    layers: tuple[LayerSparsity, ...] = ()

    @property
    def params(self) -> int:
        """All parameters of the network, with biases and normalisations, which stay."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def params_left(self) -> int:
        """Parameters that were not removed."""
        return self.params - sum(layer.weights - layer.kept for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Share of the masked parameters' entries that were removed; 0 without masks."""
        return (self.params - self.params_left) / max(1, sum(layer.weights for layer in self.layers))

    @property
    def compression_ratio(self) -> float:
        """All parameters over those that were not removed."""
        return self.params / self.params_left

    @property
    def headline(self) -> str:
        """One sentence."""
        return (
            f"{self.params:,} → {self.params_left:,} parameters that are not zero ({self.compression_ratio:.1f}× "
            f"fewer), {self.sparsity:.1%} of the weights in {len(self.layers)} layers removed"
        )

    def __repr__(self) -> str:
        """The headline, the layers and the notes."""
        lines = [f"  {x.name}: {x.kept:,} of {x.weights:,} ({x.sparsity:.1%} removed)" for x in self.layers]
        return "\n".join([f"Sparse({self.headline})", *lines, *(f"  note: {note}" for note in self.notes)])


@arguments.checked
def sparsify(
    model: nn.Module | Pruned,
    *,
    ratio: Amount | None = None,
    std: Amount | None = None,
    pattern: str = "element",
    scope: str = "local",
    criterion: str | Score = "magnitude",
    only: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
    masks: Masks | None = None,
    seed: int = 0,
    data: Data | None = None,
    example_inputs: ExampleInputs | None = None,
) -> Sparse:
    """Removes the single weights (blocks, kernels) that are worth least.

    One of ``ratio``, ``std`` and an n:m pattern says how many. A layer never empties: its best unit stays.

    Args:
        model: The network, or the result of an earlier cut; it is left untouched.
        ratio: Share of the weights to remove, in [0, 1), exactly; or one share per layer name or pattern, other
            layers being left alone.
        std: Han's threshold: weights below ``std`` · standard deviation of the layer's weights go; or one per layer.
        pattern: ``element``, ``2:4`` and the like (of 4 consecutive inputs 2 stay), ``block 4x4``, ``kernel``.
        scope: ``local`` (the same share of every layer) or ``global`` (the lowest anywhere).
        criterion: ``magnitude``, ``lamp``, ``snip``, ``obd``, ``random`` or another criterion of weights (see
            :func:`secateur.criterion`), or a function of a parameter's name and value that returns one score per
            weight, higher = keep: what :func:`weight_scores` gives, where a criterion needs more than ``data``
            (``change``). A block's score is the mean of its weights'.
        only: Names or patterns of the only modules or parameters whose weights may go.
        ignore: Names or patterns of those that are left alone.
        masks: Earlier masks, by default those of a ``Sparse``. What they removed counts towards ``ratio`` and stays
            removed.
        seed: For criteria that draw random numbers.
        data: For criteria that need gradients (``snip``, ``obd``): pairs of inputs and labels, in any of the forms of
            :mod:`secateur.core.inputs`. A task brings its loss; of anything else it is cross-entropy.
        example_inputs: What the network is called with, for its MACs and for a graph in the artifact. The result of
            an earlier cut knows it.

    Returns:
        The sparse network with its masks and the measured sparsity of every layer.

    Raises:
        InputError: A value out of range, a pattern that does not fit a layer, whole-number weights, or something
            that the criterion needs is missing.
        UnknownNameError: A name that fits nothing.
        WeightsError: NaN or infinite weights.

    >>> import torch
    >>> torch.manual_seed(0); net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    <torch...>
    >>> sparsify(net, ratio=0.75)  # doctest: +ELLIPSIS
    Sparse(46 → 16 parameters that are not zero (2.9× fewer), 75.0% of the weights in 2 layers removed)
      0.weight: 8 of 32 (75.0% removed)
      2.weight: 2 of 8 (75.0% removed)
      note: Zeros count as size only: ...
    """
    form = parse_pattern(pattern)
    _check(form, ratio, std, scope, criterion)
    before, network = (model, model.model) if isinstance(model, Pruned) else (None, model)
    masks = before.masks if masks is None and isinstance(before, Sparse) else masks
    check_weights(network)
    weights = {n: w.detach() for n, w in weights_of(network, only=only, ignore=ignore).items() if form.applies(w)}
    if not weights:
        raise InputError("The pattern 'kernel' needs convolutions, and only and ignore leave none.")
    amounts = shares("ratio" if std is None else "std", ratio if std is None else std, network, weights)
    inputs = example_inputs if before is None or example_inputs is not None else before.example_inputs
    setting = Weighing(network, [n for n in weights if n in amounts], data, inputs)
    score = criterion if callable(criterion) else scored_by(criterion, setting, seed)
    layers = [scored_layer(n, weights[n], score, masks or {}) for n in setting.names]
    if form.kind == "n:m":
        chosen = by_pattern(layers, form)
    elif std is not None:
        left = {x.name: weights[x.name][x.alive.to(weights[x.name].device)].double() for x in layers}
        chosen = by_threshold(layers, form, {n: amounts[n] * float(w.std(correction=0)) for n, w in left.items()})
    else:
        chosen = by_ratio(layers, form, amounts, pooled=scope == "global")
    notes = (*_guarded(layers, chosen, form), *_exceeded(layers, chosen, amounts if std is None else {}))
    chosen = {n: mask.to(weights[n].device) for n, mask in chosen.items()}
    dense = network if before is None and remembered(network) is None else None
    return sparse(copied(network), {**(masks or {}), **chosen}, notes=notes, before=before, inputs=example_inputs,
                  dense=dense)  # fmt: skip


def sparse(
    model: nn.Module, masks: Masks, *, notes: tuple[str, ...] = (), before: Pruned | None = None,
    inputs: ExampleInputs | None = None, dense: nn.Module | None = None,
) -> Sparse:  # fmt: skip
    """Applies masks to ``model`` (in place) and counts.

    Args:
        model: The network; its weights change.
        masks: Which weights stay.
        notes: What the user should know.
        before: What ``model`` came from, whose plan, proof and sizes go on to count.
        inputs: What it is called with, where there was no earlier cut.
        dense: The network before any cut, where there was no earlier one.

    Raises:
        UnknownNameError: A mask that names no parameter.
        InputError: A mask of another shape.
    """
    apply_masks(model, masks)
    layers = tuple(LayerSparsity(n, mask.numel(), int(mask.sum())) for n, mask in masks.items())
    zeros = (ZEROS,) if any(layer.sparsity > 0 for layer in layers) else ()
    backend = "graph" if isinstance(model, GraphModule) else "module"
    if before is not None:
        return Sparse(model, backend, before.verification, before.before, before.after, before.groups,
                      before.unsupported, (*notes, *zeros), before.example_inputs, before.dense, before.lost,
                      None, dict(masks), layers)  # fmt: skip
    params = sum(p.numel() for p in model.parameters())
    counts = Counts(params, 0) if inputs is None else count(model, inputs)
    return Sparse(model, backend, None, counts, counts, notes=(*notes, *zeros), example_inputs=inputs, dense=dense,
                  masks=dict(masks), layers=layers)  # fmt: skip


def _check(form: Pattern, ratio: Amount | None, std: Amount | None, scope: str, criterion: str | Score) -> None:
    given = [name for name, value in (("ratio", ratio), ("std", std)) if value is not None]
    given += [f"the pattern {form}"] * (form.kind == "n:m")
    if len(given) != 1:
        raise InputError(
            "One of ratio, std and an n:m pattern says how many weights go; got "
            f"{' and '.join(given) or 'none of them'}."
        )
    if scope not in SCOPES:
        raise UnknownNameError("scope", scope, SCOPES)
    if scope == "global" and (std is not None or form.kind == "n:m" or isinstance(ratio, Mapping)):
        raise InputError("scope='global' goes with one ratio; std, n:m and ratios per layer are local.")
    if std is not None and criterion != "magnitude":
        raise InputError("std compares magnitudes with their standard deviation; criterion has to be 'magnitude'.")


def _exceeded(layers: list[Layer], masks: Masks, ratios: Mapping[str, float]) -> tuple[str, ...]:
    """Says where earlier cuts had removed more than is asked for: what is gone stays gone."""
    asked = sum(ratios.get(x.name, 1.0) * x.scores.numel() for x in layers)
    gone, total = sum(int((~masks[x.name]).sum()) for x in layers), sum(x.scores.numel() for x in layers)
    if not any(not x.alive.all() for x in layers) or gone <= asked + len(layers) or asked == 0:
        return ()
    return (f"{gone / total:.1%} of the weights had been removed before, more than the {asked / total:.1%} asked for: "
            "none returns.",)  # fmt: skip


def _guarded(layers: list[Layer], masks: Masks, form: Pattern) -> tuple[str, ...]:
    """Layers of which a single unit is left."""
    notes = []
    for layer in layers:
        left = int(form.split(layer.name, masks[layer.name]).any(1).sum())
        if left <= 1 < layer.scores.numel() and form.kind != "n:m":
            unit = {"element": "weight"}.get(form.kind, form.kind)
            notes.append(f"{layer.name} keeps one {unit} only, its best: a layer never empties. Prune it less.")
    return tuple(notes)
