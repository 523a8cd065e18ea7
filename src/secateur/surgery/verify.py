"""Verification: the pruned network against the masked dense one, on every cut."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from secateur.errors import VerificationError
from secateur.graph.flow import module_of
from secateur.graph.groups import Groups
from secateur.graph.labels import Labels
from secateur.graph.trace import preserved_rng
from secateur.graph.writes import may_alias, mutates
from secateur.surgery.graph import slice_tensor
from secateur.surgery.reference import MaskedInterpreter, double
from secateur.types import Verification

__all__ = ["TOLERANCE", "verify", "written"]

TOLERANCE = 1e-5
"""Largest accepted max |difference| / max |value| of an output; single precision gives 1e-7 to 1e-6."""

Mask = NDArray[np.bool_]


Keep = Mapping[str, Mapping[int, Sequence[int]]]

Removed = Mapping[Node, int]


def verify(
    pruned: nn.Module, groups: Groups, label_keep: Mask, keep: Keep, tolerance: float = TOLERANCE,
    removed: Removed | None = None,
) -> Verification:  # fmt: skip
    """Compares ``pruned`` with the masked dense network on the example inputs.

    Formula: max over outputs of max |pruned − masked| / max |masked|. Inputs and weights that are constant
    (a head that starts at zero, a batch-norm scale of zero that ends a residual branch) would hide
    differences, so both networks are compared with noise in their place. A difference beyond the tolerance in
    single precision is looked at again in double precision, so that a long chain of rounding errors is not
    taken for a mistake (nor a mistake for rounding).

    Args:
        pruned: Any back end's result.
        groups: Groups of the dense network, whose graph is the reference.
        label_keep: Which labels stay, shape (labels,).
        keep: Kept indices by tensor name and dimension.
        tolerance: What is still accepted.
        removed: Additions of the dense graph, each with the operand (0 or 1) that counts as zero: the residual
            branches that were removed.

    Raises:
        VerificationError: The outputs differ by more; names the first operator that does.
    """
    trial = _Trial(pruned, groups, label_keep, keep, removed or {})
    with preserved_rng(*trial.tensors), torch.no_grad():
        error, count = trial.of_one_sample()
        if not error <= tolerance:
            error, count = trial.compare()
        dtype = "float32"
        if not error <= tolerance:
            dtype = "float64"
            error, count = trial.doubled().compare()
        if not error <= tolerance:
            raise VerificationError(
                f"The pruned network differs from the masked dense one by {error:.2e} (relative, accepted "
                f"{tolerance:.0e}){trial.first_difference(tolerance)}."
            )
    return Verification(float(error), tolerance, dtype, count)


class _Trial:
    """The two networks, what they are fed and which weights they use."""

    def __init__(self, pruned: nn.Module, groups: Groups, label_keep: Mask, keep: Keep, removed: Removed) -> None:
        self.pruned, self.groups, self.label_keep, self.removed = pruned, groups, label_keep, removed
        self.dense, self.in_double = groups.flow.traced.module, False
        traced, noise = groups.flow.traced, torch.Generator().manual_seed(0)
        self.args, self.kwargs = pytree.tree_map(lambda v: _telling(v, noise), (traced.args, traced.kwargs))
        named = self.dense.named_parameters(remove_duplicate=False)
        told: dict[int, Tensor] = {}
        self.dense_weights = {n: told.setdefault(id(p), _telling(p.detach(), noise)) for n, p in named if _constant(p)}
        self.dense_weights |= written(self.dense)  # a network that changes itself changes copies here
        once = {n for n, _ in (*self.dense.named_parameters(), *self.dense.named_buffers())}  # one name a tensor
        once &= {n for n, _ in _named(pruned)} if removed else once  # a removed branch took its weights along
        self.pruned_weights = {n: slice_tensor(w, keep.get(n, {})) for n, w in self.dense_weights.items() if n in once}

    @property
    def tensors(self) -> list[Tensor]:
        return _tensors((self.args, self.kwargs))

    def of_one_sample(self) -> tuple[float, int]:
        """Compares on the first sample alone where the batch is free: half the work, the same proof.

        A free batch need not go down to one (a ``squeeze`` in the user's code): then nothing is said.
        """
        batch = self.groups.flow.traced.batch
        if not self.groups.flow.traced.dynamic or batch == 1:
            return float("inf"), 0
        twin = copy.copy(self)
        twin.args, twin.kwargs = pytree.tree_map(lambda v: _first(v, batch), (self.args, self.kwargs))
        try:
            return twin.compare()
        except Exception:
            return float("inf"), 0

    def doubled(self) -> _Trial:
        """The same in double precision; the dense weights are converted one by one as they are used."""
        twin = copy.copy(self)
        twin.args, twin.kwargs = pytree.tree_map(double, (self.args, self.kwargs))
        own = dict((*self.pruned.named_parameters(), *self.pruned.named_buffers()))
        twin.pruned_weights = {n: double(w) for n, w in (own | self.pruned_weights).items()}
        twin.in_double = True
        return twin

    def masked(self) -> MaskedInterpreter:
        masked = MaskedInterpreter(self.dense, self.groups, self.label_keep, self.dense_weights, self.in_double)
        masked.removed = self.removed
        return masked

    def compare(self) -> tuple[float, int]:
        mode = self.pruned.training
        self.pruned.eval()
        try:
            got = _tensors(functional_call(self.pruned, self.pruned_weights, _fresh(self.args), _fresh(self.kwargs)))
        finally:
            self.pruned.train(mode)
        want = _tensors(self.masked().run(*self.inputs(), enable_io_processing=False))
        if [g.shape for g in got] != [w.shape for w in want]:
            return float("inf"), len(want)
        return max((_difference(g, w) for g, w in zip(got, want, strict=True)), default=0.0), len(want)

    def inputs(self) -> list[Any]:
        return pytree.tree_leaves((_fresh(self.args), _fresh(self.kwargs)))

    def first_difference(self, tolerance: float) -> str:
        """Names the first operator whose kept entries differ; empty where the graphs cannot be aligned."""
        if not isinstance(self.pruned, GraphModule):
            return ""
        recorder = _Recorder(self.pruned, self.pruned_weights)
        try:
            recorder.run(*self.inputs(), enable_io_processing=False)
        except Exception as error:
            return f", its graph fails with {type(error).__name__}: {str(error).splitlines()[0]}"
        masked = self.masked()
        masked.garbage_collect_values = False
        masked.run(*self.inputs(), enable_io_processing=False)
        for node, value in masked.env.items():
            if self._differs(node, value, recorder.seen.get(node.name), tolerance):
                return f", first at {node.target} ({node.name}) in module {module_of(node) or '(top level)'!r}"
        return ""

    def _differs(self, node: Node, value: Any, got: Any, tolerance: float) -> bool:
        labels = self.groups.flow.labels.get(node)
        if not (isinstance(value, Tensor) and isinstance(got, Tensor) and isinstance(labels, Labels)):
            return False
        for dim, mask in self.groups.masks(labels, self.label_keep).items():
            value = value.index_select(dim, torch.as_tensor(np.flatnonzero(mask), device=value.device))
        return got.shape != value.shape or _difference(got, value) > tolerance


def written(graph: GraphModule) -> dict[str, Tensor]:
    """Copies of the parameters and buffers that the graph writes into, directly or through a view."""
    root: dict[Node, Node] = {}
    found: dict[str, Tensor] = {}
    for node in graph.graph.nodes:
        first = node.args[0] if node.args and isinstance(node.args[0], Node) else None
        root[node] = root[first] if first is not None and may_alias(node) else node
        if mutates(node) and first is not None and root[first].op == "get_attr":
            name = str(root[first].target)
            found[name] = operator.attrgetter(name)(graph).detach().clone()
    return found


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _constant(value: Tensor) -> bool:
    return value.is_floating_point() and value.numel() > 1 and bool((value == value.flatten()[0]).all())


def _telling(value: Any, generator: torch.Generator) -> Any:
    """Noise in place of a constant floating tensor; anything else as it is."""
    if not isinstance(value, Tensor) or not _constant(value):
        return value
    return (torch.randn(value.shape, generator=generator) * 0.3 + 1).to(value)


def _first(value: Any, batch: int) -> Any:
    return value[:1] if isinstance(value, Tensor) and value.ndim and value.shape[0] == batch else value


def _fresh(tree: Any) -> Any:
    """Clones inputs: a network may write into them."""
    return pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, tree)


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]


def _difference(got: Tensor, want: Tensor) -> float:
    """max |got − want| / max |want|; NaN and infinities have to agree."""
    if not want.numel():
        return 0.0
    if not want.is_floating_point():
        return 0.0 if torch.equal(got, want) else float("inf")
    same = (got == want) | (got.isnan() & want.isnan())
    gap = torch.where(same, 0.0, (got - want).abs()).max()
    return float(gap / want.abs().nan_to_num(0, 0, 0).max().clamp_min(1e-30))


class _Recorder(Interpreter):
    """Runs a graph and keeps what every operator gave."""

    def __init__(self, graph: GraphModule, weights: Mapping[str, Tensor]) -> None:
        super().__init__(graph)
        self.seen: dict[str, Any] = {}
        self._weights = weights

    def run_node(self, n: Node) -> Any:
        value = self._weights.get(str(n.target)) if n.op == "get_attr" else None
        value = super().run_node(n) if value is None else value
        self.seen[n.name] = value.clone() if isinstance(value, Tensor) else value
        return value
