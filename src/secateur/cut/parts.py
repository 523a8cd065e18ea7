"""Parts of a network, traced and cut by themselves: for networks that cannot be traced whole.

A part is called with what it gets in the network. Its inputs and outputs keep their sizes, so the code around it need
not be known. The proof of a part says that it computes what its masked dense self computes; the proof in place says
that the network reads nothing else of it: with the pruned part's forward in the dense part's shell it gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.core.checks import check_network
from secateur.core.errors import InputError, VerificationError, first_line
from secateur.core.plan import Place, Plan, forget, remember, remembered
from secateur.core.samples import Arguments
from secateur.core.types import Counts, ExampleInputs, Verification
from secateur.cut.part_calls import as_inputs, inputs_of
from secateur.cut.pruned import WEIGHTS_PRINT, Cut, Pruned, weights_print
from secateur.graph.calling import plain_outputs, preserved_rng, to_args
from secateur.graph.copies import deep_copy, shallow_copy
from secateur.graph.outside import undisturbed
from secateur.surgery.agreement import TOLERANCE, apart
from secateur.surgery.inputs import tensors
from secateur.surgery.lifted import double

__all__ = ["cut_parts", "plan_inside"]

Cutting = Callable[[str, nn.Module, ExampleInputs], Pruned]
"""Cuts a part: its name, the part, and what it is called with."""

Again = Callable[[nn.Module, Plan, ExampleInputs], Pruned]
"""Cuts a part once more, by a plan, for other inputs."""

SHAPES = 8
"""Calls with other shapes that are compared, at most."""


# ------------------------------------------------------------------------------------------------------ the cut


def cut_parts(
    model: nn.Module, inputs: ExampleInputs, paths: Sequence[str], cut: Cutting, again: Again, *, check: bool,
    first: nn.Module | None,
) -> Pruned:  # fmt: skip
    """Cuts some submodules, each by itself, and proves the result in place.

    Args:
        model: The network; left untouched.
        inputs: What it is called with.
        paths: Names of the parts.
        cut: Cuts one.
        again: Cuts one by a plan, for inputs of other shapes.
        check: Whether to prove the result in place.
        first: The network before its first cut.

    Returns:
        The network with smaller parts. Parameters are counted of all of it, multiply-accumulates of the parts.

    Raises:
        InputError: A part is not called, or a tensor that the cut would change is used outside of it too.
        VerificationError: The network reads something of a part that has changed.
    """
    check_network(model, inputs)
    calls = inputs_of(model, inputs, paths)
    done: dict[str, Pruned] = {}
    for path in paths:
        part = model.get_submodule(path)
        done[path] = cut(path, part, as_inputs(part, path, calls[path][0]))
        _refuse_shared(model, path, done[path].plan)
    small = deep_copy(model)
    for path, pruned in done.items():
        _replace(model, small, path, pruned.model)
    if check:
        _prove_in_place(model, small, inputs, done)
        for path in paths:
            _prove_other_shapes(model.get_submodule(path), path, done[path], calls[path], again)
    plan = _plan_of(model, done)
    earlier = remembered(model)
    remember(small, plan if earlier is None else plan.after(earlier))
    for pruned in done.values():
        forget(pruned.model)
    return _result(model, small, inputs, done, first)


def _replace(model: nn.Module, small: nn.Module, path: str, part: nn.Module) -> None:
    """Puts a part in its place, under every name that it has."""
    old = model.get_submodule(path)
    part.train(old.training)
    for name, module in model.named_modules(remove_duplicate=False):
        if module is old:
            small.set_submodule(name, part)


def _refuse_shared(model: nn.Module, path: str, plan: Plan) -> None:
    part = model.get_submodule(path)
    own = {id(m) for m in part.modules()}
    outside: dict[int, str] = {}
    for name, module in model.named_modules():
        if id(module) not in own:
            held = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
            outside |= {id(tensor): f"{name}.{leaf}".lstrip(".") for leaf, tensor in held}
    for name, tensor in (*part.named_parameters(remove_duplicate=False), *part.named_buffers(remove_duplicate=False)):
        if name in plan.keep and id(tensor) in outside:
            raise InputError(
                f"The cut of the part {path!r} would change {path}.{name}, which is {outside[id(tensor)]} outside of "
                f"it as well. Choose a part that holds both, or leave it whole (ignore=[{path + '.' + name!r}])."
            )


# ---------------------------------------------------------------------------------------------------- the proof


def _prove_in_place(model: nn.Module, small: nn.Module, inputs: ExampleInputs, done: Mapping[str, Pruned]) -> None:
    """The network reads nothing of its parts but what they give when they are called."""
    shell = shallow_copy(model).eval()
    for path, pruned in done.items():
        inner = shallow_copy(pruned.model).eval()
        object.__setattr__(shell.get_submodule(path), "forward", inner.forward)
    names = ", ".join(map(repr, done))
    want = _outputs(model, shell, inputs, f"With the pruned {names} in it the network does not run")
    got = _outputs(small, shallow_copy(small).eval(), inputs, f"With the pruned {names} in it the network does not run")
    worst = max(map(apart, got, want), default=0.0) if len(got) == len(want) else float("inf")
    if not worst <= NEAR:
        raise VerificationError(
            f"The network around {names} reads something of it that the cut changes (its results differ by "
            f"{worst:.1e}): a size in its attributes, say, or one of its layers by itself. Nothing was returned. "
            "Choose a part that holds what reads it."
        )


NEAR = 1e-5
"""Both run the same operators on the same numbers in the network's own precision."""


