"""Verification: the pruned network against the masked dense one, on every cut.

Rounding in double precision is 1e-14 and mistakes are 1e-6 and more, so the decision is made there, and relative to
what the *input* moves in an output: a constant part that drowns it does not count.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError, SecateurError, VerificationError, first_line
from secateur.core.plan import Scaled
from secateur.core.types import Verification
from secateur.graph.calling import cloned, plain_outputs, preserved_rng
from secateur.graph.chance import seeded
from secateur.graph.copies import copy_network, deep_copy, running_copy
from secateur.graph.flow import module_of
from secateur.graph.free import other_sizes
from secateur.graph.groups import Groups
from secateur.graph.guard import GUARD
from secateur.graph.labels import Labels
from secateur.graph.outside import undisturbed
from secateur.surgery.agreement import NEAR, TOLERANCE, Called, Output, aligned, apart, compare, compare_shapes, unsound
from secateur.surgery.dense import Dense, Removed, fresh_one, named_tensors, run
from secateur.surgery.factors import scale_entries
from secateur.surgery.graph import new_indices, slice_tensor
from secateur.surgery.inputs import (
    all_floating,
    beside,
    first_samples,
    fresh,
    halves_exchanged,
    moved_inputs,
    one_sample,
    smaller_images,
    telling_inputs,
    tensors,
)
from secateur.surgery.lifted import Draws, Lifted, Unlike, Watched, double
from secateur.surgery.pruned_graph import eval_graph
from secateur.surgery.reference import OtherShape
from secateur.surgery.sharpen import Sharpening, moved_by_rounding

__all__ = ["verify"]

Mask = NDArray[np.bool_]

Keep = Mapping[str, Mapping[int, Sequence[int]]]


def verify(
    pruned: nn.Module, groups: Groups, label_keep: Mask, keep: Keep, *,
    scaled: Mapping[str, Sequence[Scaled]] | None = None, removed: Removed | None = None,
    dense: nn.Module | None = None, known: dict[str, Dense] | None = None,
    free: Callable[[], object] | None = None, elsewhere: bool = False,
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
        scaled: Entries of tensors that were multiplied, to make up for a factor that the pruned network computes from
            a size.
        removed: Operators of the dense graph, each with the one that stands for it: sums, with the skips of residual
            branches that were removed; results of elements of lists that were removed, with what these take.
        dense: The dense network itself, which the traced graph is compared with as well; a pruned *graph* is only
            right if the graph was.
        known: What earlier calls for the same cut have worked out; further calls find it there.
        free: Makes the dense graph take other heights and widths, where it can: called where smaller ones fail.
        elsewhere: Whether the network is compared at other lengths, heights and widths too, where the dense graph takes
            them; graphs always are.

    Returns:
        The proof; ``proven`` is false where nothing moves an output that the cut reaches.

    Raises:
        VerificationError: The outputs differ by more, or are NaN; names the first operator that does.
        InputError: The dense network itself gives NaN or infinity on the inputs.
    """
    views = groups.flow.views if not isinstance(pruned, GraphModule) else groups.flow.views[:1]
    with preserved_rng(*tensors((groups.flow.traced.args, groups.flow.traced.kwargs))), torch.no_grad():
        sides = {} if known is None else known
        for view in views:
            sides.setdefault(view.name, Dense(view, groups, label_keep, removed))
        if elsewhere and free is not None:
            free()
        trials = [_Trial(pruned, sides[view.name], keep, free, scaled or {}, elsewhere) for view in views]
        _same_weights(pruned, trials[0])
        if dense is not None:
            trials[0].check_graph(dense)
        if not trials[0].traced.training:  # a batch of one may be too small there
            trials[0].check_native()
        found = [trial.decide() for trial in trials]
    unproven = tuple(name for trial in found for name in trial.unproven)
    return Verification(
        max(f.error for f in found), TOLERANCE, "float64", sum(f.outputs for f in found), not unproven, unproven
    )


# ------------------------------------------------------------------------------------------------------- one run


