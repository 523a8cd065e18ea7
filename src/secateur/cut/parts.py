"""Parts of a network, traced and cut by themselves: for networks that cannot be traced whole.

A part is called with what it gets in the network. Its inputs and outputs keep their sizes, so the code around it need
not be known. The proof of a part says that it computes what its masked dense self computes; the proof in place says
that the network reads nothing else of it: with the pruned part's forward in the dense part's shell it gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from secateur.core.checks import check_network
from secateur.core.errors import BudgetError, InputError, PlanError, TraceError
from secateur.core.plan import Place, Plan, forget, remember, remembered
from secateur.core.types import Counts, ExampleInputs, Verification
from secateur.core.weights_print import weights_print
from secateur.cut.part_calls import as_inputs, inputs_of
from secateur.cut.part_proof import Again, prove_in_place, prove_other_calls
from secateur.cut.pruned import WEIGHTS_PRINT, Cut, Pruned
from secateur.graph.copies import deep_copy
from secateur.surgery.building import has_configuration

__all__ = ["check_alone", "cut_parts", "plan_inside"]

Cutting = Callable[[str, nn.Module, ExampleInputs], Pruned]
"""Cuts a part: its name, the part, and what it is called with."""


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
        done[path] = _named_where(path, lambda: cut(path, part, as_inputs(part, path, calls[path][0])))  # noqa: B023
        _refuse_shared(model, path, done[path].plan)
    small = deep_copy(model)
    for path, pruned in done.items():
        _replace(model, small, path, pruned.model)
    left: tuple[str, ...] = ()
    if check:
        prove_in_place(model, small, inputs, done)
        for path in paths:
            left += prove_other_calls(model.get_submodule(path), path, done[path], calls[path], again)
    plan = _plan_of(model, done)
    earlier = remembered(model)
    remember(small, plan if earlier is None else plan.after(earlier))
    for pruned in done.values():
        forget(pruned.model)
    return _result(model, small, inputs, done, first, left)


def _named_where(path: str, cut: Callable[[], Pruned]) -> Pruned:
    """A cut whose errors say which part they are about."""
    try:
        return cut()
    except (BudgetError, TraceError) as error:
        raise type(error)(f"Of the part {path!r}: {error}") from error


def _replace(model: nn.Module, small: nn.Module, path: str, part: nn.Module) -> None:
    """Puts a part in its place, under every name that it has."""
    for name in _names(model, path):
        small.set_submodule(name, part)


def _names(model: nn.Module, path: str) -> list[str]:
    """All names of a submodule."""
    part = model.get_submodule(path)
    return [name for name, module in model.named_modules(remove_duplicate=False) if module is part]


def _refuse_shared(model: nn.Module, path: str, plan: Plan) -> None:
    """What the cut changes must not hang elsewhere in the network too, be it a tensor or a module that holds it."""
    part, own = model.get_submodule(path), tuple(f"{name}." for name in _names(model, path))
    outside: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if not f"{name}.".startswith(own):
            held = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
            outside |= {id(tensor): f"{name}.{leaf}".lstrip(".") for leaf, tensor in held}
    for name, tensor in (*part.named_parameters(remove_duplicate=False), *part.named_buffers(remove_duplicate=False)):
        if name in plan.keep and id(tensor) in outside:
            raise InputError(
                f"The cut of the part {path!r} would change {path}.{name}, which is {outside[id(tensor)]} outside of "
                f"it as well. Choose a part that holds both, or leave it whole (ignore=[{path + '.' + name!r}])."
            )


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


def check_alone(model: nn.Module, plan: Plan) -> None:
    """Checks that a plan's parts are there, and that it cuts nothing outside of them.

    Raises:
        PlanError: It was made for another network, or changed by hand.
    """
    known = dict(model.named_modules(remove_duplicate=False))
    for path in plan.alone:
        if path not in known:
            raise PlanError(f"The plan cuts the submodule {path!r} by itself, which this network does not have.")
    inside = tuple(f"{name}." for path in plan.alone for name in _names(model, path))
    wrong = next((name for name in plan.keep if not name.startswith(inside)), None)
    if wrong is not None or len(set(plan.alone)) < len(plan.alone):
        raise PlanError(f"The plan cuts {wrong or plan.alone[0]!r} outside of the parts {', '.join(plan.alone)}.")


def _plan_of(model: nn.Module, done: Mapping[str, Pruned]) -> Plan:
    """One plan of the network; a part that became a graph is an island in it."""
    found: dict[str, dict[Any, Any]] = {n: {} for n in ("keep", "dense_shapes", "indices", "numbers", "scaled")}
    islands, provenance = list[str](), dict[str, Any]()
    for path, pruned in done.items():
        plan = pruned.plan
        for called in _names(model, path):
            for name in ("keep", "dense_shapes", "indices", "scaled"):
                found[name] |= {f"{called}.{n}": value for n, value in getattr(plan, name).items()}
        found["numbers"] |= {
            Place(f"{path}.{place.module}".rstrip("."), place.steps): number for place, number in plan.numbers.items()
        }
        islands += [path] if pruned.backend == "graph" else [f"{path}.{n}" for n in plan.islands]
        provenance = {**provenance, **plan.provenance}
    provenance[WEIGHTS_PRINT] = weights_print(model)
    keep, shapes = found.pop("keep"), found.pop("dense_shapes")
    return Plan(keep, shapes, provenance, islands=tuple(islands), alone=tuple(done), **found)  # type: ignore[arg-type]


def _result(
    model: nn.Module, small: nn.Module, inputs: ExampleInputs, done: Mapping[str, Pruned], first: nn.Module | None,
    left: tuple[str, ...],
) -> Pruned:  # fmt: skip
    notes = [f"{path}: {note}" for path, pruned in done.items() for note in pruned.notes]
    notes.append(f"multiply-accumulates are those of {', '.join(done)}: the network around is not traced")
    islands = [path for path, pruned in done.items() if pruned.backend == "graph"]
    notes += [f"NOT PROVEN: {name}" for name in left]
    notes += [f"graphs in the place of submodules whose code does not fit: {', '.join(islands)}"] * bool(islands)
    groups = tuple(_named(path, one) for path, pruned in done.items() for one in pruned.groups)
    pinned = tuple(replace(u, module=f"{path}.{u.module}".rstrip(".")) for path, p in done.items()
                   for u in p.unsupported)  # fmt: skip
    before, after = (_counts(network, {p: getattr(d, when) for p, d in done.items()})
                     for network, when in ((model, "before"), (small, "after")))  # fmt: skip
    proof = _together([p.verification for p in done.values()], left)
    lost = dict.fromkeys(
        what for p in done.values() for what in p.lost if what != "class"
    )  # an island keeps the whole's
    if has_configuration(model) and "" not in done:
        lost["configuration"] = None
        notes.append("the configuration of the whole knows nothing of the cuts inside: small.save(folder) keeps them")
    return Pruned(
        small, "module", proof, before, after, groups, pinned, tuple(notes), inputs, first, tuple(lost), model
    )


def _named(path: str, one: Cut) -> Cut:
    group = one.group
    members = tuple(replace(m, parameter=f"{path}.{m.parameter}") for m in group.members)
    named = replace(group, name=f"{path}.{group.name}", members=members, block=f"{path}.{group.block}".rstrip("."),
                    producers=tuple(f"{path}.{n}" for n in group.producers))  # fmt: skip
    return replace(one, group=named)


def _counts(network: nn.Module, parts: Mapping[str, Counts]) -> Counts:
    layers = tuple(replace(n, name=f"{path}.{n.name}") for path, c in parts.items() for n in c.layers)
    return Counts(sum(p.numel() for p in network.parameters()), sum(c.macs for c in parts.values()), layers)


def _together(proofs: Sequence[Verification | None], left: tuple[str, ...]) -> Verification | None:
    """One proof of all parts: the worst of them."""
    found = [proof for proof in proofs if proof is not None]
    if len(found) < len(proofs):
        return None
    worst = max(found, key=lambda proof: proof.max_relative_error)
    unproven = (*(name for proof in found for name in proof.unproven), *left)
    return replace(worst, outputs=sum(p.outputs for p in found), proven=not unproven, unproven=unproven)  # fmt: skip