def _outputs(owner: nn.Module, twin: nn.Module, inputs: ExampleInputs, what: str) -> list[Tensor]:
    args, kwargs = to_args(pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, inputs))
    try:
        with preserved_rng(), torch.no_grad(), undisturbed(owner):
            torch.manual_seed(0)
            return tensors(plain_outputs(twin(*args, **kwargs)))
    except Exception as error:  # the network raises what it likes
        raise VerificationError(
            f"{what}: {type(error).__name__}: {first_line(error)}. Nothing was returned. If a part is called with "
            "several shapes that its graph does not take, choose a smaller part."
        ) from error


def _prove_other_shapes(part: nn.Module, path: str, pruned: Pruned, calls: Sequence[Arguments], again: Again) -> None:
    """A part that is called with several shapes is right for all of them: held up to the same plan, cut for each."""
    seen = {_shapes(calls[0])}
    for call in calls:
        if _shapes(call) in seen:
            continue
        seen.add(_shapes(call))
        if len(seen) > SHAPES + 1:
            return
        inputs = as_inputs(part, path, call)
        where = f"The part {path!r} is called with several shapes, and at {_shapes(call)}"
        try:
            other = again(part, pruned.plan, inputs)
        except Exception as error:
            raise VerificationError(f"{where} the plan cannot be proven: {first_line(error)}") from error
        exact = pytree.tree_map(lambda v: double(v) if isinstance(v, Tensor) else v, inputs)
        ours, theirs = (
            _outputs(network, deep_copy(network).double().eval(), exact, f"{where} it does not run")
            for network in (pruned.model, other.model)
        )
        if not max(map(apart, ours, theirs), default=0.0) <= TOLERANCE:
            raise VerificationError(f"{where} its results differ from the masked dense part. Nothing was returned.")


def _shapes(call: Arguments) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(t.shape) for t in pytree.tree_leaves(call) if isinstance(t, Tensor))


# ---------------------------------------------------------------------------------------------------- the result


