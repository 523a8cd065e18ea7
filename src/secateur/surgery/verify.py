"""Verification: the pruned network against the masked dense one, on every cut.

Rounding in double precision is 1e-14 and mistakes are 1e-6 and more, so the decision is made there, and relative to
what the *input* moves in an output: a constant part that drowns it does not count.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError, SecateurError, VerificationError, first_line
from secateur.core.types import Verification
from secateur.graph.calling import plain_outputs, preserved_rng
from secateur.graph.copies import copy_network, deep_copy, shallow_copy
from secateur.graph.flow import module_of
from secateur.graph.groups import Groups
from secateur.graph.labels import Labels
from secateur.graph.ops import Kind, facts_of
from secateur.graph.trace import Traced
from secateur.graph.writes import own_tensor, written_names
from secateur.surgery.graph import new_indices, slice_tensor
from secateur.surgery.lifted import Draws, Lifted, Unlike, double
from secateur.surgery.reference import CutEntries, MaskedInterpreter, OtherShape
from secateur.surgery.sharpen import Sharpening, moved_inputs, telling_inputs

__all__ = ["TOLERANCE", "verify"]

TOLERANCE = 1e-9
"""Largest accepted max |pruned − masked| relative to what the input moves in that output, in double precision."""

RESOLUTION = 1e-13
"""Of double precision over a whole network, relative to the largest value of an output. An output of which the input
moves less than ``RESOLUTION / TOLERANCE`` cannot be decided in that run; ten times the resolution is accepted there."""

NEAR = 1e-5
"""What a traced graph and the network itself may differ by in their own precision without a closer look."""

MANY = 16
"""Samples of a free batch that are looked at, at most."""

FEW = 4
"""Samples that are looked at, at most, of smaller images."""

LARGE, STEP = 96, 32
"""Images whose height and width are at least ``LARGE`` are looked at a quarter of them, in whole ``STEP``\\ s."""

Mask = NDArray[np.bool_]

Keep = Mapping[str, Mapping[int, Sequence[int]]]

Removed = Mapping[Node, int]


def verify(
    pruned: nn.Module, groups: Groups, label_keep: Mask, keep: Keep, *, removed: Removed | None = None,
    dense: nn.Module | None = None,
) -> Verification:  # fmt: skip
    """Compares ``pruned`` with the masked dense network, in double precision.

    Formula: max over outputs of max |pruned − masked| / max |pruned(x) − pruned(x')|, with x the user's inputs and x'
    others of the same kind. It is computed with the user's weights and inputs, and again with small weights grown and
    constant tensors perturbed a little (:class:`Sharpening`), so that nothing is hidden (behind a scale that starts at
    zero, an attention that is nearly uniform). Weights have to be exactly the slices that the plan names; operators
    that both networks call in the same order have to give results of the shape that the plan says; random numbers are
    the same draws in both. Every way through the network that was traced is compared (train mode, further methods).

    Args:
        pruned: Any back end's result.
        groups: Groups of the dense network, whose graph is the reference.
        label_keep: Which labels stay, shape (labels,).
        keep: Kept indices by tensor name and dimension.
        removed: Additions of the dense graph, each with the operand (0 or 1) that counts as zero: the residual
            branches that were removed.
        dense: The dense network itself, which the traced graph is compared with as well; a pruned *graph* is only
            right if the graph was.

    Returns:
        The proof; ``proven`` is false where nothing moves an output that the cut reaches.

    Raises:
        VerificationError: The outputs differ by more, or are NaN; names the first operator that does.
        InputError: The dense network itself gives NaN or infinity on the inputs.
    """
    views = groups.flow.views if not isinstance(pruned, GraphModule) else groups.flow.views[:1]
    with preserved_rng(*_tensors((groups.flow.traced.args, groups.flow.traced.kwargs))), torch.no_grad():
        trials = [_Trial(pruned, view, groups, label_keep, keep, removed or {}) for view in views]
        _same_weights(pruned, trials[0], keep)
        if dense is not None:
            trials[0].check_graph(dense)
        trials[0].check_native()
        found = [trial.decide() for trial in trials]
    unproven = tuple(name for trial in found for name in trial.unproven)
    return Verification(
        max(f.error for f in found), TOLERANCE, "float64", sum(f.outputs for f in found), not unproven, unproven
    )


# ------------------------------------------------------------------------------------------------------- one run


@dataclass(frozen=True)
class _Output:
    """How one output came out: its error, relative to what the input moves where that is enough to decide."""

    error: float
    moved: bool

    @property
    def right(self) -> bool:
        """Whether the error is accepted."""
        return self.error <= (TOLERANCE if self.moved else 10 * RESOLUTION)


@dataclass(frozen=True)
class _Found:
    """What the runs of one trial found."""

    error: float
    outputs: int
    unproven: tuple[str, ...]


class _Trial:
    """The two networks on one way through them (forward, train mode, another method)."""

    def __init__(
        self, pruned: nn.Module, traced: Traced, groups: Groups, label_keep: Mask, keep: Keep, removed: Removed
    ) -> None:
        self.pruned, self.traced, self.groups = pruned, traced, groups
        self.label_keep, self.keep, self.removed = label_keep, keep, removed
        self.dense = traced.module
        self.parameters = {n for n, _ in self.dense.named_parameters(remove_duplicate=False)}
        self.written = written_names(self.dense)
        self.home = torch.device("cpu") if _without_double(self.dense) else None
        self.own = _some(traced)
        self.joined = False
        self.cut = CutEntries(groups, label_keep)

    def decide(self) -> _Found:
        """Runs on the user's weights and inputs, and again sharpened."""
        try:
            return self._decide()
        except torch.OutOfMemoryError:
            self.home = torch.device("cpu")
            return self._decide()

    def _decide(self) -> _Found:
        if (small := _smaller(self.traced)) is not None:
            with contextlib.suppress(Exception):  # it depends on the size of the image, or is wrong: see below
                found = self._at_smaller(*small)
                if not found.unproven:
                    return found
        return self._at_own()

    def _at_smaller(self, args: Any, kwargs: Any) -> _Found:
        """Runs on smaller images, and on others beside them in the same batch.

        Every operator of the dense graph, which was recorded at the full size, is run, and the pruned network has to
        call the same operators in the same order; that it gives outputs of the right shape at the full size is
        checked by :meth:`check_native`.
        """
        self.joined = True
        try:
            plain = self._run(args, kwargs, sharp=False) or []
            sharp = self._run(*telling_inputs((_first(args), _first(kwargs))), sharp=True)
        finally:
            self.joined = False
        return self._found(plain, sharp)

    def _at_own(self) -> _Found:
        traced = (self.traced.args, self.traced.kwargs)
        try:
            plain = self._run(*self.own, sharp=False) or []
        except OtherShape:  # a batch of one is squeezed away, say: what was traced is what can be compared
            self.own = traced
            plain = self._run(*traced, sharp=False) or []
        whole = self.traced.training or not _all_floating(self.own)  # one sample of tokens may have nothing masked
        one = self.own if whole else _first_sample(self.traced, *self.own)
        try:
            sharp = self._run(*telling_inputs(one), sharp=True)
        except (SecateurError, Unlike):
            raise
        except (
            Exception
        ):  # one sample is too little for it (statistics of a batch), or what was traced is another batch
            sharp = self._run(*telling_inputs(self.own), sharp=True)
        return self._found(plain, sharp)

    def _found(self, plain: list[_Output], sharp: list[_Output] | None) -> _Found:
        touched = _touched(self.dense, self.groups, self.label_keep, self.removed)
        names = [
            f"output {i} of {self.traced.name}"
            for i, (a, b) in enumerate(zip(plain, sharp or plain, strict=True))
            if touched[i] and not a.moved and not (b.moved and sharp is not None)
        ]
        return _Found(max((o.error for o in (*plain, *(sharp or ()))), default=0.0), len(plain), tuple(names))

    def _run(self, args: Any, kwargs: Any, *, sharp: bool) -> list[_Output] | None:
        """Compares on one set of inputs; ``None`` where sharpened weights give the dense network no finite result."""
        args, kwargs = self._at_home((args, kwargs))
        moved_args, moved_kwargs = moved_inputs((args, kwargs))
        if self.joined:
            args, kwargs = _beside((args, kwargs), (moved_args, moved_kwargs))
        sharpening = self._sharpened if sharp else {}
        draws, masked = Draws(), self._masked(sharpening)
        masked.watch = not sharp
        try:
            want = _results(masked, draws, args, kwargs)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise OtherShape(f"{type(error).__name__}: {error}") from error
        if sharp and any(_unsound(w) for w in want):
            return None
        self._check_finite(want, args, kwargs)
        calls: list[tuple[str, Any]] = []
        got = self._pruned(args, kwargs, sharpening, draws, calls if masked.watch else None)
        if draws.taken != len(draws.drawn):
            raise Unlike(f"it draws {draws.taken} random numbers, the dense network {len(draws.drawn)}")
        if masked.watch:
            _compare_shapes(masked.shapes, calls, strict=self.joined)
        other = _halves_exchanged(got) if self.joined else self._pruned(
            moved_args, moved_kwargs, sharpening, draws, None)  # fmt: skip
        outputs = self._compared(got, want, other)
        wrong = [o.error for o in outputs if not o.right]
        if wrong:
            where = self._first_difference(args, kwargs, sharpening)
            raise VerificationError(
                f"The pruned network differs from the masked dense one by {max(wrong):.2e} of what the input moves "
                f"(accepted {TOLERANCE:.0e}){' with sharpened weights' if sharp else ''}{where}."
            )
        return outputs

    def _compared(self, got: list[Tensor], want: list[Tensor], other: list[Tensor]) -> list[_Output]:
        shapes = [[tuple(t.shape) for t in several] for several in (got, want)]
        if shapes[0] != shapes[1]:
            raise VerificationError(f"The pruned network gives results of shapes {shapes[0]} for {shapes[1]}.")
        alike = [t.shape for t in other] == [t.shape for t in got]
        return [_compare(g, w, o) for g, w, o in zip(got, want, other if alike else got, strict=True)]

    # ---------------------------------------------------------------------------------------------- the networks

    @cached_property
    def _sharpened(self) -> dict[str, Sharpening]:
        """What every dense tensor becomes."""
        graph = self.dense
        named = {**_constants(graph), **dict(_named(graph))}
        made: dict[int, Sharpening] = {}  # tied tensors stay tied
        for name, tensor in named.items():
            if id(tensor) not in made:
                made[id(tensor)] = Sharpening.of(name, tensor, parameter=name in self.parameters)
        return {name: made[id(tensor)] for name, tensor in named.items()}

    def _masked(self, sharpening: Mapping[str, Sharpening], *, whole: bool = False) -> MaskedInterpreter:
        def value(name: str, tensor: Tensor) -> Tensor:
            tensor = tensor if self.home is None else tensor.to(self.home)
            how = sharpening.get(name)
            return _fresh_one(double(tensor) if how is None else how.applied(tensor), tensor)

        eager = {n: double(value(n, t)).clone() for n in self.written if (t := own_tensor(self.dense, n)) is not None}
        keep = np.ones_like(self.label_keep) if whole else self.label_keep
        masked = MaskedInterpreter(self.dense, self.groups, keep, eager, value, None if whole else self.cut)
        masked.removed = {} if whole else self.removed
        return masked

    def _pruned(
        self, args: Any, kwargs: Any, sharpening: Mapping[str, Sharpening], draws: Draws,
        calls: list[tuple[str, Any]] | None,
    ) -> list[Tensor]:  # fmt: skip
        """Outputs of the pruned network; a copy of it runs, because a network may keep or change what it likes."""

        def value(name: str, tensor: Tensor) -> Tensor:
            tensor = tensor.to(self.home or tensor.device)
            if (how := sharpening.get(name)) is not None:
                return how.applied(tensor, self.keep.get(name))
            return tensor if tensor.ndim > 1 and short else double(tensor)

        short = _short_of_memory(self.pruned)

        return self._called(lambda: _with_tensors(self.pruned, value), args, kwargs, draws, calls)

    def _called(
        self, make: Callable[[], nn.Module], args: Any, kwargs: Any, draws: Draws,
        calls: list[tuple[str, Any]] | None,
    ) -> list[Tensor]:  # fmt: skip
        """Outputs of the network that ``make`` gives; inference mode lets operators be seen whole, where it can."""

        def seen(name: str, result: Any) -> None:
            if calls is not None:
                calls.append((name, tuple(result.shape) if isinstance(result, Tensor) else None))

        for context in (torch.inference_mode, torch.no_grad):
            draws.taken = 0
            if calls is not None:
                calls.clear()
            try:
                with context():
                    twin = self.traced.enter(make())
                    with Lifted(draws, again=True, seen=seen):
                        return _tensors(plain_outputs(twin(*_fresh(args), **_fresh(kwargs))))
            except RuntimeError as error:
                if context is torch.no_grad or "nference" not in str(error):
                    raise
        raise AssertionError("unreachable")

    def _at_home(self, tree: Any) -> Any:
        home = self.home
        return tree if home is None else pytree.tree_map(lambda v: v.to(home) if isinstance(v, Tensor) else v, tree)

    # ------------------------------------------------------------------------------------------------- the checks

    def check_native(self) -> None:
        """The pruned network takes the user's own batch, in its own precision."""
        twin = deep_copy(self.pruned).eval()  # it may write into its own weights
        args, kwargs = _cloned(self.traced.given)
        got = _tensors(plain_outputs(twin(*args, **kwargs)))
        for i, value in enumerate(got):
            if value.is_floating_point() and bool(value.isnan().any()):
                self._explain(i, f"NaN in output {i} of the pruned network")
        shapes = [[tuple(t.shape[1:]) for t in several] for several in (got, _outputs(self.dense))]
        if self.traced.any_batch and shapes[0] != shapes[1]:
            raise VerificationError(f"The pruned network gives results of shapes {shapes[0]} for {shapes[1]}.")

    def check_graph(self, dense: nn.Module) -> None:
        """The traced graph computes what the network itself computes.

        Raises:
            VerificationError: It does not: its forward depends on something that was fixed while it was traced.
        """
        if self._same_natively(dense):
            return
        args, kwargs = self._at_home(self.own)
        draws, graph = Draws(), self._masked({}, whole=True)
        want = _results(graph, draws, args, kwargs)

        def value(name: str, tensor: Tensor) -> Tensor:
            return double(tensor.to(self.home or tensor.device))  # type: ignore[no-any-return]

        got = self._called(lambda: _with_tensors(dense, value), args, kwargs, draws, None)
        worst = max(map(_apart, got, want), default=0.0) if len(got) == len(want) else math.inf
        if not worst <= TOLERANCE:
            raise VerificationError(
                f"The traced graph differs from the network itself by {worst:.1e} on the example inputs, so a pruned "
                "graph would be wrong: forward depends on something that was fixed while it was traced (numbers that "
                "Python or NumPy draw, the size of the batch, the time)."
            )

    def _same_natively(self, dense: nn.Module) -> bool:
        """Whether graph and network agree as they are; autocast and fast paths make a closer look necessary."""
        args, kwargs = self.own
        graph = deep_copy(self.dense) if self.written else self.dense
        assert isinstance(graph, GraphModule)
        torch.manual_seed(0)
        leaves = pytree.tree_leaves(_cloned((args, kwargs)))
        want = _tensors(Interpreter(graph).run(*leaves, enable_io_processing=False))
        torch.manual_seed(0)
        twin = (deep_copy if self.written else shallow_copy)(dense).eval()
        got = _tensors(plain_outputs(twin(*_cloned(args), **_cloned(kwargs))))
        return len(got) == len(want) and all(_apart(g, w) <= NEAR for g, w in zip(got, want, strict=True))

    def _check_finite(self, want: list[Tensor], args: Any, kwargs: Any) -> None:
        for i, value in enumerate(want):
            if _unsound(value):
                what = "NaN" if bool(value.isnan().any()) else "infinity"
                self._explain(i, f"{what} in output {i} of the masked dense network")

    def _explain(self, number: int, what: str) -> None:
        """NaN or infinity: the network's own fault, or the cut's."""
        args, kwargs = self._at_home(self.own)
        whole = self._masked({}, whole=True)
        results = _results(whole, Draws(), args, kwargs)
        if number < len(results) and _unsound(results[number]):
            raise InputError(
                f"The network itself gives NaN or infinity on the example inputs (example_inputs), in output {number}: "
                "nothing can be proven. Give inputs on which it computes numbers."
            )
        raise VerificationError(
            f"The cut leaves {what}{self._first_unsound(args, kwargs)}: an operator has too little left to compute "
            "with (a standard deviation of one entry, say). Keep more units there (min_units=2, ignore=…)."
        )

    def _first_unsound(self, args: Any, kwargs: Any) -> str:
        masked = self._masked({})
        masked.garbage_collect_values = False
        _results(masked, Draws(), args, kwargs)
        for node, value in masked.env.items():
            if node.op == "call_function" and isinstance(value, Tensor) and bool(_nan(value).any()):
                return f", first at {_where(node)}"
        return ""

    def _first_difference(self, args: Any, kwargs: Any, sharpening: Mapping[str, Sharpening]) -> str:
        """Names the first operator whose kept entries differ; empty where the graphs cannot be aligned."""
        if not isinstance(self.pruned, GraphModule):
            return ""
        draws, masked = Draws(), self._masked(sharpening)
        masked.garbage_collect_values = False
        _results(masked, draws, args, kwargs)
        sliced = {
            n: how.applied(t, self.keep.get(n))
            for n, t in _named(self.pruned)
            if (how := sharpening.get(n)) is not None
        }
        recorder = _Recorder(self.pruned, sliced)
        try:
            with torch.inference_mode(), Lifted(draws, again=True):
                recorder.run(*_leaves(args, kwargs), enable_io_processing=False)
        except Exception as error:
            return f", its graph fails with {type(error).__name__}: {first_line(error)}"
        for node, value in masked.env.items():
            if self._differs(node, value, recorder.seen.get(node.name)):
                return f", first at {_where(node)}"
        return ""

    def _differs(self, node: Node, value: Any, got: Any) -> bool:
        labels = self.groups.flow.labels.get(node)
        if not (isinstance(value, Tensor) and isinstance(got, Tensor) and isinstance(labels, Labels)):
            return False
        for dim, mask in self.groups.masks(labels, self.label_keep).items():
            value = value.index_select(dim, torch.as_tensor(np.flatnonzero(mask), device=value.device))
        return got.shape != value.shape or _apart(double(got), double(value)) > TOLERANCE


def _results(masked: MaskedInterpreter, draws: Draws, args: Any, kwargs: Any) -> list[Tensor]:
    """Outputs of the masked dense network, in double precision; what it draws is written down."""
    masked.around = Lifted(draws, masks=masked.masks)
    with torch.inference_mode():
        return _tensors(masked.run(*_leaves(args, kwargs), enable_io_processing=False))


# ------------------------------------------------------------------------------------------------------- numbers


def _compare(got: Tensor, want: Tensor, other: Tensor) -> _Output:
    """One output: max |got − want|, relative to what other inputs move in it."""
    if not want.numel():
        return _Output(0.0, True)
    if not (want.is_floating_point() or want.is_complex()):
        return _Output(0.0 if torch.equal(got, want) else math.inf, not torch.equal(got, other))
    if bool(_nan(got).any()):
        return _Output(math.inf, True)
    gap = torch.where(got == want, 0.0, (got - want).abs()).max()  # equal infinities at equal places agree
    motion = torch.where(got == other, 0.0, (got - other).abs())
    moved = float(motion[motion.isfinite()].max()) if bool(motion.isfinite().any()) else 0.0
    size = float(want.abs()[want.abs().isfinite()].max()) if bool(want.abs().isfinite().any()) else 0.0
    decided = moved * TOLERANCE >= size * RESOLUTION and moved > 0
    scale = moved if decided else size
    return _Output(float(gap) / scale if scale else (0.0 if not float(gap) else math.inf), decided)


def _apart(got: Tensor, want: Tensor) -> float:
    """max |got − want| / max |want|; infinite where shapes, infinities or whole numbers differ."""
    if got.shape != want.shape:
        return math.inf
    if not want.numel():
        return 0.0
    if not (want.is_floating_point() or want.is_complex()):
        return 0.0 if torch.equal(got, want) else math.inf
    gap = torch.where((got == want) | (_nan(got) & _nan(want)), 0.0, (got - want).abs()).max()
    return float(gap / want.abs().nan_to_num(0, 0, 0).max().clamp_min(1e-30))


def _nan(value: Tensor) -> Tensor:
    return value.isnan()  # all false for whole numbers


def _unsound(value: Tensor) -> bool:
    """NaN or plus infinity (minus infinity masks a score)."""
    return bool(_nan(value).any()) or (value.is_floating_point() and bool(value.isposinf().any()))


# ------------------------------------------------------------------------------------------------------- shapes

_MOVES = {Kind.COPY, Kind.CAST, Kind.SIZE, Kind.TYPE_CHECK, Kind.DROPOUT}
_ANCHORS = {Kind.CONV, Kind.CONV_TRANSPOSE, Kind.LINEAR, Kind.MATMUL, Kind.ATTENTION, Kind.SOFTMAX, Kind.LAYER_NORM,
            Kind.GROUP_NORM, Kind.BATCH_NORM, Kind.INSTANCE_NORM}  # fmt: skip


def _compare_shapes(wanted: Sequence[tuple[str, Any]], called: Sequence[tuple[str, Any]], *, strict: bool) -> None:
    """Operators that both networks call in the same order give results of the shapes that the plan says.

    All operators are aligned where their names agree one by one, or else those that contract, normalise or attend;
    where these do not agree either (a fast path that the trace did not take), nothing is said, or with ``strict`` that
    they do not (:class:`Unlike`).
    """
    for anchors in (False,) if strict else (False, True):
        a, b = ([(n, s) for n, s in several if _compared(n, anchors)] for several in (wanted, called))
        if [_alike(n) for n, _ in a] == [_alike(n) for n, _ in b]:
            for (name, want), (_, got) in zip(a, b, strict=True):
                if want is not None and got is not None and want != got:
                    raise VerificationError(
                        f"The pruned network computes {name} of shape {got} where the plan says {want}: what it "
                        "splits into heads or groups is not what was cut."
                    )
            return
    if strict:
        raise Unlike("it calls other operators than the dense one")


def _compared(name: str, anchors: bool) -> bool:
    kind = facts_of(name).kind
    return kind in _ANCHORS if anchors else kind not in _MOVES


def _alike(name: str) -> str:
    """One name for all operators that give the same entries under the sizes that they are given."""
    return Kind.RESHAPE if facts_of(name).kind is Kind.RESHAPE else name


# ------------------------------------------------------------------------------------------------------- weights


def _same_weights(pruned: nn.Module, trial: _Trial, keep: Keep) -> None:
    """Every tensor of the pruned network is exactly the part of the dense one that the plan names."""
    dense = dict(_named(trial.dense))
    renumbered = new_indices(trial.groups, trial.label_keep)
    for name, small in _named(pruned):
        if name not in dense or small.device.type == "meta" or name in renumbered:
            continue
        want = slice_tensor(dense[name], keep.get(name, {})) if name in keep else dense[name].detach()
        if small.shape != want.shape or not torch.equal(small.detach(), want):
            raise VerificationError(f"The tensor {name!r} of the pruned network is not the part that the plan keeps.")


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _with_tensors(model: nn.Module, value: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """A copy of ``model`` with other tensors under the same names; everything else is in double precision."""
    made: dict[int, Tensor] = {}
    for name, tensor in _named(model):
        if id(tensor) not in made:
            made[id(tensor)] = _fresh_one(value(name, tensor), tensor)
    return copy_network(model, made, lambda t: _fresh_one(double(t), t))


def _fresh_one(value: Tensor, source: Tensor) -> Tensor:
    """``value`` with memory of its own, made here and now (inference mode takes no views of what was made before)."""
    return value.clone() if value is source else value


def _constants(graph: GraphModule) -> dict[str, Tensor]:
    """Tensors that the graph refers to and that are neither parameters nor buffers."""
    names = [str(n.target) for n in graph.graph.nodes if n.op == "get_attr"]
    return {name: value for name in names if (value := own_tensor(graph, name)) is not None}


def _touched(graph: GraphModule, groups: Groups, label_keep: Mask, removed: Removed) -> list[bool]:
    """Which outputs depend on something that was cut."""
    reached: dict[Node, bool] = {}
    for node in graph.graph.nodes:
        labels = groups.flow.labels.get(node)
        cut = isinstance(labels, Labels) and bool(groups.masks(labels, label_keep))
        reached[node] = cut or node in removed or any(reached[n] for n in node.all_input_nodes)
        if node.op == "output":
            leaves = pytree.tree_leaves(node.args[0])
            return [reached[n] for n in leaves if isinstance(n, Node) and isinstance(n.meta.get("val"), Tensor)]
    return []


# -------------------------------------------------------------------------------------------------------- inputs


def _some(traced: Traced) -> tuple[Any, Any]:
    """The user's own batch (the first samples of a large one); in train mode what was traced, which is two or more."""
    if traced.training or traced.given_batch is None:
        return (traced.args, traced.kwargs) if traced.training else traced.given
    if not traced.any_batch or traced.given_batch <= MANY:
        return traced.given
    few: tuple[Any, Any] = pytree.tree_map(lambda v: _cut_batch(v, traced.given_batch, MANY), traced.given)
    return few


def _smaller(traced: Traced) -> tuple[Any, Any] | None:
    """A corner of the user's images, where they are large and a network of any batch takes them in eval mode."""
    images = [t for t in _tensors(traced.given) if t.ndim >= 4 and t.is_floating_point()]
    sizes = {size for t in images for size in t.shape[2:]}
    if traced.training or not traced.any_batch or not sizes or min(sizes) < LARGE:
        return None
    smaller = {size: max(2, -(-size // (4 * STEP))) * STEP for size in sizes}

    def corner(value: Any) -> Any:
        value = _cut_batch(value, traced.given_batch, FEW)
        if isinstance(value, Tensor) and value.ndim >= 4 and value.is_floating_point():
            for dim in range(2, value.ndim):
                value = value.narrow(dim, 0, smaller[value.shape[dim]])
        return value

    found: tuple[Any, Any] = pytree.tree_map(corner, traced.given)
    return found


def _first(tree: Any) -> Any:
    """The first sample alone."""
    return pytree.tree_map(lambda v: v[:1] if isinstance(v, Tensor) and v.ndim else v, tree)


def _beside(tree: Any, others: Any) -> Any:
    """One batch of both."""
    return pytree.tree_map(lambda a, b: torch.cat([a, b]) if isinstance(a, Tensor) and a.ndim else a, tree, others)


def _halves_exchanged(outputs: list[Tensor]) -> list[Tensor]:
    """Results of the other inputs in the place of those of the first, for every sample."""
    return [torch.cat(tuple(reversed(t.chunk(2)))) if t.ndim else t for t in outputs]


def _outputs(graph: GraphModule) -> list[Tensor]:
    """Results as they were recorded."""
    node = next(n for n in graph.graph.nodes if n.op == "output")
    return _tensors([n.meta.get("val") for n in pytree.tree_leaves(node.args[0]) if isinstance(n, Node)])


def _first_sample(traced: Traced, args: Any, kwargs: Any) -> tuple[Any, Any]:
    batch = min(traced.given_batch or 1, MANY)
    if not traced.any_batch or batch == 1:
        return args, kwargs
    one: tuple[Any, Any] = pytree.tree_map(lambda v: _cut_batch(v, batch, 1), (args, kwargs))
    return one


def _all_floating(tree: Any) -> bool:
    return all(t.is_floating_point() or t.is_complex() for t in _tensors(tree))


def _cut_batch(value: Any, batch: int | None, count: int) -> Any:
    return value[:count] if isinstance(value, Tensor) and value.ndim and value.shape[0] == batch else value


def _leaves(args: Any, kwargs: Any) -> list[Any]:
    return pytree.tree_leaves((_fresh(args), _fresh(kwargs)))


def _fresh(tree: Any) -> Any:
    """Clones inputs, in double precision: a network may write into them."""
    return pytree.tree_map(lambda v: double(v).clone() if isinstance(v, Tensor) else v, tree)


def _cloned(tree: Any) -> Any:
    """Clones inputs as they are."""
    return pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, tree)


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]


def _without_double(module: nn.Module) -> bool:
    return any(t.device.type == "mps" for _, t in _named(module))


def _short_of_memory(model: nn.Module) -> bool:
    """Whether all weights at once in double precision would fill the memory that is left (Linux tells)."""
    info = Path("/proc/meminfo")
    with contextlib.suppress(OSError, ValueError, StopIteration):
        line = next(x for x in info.read_text().splitlines() if x.startswith("MemAvailable"))
        return 8 * sum(p.numel() for p in model.parameters()) > int(line.split()[1]) * 1024 // 2
    return False


def _where(node: Node) -> str:
    return f"{node.target} ({node.name}) in module {module_of(node) or '(top level)'!r}"


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