@dataclass(frozen=True)
class _Found:
    """What the runs of one trial found."""

    error: float
    outputs: int
    unproven: tuple[str, ...]


class _Trial:
    """The two networks on one way through them (forward, train mode, another method)."""

    def __init__(
        self, pruned: nn.Module, side: Dense, keep: Keep, free: Callable[[], object] | None,
        scaled: Mapping[str, Sequence[Scaled]], elsewhere: bool,
    ) -> None:  # fmt: skip
        self.elsewhere = elsewhere or isinstance(pruned, GraphModule)
        self.pruned, self.side, self.keep, self.free, self.scaled = pruned, side, keep, free, scaled
        self.traced, self.groups, self.dense, self.own = side.traced, side.groups, side.graph, side.own
        self.joined = self.soft = False
        self.calls: list[Called] = []

    def decide(self) -> _Found:
        """Runs on the user's weights and inputs, and again sharpened."""
        try:
            return self._decide()
        except torch.OutOfMemoryError:
            self.side.retreat()
            return self._decide()

    def _decide(self) -> _Found:
        for small in smaller_images(self.traced) if self._goes_the_recorded_way() else ():
            for again in (False, True):
                try:
                    found = self._at_smaller(*small)
                    if not found.unproven:
                        return found
                except Exception:  # it depends on the size of the image, or is wrong: the full size says so
                    if not again and self._freed():
                        continue
                break
        return self._at_own()

    def _freed(self) -> bool:
        """Whether the dense graph takes other heights and widths now, and did not before."""
        before, free, self.free = self.traced.sizes, self.free, None
        if free is not None and self.traced is self.groups.flow.traced:
            free()
        return self.traced.sizes is not before

    def _at_smaller(self, args: Any, kwargs: Any) -> _Found:
        """Runs on smaller images, and on others beside them in the same batch.

        Every operator of the dense graph, which was recorded at the full size, is run, and the pruned network has to
        call the same operators in the same order, here and at the full size (:meth:`_goes_the_recorded_way`).
        """
        self.joined = True
        try:
            plain = self._run(args, kwargs, sharp=False) or []
            sharp = self._run(*telling_inputs((first_samples(args), first_samples(kwargs))), sharp=True)
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
        self._elsewhere()
        whole = self.traced.training or not all_floating(self.own)  # one sample of tokens may have nothing masked
        one = self.own if whole else one_sample(self.traced, *self.own)
        try:
            sharp = self._run(*telling_inputs(one), sharp=True)
        except (SecateurError, Unlike):
            raise
        except (
            Exception
        ):  # one sample is too little for it (statistics of a batch), or what was traced is another batch
            sharp = self._run(*telling_inputs(self.own), sharp=True)
        return self._found(plain, sharp)

    def _elsewhere(self) -> None:
        """What takes other lengths, heights and widths is right at one of them too."""
        for args, kwargs in other_sizes(self.traced) if self.elsewhere else ():
            try:
                self._run(args, kwargs, sharp=False)
                return
            except InputError:  # sizes that it does not take
                continue
            except OtherShape as reason:
                if isinstance(self.pruned, GraphModule) and self._runs(args, kwargs):
                    raise VerificationError(f"It takes sizes at which nothing can be proven: {reason}.") from reason

    def _runs(self, args: Any, kwargs: Any) -> bool:
        try:
            args, kwargs = self._at_home((args, kwargs))
            self._pruned(args, kwargs, {}, Draws(), None)
        except Exception:  # an operator does not take them
            return False
        return True

    def _found(self, plain: list[Output], sharp: list[Output] | None) -> _Found:
        touched = _touched(self.side)
        names = [
            f"output {i} of {self.traced.name}"
            for i, (a, b) in enumerate(zip(plain, sharp or plain, strict=True))
            if touched[i] and not a.moved and not (b.moved and sharp is not None)
        ]
        every = [*plain, *(sharp or ())]
        errors = [o.error for o in every if o.moved] or [o.error for o in every]
        return _Found(max(errors, default=0.0), len(plain), tuple(names))

    def _run(self, args: Any, kwargs: Any, *, sharp: bool) -> list[Output] | None:
        """Compares on one set of inputs; ``None`` where sharpened weights give the dense network no finite result."""
        args, kwargs = self._at_home((args, kwargs))
        moved_args, moved_kwargs = moved_inputs((args, kwargs))
        if self.joined:
            args, kwargs = beside((args, kwargs), (moved_args, moved_kwargs))
        found = self.side.wanted(args, kwargs, sharp=sharp)
        want, draws, sharpening = found.outputs, found.draws, self.side.sharpened if sharp else {}
        if sharp and any(unsound(w) for w in want):
            return None
        self._check_finite(want, args, kwargs)
        calls: list[Called] = []
        self.soft = sharp
        got = self._pruned(args, kwargs, sharpening, draws, None if sharp else calls)
        if draws.taken != len(draws.drawn):
            raise Unlike(f"it draws {draws.taken} random numbers, the dense network {len(draws.drawn)}")
        if not sharp:
            compare_shapes(found.shapes, calls, strict=self.joined)
        other = halves_exchanged(got) if self.joined else self._pruned(
            moved_args, moved_kwargs, sharpening, draws, None)  # fmt: skip
        outputs = self._compared(got, want, other)
        if not all(o.right for o in outputs):
            rounded = self._pruned(args, kwargs, sharpening, draws, None, rounded=True)
            outputs = self._compared(got, want, other, rounded)
        wrong = [o.error for o in outputs if not o.right]
        if wrong:
            where = self._first_difference(args, kwargs, sharp=sharp)
            raise VerificationError(
                f"The pruned network differs from the masked dense one by {max(wrong):.2e} of what the input moves "
                f"(accepted {TOLERANCE:.0e}){' with sharpened weights' if sharp else ''}{where}."
            )
        return outputs

    def _compared(
        self, got: list[Tensor], want: list[Tensor], other: list[Tensor], rounded: list[Tensor] | None = None
    ) -> list[Output]:
        shapes = [[tuple(t.shape) for t in several] for several in (got, want)]
        if shapes[0] != shapes[1]:
            raise VerificationError(f"The pruned network gives results of shapes {shapes[0]} for {shapes[1]}.")
        alike = [t.shape for t in other] == [t.shape for t in got]
        noisy: Sequence[Tensor | None] = rounded or [None] * len(got)
        together = zip(got, want, other if alike else got, noisy, strict=True)
        return [compare(g, w, o, rounded=r) for g, w, o, r in together]

    def _pruned(
        self, args: Any, kwargs: Any, sharpening: Mapping[str, Sharpening], draws: Draws,
        calls: list[Called] | None, *, rounded: bool = False,
    ) -> list[Tensor]:  # fmt: skip
        """Outputs of the pruned network; a copy of it runs, because a network may keep or change what it likes."""

        def value(name: str, tensor: Tensor) -> Tensor:
            if name in self.scaled:  # multiplied in double precision, or else its rounding would be seen
                return scale_entries(grown(name, self.part(name)), self.scaled[name])
            if name not in sharpening and tensor.ndim > 1 and short and not rounded:
                return tensor.to(self.side.home or tensor.device)
            return moved_by_rounding(name, grown(name, tensor)) if rounded else grown(name, tensor)

        def grown(name: str, tensor: Tensor) -> Tensor:
            how, tensor = sharpening.get(name), tensor.to(self.side.home or tensor.device)
            return double(tensor) if how is None else how.applied(tensor, self.keep.get(name))

        short = _short_of_memory(self.pruned)
        graph = self.pruned
        if isinstance(graph, GraphModule) and not self.side.written and not self.traced.training:
            return self._called(lambda: _GraphRun(graph, value, self.joined), args, kwargs, draws, calls)
        return self._called(lambda: self.traced.enter(_with_tensors(self.pruned, value)), args, kwargs, draws, calls)

    def _called(
        self, make: Callable[[], Callable[..., Any]], args: Any, kwargs: Any, draws: Draws,
        calls: list[Called] | None, owner: nn.Module | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """Outputs of what ``make`` gives; inference mode lets operators be seen whole, where it can."""

        def seen(name: str, result: Any) -> None:
            if calls is not None:
                calls.append((name, tuple(result.shape) if isinstance(result, Tensor) else None))

        for context in (torch.inference_mode, torch.no_grad):
            draws.taken = 0
            if self.traced.training:
                seeded()
            if calls is not None:
                calls.clear()
            try:
                with context(), undisturbed(self.pruned if owner is None else owner):
                    twin = make()
                    with Lifted(draws, again=True, seen=seen, soft=self.soft):
                        return self._compared_ones(twin(*fresh(args), **fresh(kwargs)))
            except RuntimeError as error:
                if context is torch.no_grad or "nference" not in str(error):
                    raise
        raise AssertionError("unreachable")

    def _compared_ones(self, results: Any) -> list[Tensor]:
        """Results that are compared: where layers go, caches hold fewer."""
        state: list[Tensor] = []
        found = tensors(plain_outputs(results, None, state))
        return [t for t in found if all(t is not one for one in state)] if self.side.removed else found

    def part(self, name: str) -> Tensor:
        """What the plan keeps of a dense tensor."""
        tensor = next(t for n, t in named_tensors(self.dense) if n == name)
        return slice_tensor(tensor, self.keep[name]) if name in self.keep else tensor.detach()

    def _at_home(self, tree: Any) -> Any:
        home = self.side.home
        return tree if home is None else pytree.tree_map(lambda v: v.to(home) if isinstance(v, Tensor) else v, tree)

    # ------------------------------------------------------------------------------------------------- the checks

    def check_native(self) -> None:
        """The pruned network takes the user's own batch, in its own precision."""
        twin = (deep_copy if self.side.written else running_copy)(self.pruned).eval()
        got = self._natively(twin)
        for i, value in enumerate(got):
            if value.is_floating_point() and bool(value.isnan().any()):
                self._explain(i, f"NaN in output {i} of the pruned network")

    def _natively(self, twin: nn.Module) -> list[Tensor]:
        args, kwargs = cloned(self.traced.given)
        try:
            with torch.inference_mode(), undisturbed(twin), Watched() as watched:
                found = tensors(plain_outputs(twin(*args, **kwargs)))
        except RuntimeError as error:
            if "nference" not in str(error):
                raise
            args, kwargs = cloned(self.traced.given)
            with undisturbed(twin):
                return tensors(plain_outputs(twin(*args, **kwargs)))
        self.calls = watched.calls
        return found

    def _goes_the_recorded_way(self) -> bool:
        """Whether the pruned network calls the recorded operators on the user's own inputs, with results of the sizes
        that the plan says (at another batch, with as many times the entries)."""
        found = aligned(self.side.recorded(), self.calls)
        batch, given = self.traced.batch, self.traced.given_batch or 1
        return found is not None and all(
            want is None or got is None or want == got or math.prod(got) * batch == math.prod(want) * given
            for _, want, got in found
        )

    def check_graph(self, dense: nn.Module) -> None:
        """The traced graph computes what the network itself computes.

        Raises:
            VerificationError: It does not: its forward depends on something that was fixed while it was traced.
        """
        if not self.traced.training and self._same_natively(dense):
            return
        args, kwargs = self._at_home(self.own)
        want, draws = self.side.whole(args, kwargs)

        def value(name: str, tensor: Tensor) -> Tensor:
            return double(tensor.to(self.side.home or tensor.device))  # type: ignore[no-any-return]

        got = self._called(lambda: self.traced.enter(_with_tensors(dense, value)), args, kwargs, draws, None, dense)
        worst = max(map(apart, got, want), default=0.0) if len(got) == len(want) else math.inf
        if not worst <= TOLERANCE:
            raise VerificationError(
                f"The traced graph differs from the network itself by {worst:.1e} on the example inputs, so a pruned "
                "graph would be wrong: forward depends on something that was fixed while it was traced (numbers that "
                "Python or NumPy draw, the size of the batch, the time)."
            )

    def _same_natively(self, dense: nn.Module) -> bool:
        """Whether graph and network agree as they are; autocast and fast paths make a closer look necessary."""
        args, kwargs = self.own
        graph = deep_copy(self.dense) if self.side.written else self.dense
        assert isinstance(graph, GraphModule)
        torch.manual_seed(0)
        leaves = pytree.tree_leaves(cloned((args, kwargs)))
        want = tensors(Interpreter(graph).run(*leaves, enable_io_processing=False))
        torch.manual_seed(0)
        twin = (deep_copy if self.side.written else running_copy)(dense).eval()
        with undisturbed(dense):
            got = tensors(plain_outputs(twin(*cloned(args), **cloned(kwargs))))
        return len(got) == len(want) and all(apart(g, w) <= NEAR for g, w in zip(got, want, strict=True))

    def _check_finite(self, want: list[Tensor], args: Any, kwargs: Any) -> None:
        for i, value in enumerate(want):
            if unsound(value):
                what = "NaN" if bool(value.isnan().any()) else "infinity"
                self._explain(i, f"{what} in output {i} of the masked dense network")

    def _explain(self, number: int, what: str) -> None:
        """NaN or infinity: the network's own fault, or the cut's."""
        args, kwargs = self._at_home(self.own)
        results, _ = self.side.whole(args, kwargs)
        if number < len(results) and unsound(results[number]):
            raise InputError(
                f"The network itself gives NaN or infinity on the example inputs (example_inputs), in output {number}: "
                "nothing can be proven. Give inputs on which it computes numbers."
            )
        raise VerificationError(
            f"The cut leaves {what}{self._first_unsound(args, kwargs)}: an operator has too little left to compute "
            "with (a standard deviation of one entry, say). Keep more units there (min_units=2, ignore=…)."
        )

    def _first_unsound(self, args: Any, kwargs: Any) -> str:
        masked = self.side.masked()
        masked.garbage_collect_values = False
        run(masked, Draws(), args, kwargs)
        for node, value in masked.env.items():
            if node.op == "call_function" and isinstance(value, Tensor) and bool(value.isnan().any()):
                return f", first at {_where(node)}"
        return ""

    def _first_difference(self, args: Any, kwargs: Any, *, sharp: bool) -> str:
        """Names the first operator whose kept entries differ; empty where the graphs cannot be aligned."""
        if not isinstance(self.pruned, GraphModule) or self.traced.training:
            return ""
        draws, masked = Draws(), self.side.masked(sharp=sharp)
        seen: dict[Node, Any] = {}
        plain = masked.run_node

        def kept(n: Node) -> Any:  # a copy: an operator behind it may write into it
            value = plain(n)
            seen[n] = value.clone() if isinstance(value, Tensor) else value
            return value

        masked.run_node = kept  # type: ignore[method-assign]
        run(masked, draws, args, kwargs)
        sharpening = self.side.sharpened if sharp else {}
        sliced = {
            n: how.applied(t, self.keep.get(n))
            for n, t in named_tensors(self.pruned)
            if (how := sharpening.get(n)) is not None
        }
        recorder = _GraphRun(self.pruned, lambda name, tensor: sliced.get(name, tensor), keep=True)
        try:
            with torch.inference_mode(), Lifted(draws, again=True, soft=sharp):
                recorder(*fresh(args), **fresh(kwargs))
        except Exception as error:
            return f", its graph fails with {type(error).__name__}: {first_line(error)}"
        for node, value in seen.items():
            if self._differs(node, value, recorder.seen.get(node.name)):
                return f", first at {_where(node)}"
        return ""

    def _differs(self, node: Node, value: Any, got: Any) -> bool:
        labels = self.groups.flow.labels.get(node)
        if not (isinstance(value, Tensor) and isinstance(got, Tensor) and isinstance(labels, Labels)):
            return False
        for dim, mask in self.groups.masks(labels, self.side.label_keep).items():
            value = value.index_select(dim, torch.as_tensor(np.flatnonzero(mask), device=value.device))
        return got.shape != value.shape or apart(double(got), double(value)) > TOLERANCE


# ------------------------------------------------------------------------------------------------------- weights


def _same_weights(pruned: nn.Module, trial: _Trial) -> None:
    """Every tensor of the pruned network is exactly the part of the dense one that the plan names."""
    keep = trial.keep
    dense = dict(named_tensors(trial.dense))
    renumbered = new_indices(trial.groups, trial.side.label_keep)
    for name, small in named_tensors(pruned):
        if name not in dense or small.device.type == "meta" or name in renumbered:
            continue
        want = slice_tensor(dense[name], keep.get(name, {})) if name in keep else dense[name].detach()
        want = scale_entries(want, trial.scaled[name]) if name in trial.scaled else want
        if small.shape != want.shape or not torch.equal(small.detach(), want):
            raise VerificationError(f"The tensor {name!r} of the pruned network is not the part that the plan keeps.")


def _with_tensors(model: nn.Module, value: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """A copy of ``model`` with other tensors under the same names; everything else is in double precision."""
    made: dict[int, Tensor] = {}
    for name, tensor in named_tensors(model):
        if id(tensor) not in made:
            made[id(tensor)] = fresh_one(value(name, tensor), tensor)
    return copy_network(model, made, lambda t: fresh_one(double(t), t))


def _touched(side: Dense) -> list[bool]:
    """Which outputs depend on something that was cut."""
    graph, groups, label_keep, removed = side.graph, side.groups, side.label_keep, side.removed
    reached: dict[Node, bool] = {}
    for node in graph.graph.nodes:
        labels = groups.flow.labels.get(node)
        cut = isinstance(labels, Labels) and bool(groups.masks(labels, label_keep))
        reached[node] = cut or node in removed or any(reached[n] for n in node.all_input_nodes)
        if node.op == "output":
            leaves = pytree.tree_leaves(node.args[0])
            return [reached[n] for n in leaves if isinstance(n, Node) and isinstance(n.meta.get("val"), Tensor)]
    return []


def _short_of_memory(model: nn.Module) -> bool:
    """Whether all weights at once in double precision would fill the memory that is left (Linux tells)."""
    info = Path("/proc/meminfo")
    with contextlib.suppress(OSError, ValueError, StopIteration):
        line = next(x for x in info.read_text().splitlines() if x.startswith("MemAvailable"))
        return 8 * sum(p.numel() for p in model.parameters()) > int(line.split()[1]) * 1024 // 2
    return False


def _where(node: Node) -> str:
    return f"{node.target} ({node.name}) in module {module_of(node) or '(top level)'!r}"


class _GraphRun(Interpreter):
    """Runs a graph in eval mode with other tensors in it, made where they are first used; no code is written for it."""

    def __init__(
        self, graph: GraphModule, weight: Callable[[str, Tensor], Tensor], any_size: bool = False, keep: bool = False
    ) -> None:
        super().__init__(graph, graph=eval_graph(graph))
        self.seen: dict[str, Any] = {}
        self._weight, self._any_size, self._keep = weight, any_size, keep

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*pytree.tree_leaves((args, kwargs)), enable_io_processing=False)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A layer with other tensors."""
        layer = self.fetch_attr(target)
        return _with_tensors(layer, lambda n, t: self._weight(f"{target}.{n}", t)).eval()(*args, **kwargs)

    def run_node(self, n: Node) -> Any:
        if self._any_size and n.op == "call_module" and n.target == GUARD:
            return None
        value = super().run_node(n)
        if n.op == "get_attr" and isinstance(value, Tensor):
            value = fresh_one(self._weight(str(n.target), value), value)
        if self._keep:
            self.seen[n.name] = value.clone() if isinstance(value, Tensor) else value
        return value