def plan_inside(plan: Plan, path: str) -> Plan:
    """The plan of one part, by its own names; of a plan whose parts were cut by themselves."""
    start = f"{path}."

    def own(table: Mapping[str, Any]) -> dict[str, Any]:
        return {name.removeprefix(start): value for name, value in table.items() if name.startswith(start)}

    numbers = {
        Place(place.module.removeprefix(path).lstrip("."), place.steps): number
        for place, number in plan.numbers.items()
        if place.module == path or place.module.startswith(start)
    }
    islands = tuple(n.removeprefix(start) for n in plan.islands if n.startswith(start))
    return Plan(own(plan.keep), own(plan.dense_shapes), plan.provenance, indices=own(plan.indices), numbers=numbers,
                scaled=own(plan.scaled), islands=islands)  # fmt: skip


def _plan_of(model: nn.Module, done: Mapping[str, Pruned]) -> Plan:
    """One plan of the network; a part that became a graph is an island in it."""
    found: dict[str, dict[Any, Any]] = {n: {} for n in ("keep", "dense_shapes", "indices", "numbers", "scaled")}
    islands, provenance = list[str](), dict[str, Any]()
    for path, pruned in done.items():
        plan = pruned.plan
        for name in ("keep", "dense_shapes", "indices", "scaled"):
            found[name] |= {f"{path}.{n}": value for n, value in getattr(plan, name).items()}
        found["numbers"] |= {
            Place(f"{path}.{place.module}".rstrip("."), place.steps): number for place, number in plan.numbers.items()
        }
        islands += [path] if pruned.backend == "graph" else [f"{path}.{n}" for n in plan.islands]
        provenance = {**provenance, **plan.provenance}
    provenance[WEIGHTS_PRINT] = weights_print(model)
    keep, shapes = found.pop("keep"), found.pop("dense_shapes")
    return Plan(keep, shapes, provenance, islands=tuple(islands), alone=tuple(done), **found)  # type: ignore[arg-type]


def _result(
    model: nn.Module, small: nn.Module, inputs: ExampleInputs, done: Mapping[str, Pruned], first: nn.Module | None
) -> Pruned:  # fmt: skip
    notes = [f"{path}: {note}" for path, pruned in done.items() for note in pruned.notes]
    notes.append(f"multiply-accumulates are those of {', '.join(done)}: the network around is not traced")
    islands = [path for path, pruned in done.items() if pruned.backend == "graph"]
    notes += [f"graphs in the place of submodules whose code does not fit: {', '.join(islands)}"] * bool(islands)
    groups = tuple(_named(path, one) for path, pruned in done.items() for one in pruned.groups)
    pinned = tuple(replace(u, module=f"{path}.{u.module}".rstrip(".")) for path, p in done.items()
                   for u in p.unsupported)  # fmt: skip
    before, after = (_counts(network, {p: getattr(d, when) for p, d in done.items()})
                     for network, when in ((model, "before"), (small, "after")))  # fmt: skip
    return Pruned(small, "module", _together([p.verification for p in done.values()]), before, after, groups, pinned,
                  tuple(notes), inputs, first, (), model)  # fmt: skip


def _named(path: str, one: Cut) -> Cut:
    group = one.group
    members = tuple(replace(m, parameter=f"{path}.{m.parameter}") for m in group.members)
    named = replace(group, name=f"{path}.{group.name}", members=members, block=f"{path}.{group.block}".rstrip("."),
                    producers=tuple(f"{path}.{n}" for n in group.producers))  # fmt: skip
    return replace(one, group=named)


def _counts(network: nn.Module, parts: Mapping[str, Counts]) -> Counts:
    layers = tuple(replace(n, name=f"{path}.{n.name}") for path, c in parts.items() for n in c.layers)
    return Counts(sum(p.numel() for p in network.parameters()), sum(c.macs for c in parts.values()), layers)


def _together(proofs: Sequence[Verification | None]) -> Verification | None:
    """One proof of all parts: the worst of them."""
    found = [proof for proof in proofs if proof is not None]
    if len(found) < len(proofs):
        return None
    worst = max(found, key=lambda proof: proof.max_relative_error)
    unproven = tuple(name for proof in found for name in proof.unproven)
    return replace(worst, outputs=sum(p.outputs for p in found), proven=all(p.proven for p in found),
                   unproven=unproven)  # fmt: skip
