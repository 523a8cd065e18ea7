"""Facts about operators: every claim that numbers can check is checked, and so is every activation without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from secateur.graph.conformance import CLAIMS
from secateur.graph.ops import OPERATORS, Facts, Kind, facts_of
from secateur.graph.schema import bound

NUMBERS: dict[str, dict[str, Any]] = {
    "aten.clamp": {"min": 0},
    "aten.clip": {"min": 0},
    "aten.clamp_min": {"min": 0},
    "aten.clamp_max": {"max": 0.5},
    "aten.hardtanh": {"min_val": 0},
    "aten.threshold": {"threshold": 0.3, "value": 0},
    "aten.prelu": {"weight": torch.tensor([0.5, -0.1, 0.2], dtype=torch.float64)},
    "aten._prelu_kernel": {"weight": torch.tensor([0.5, -0.1, 0.2], dtype=torch.float64).reshape(3, 1, 1)},
    "aten.dropout": {"p": 0.5, "train": False},
    "aten.feature_dropout": {"p": 0.5, "train": False},
    "aten.alpha_dropout": {"p": 0.5, "train": False},
    "aten.feature_alpha_dropout": {"p": 0.5, "train": False},
    "aten.unsqueeze": {"dim": 1},
    "aten.unflatten": {"dim": 1, "sizes": [1, 3]},
    "aten.mean": {"dim": [-1]},
    "aten.expand_as": {"other": torch.zeros(4, 3, 6, 8)},
    "aten.type_as": {"other": torch.zeros(1, dtype=torch.float64)},
    **{f"aten.{name}": {"size": [4, 18, 8]} for name in ("view", "_unsafe_view")},
    **{f"aten.{name}": {"other": torch.zeros(4, 18, 8)} for name in ("view_as", "reshape_as")},
    "aten.reshape": {"shape": [4, 18, 8]},
}
"""Arguments, where the schema has no defaults; they are those with which an operator's claims hold."""

SAMPLE = torch.randn(4, 3, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2


def windows(name: str, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """A pool takes as many dimensions as its name says."""
    if "_pool" not in name:
        return x, {}
    count = int(name[name.index("_pool") + 5])
    x = {1: x.flatten(2), 2: x, 3: x.unflatten(-1, (4, 2))}[count]
    key = "output_size" if "adaptive" in name else "kernel_size"
    return x, {key: [2] * count}


def overload(name: str, given: dict[str, Any]) -> OpOverload | None:
    """The first form of an operator that takes a tensor and what is given."""
    library, _, rest = name.partition(".")
    packet = getattr(getattr(torch.ops, library), rest, None)
    for each in packet.overloads() if packet is not None else ():
        schema = getattr(packet, each)._schema
        types = {a.name: str(a.type) for a in schema.arguments}
        needed = {a.name for a in schema.arguments[1:] if not a.has_default_value()}
        plain = not schema.is_mutable and next(iter(types.values()), "") == "Tensor"
        fits = needed <= set(given) <= set(types)
        if plain and fits and all(isinstance(v, Tensor) == ("Tensor" in types[k]) for k, v in given.items()):
            return getattr(packet, each)  # type: ignore[no-any-return]
    return None


def function(name: str, **changed: Any) -> Callable[[Tensor], Tensor]:
    """The operator as a function of its first argument."""

    def run(x: Tensor) -> Tensor:
        x, own = windows(name, x)
        given = {**NUMBERS.get(name, {}), **own, **changed}
        form = overload(name, given)
        assert form is not None, f"test_facts.py does not know how to call {name}: add its arguments to NUMBERS"
        first = form._schema.arguments[0].name
        values = bound(form, (), {first: x, **given})
        args = [values[a.name] for a in form._schema.arguments if not a.kwarg_only and a.name in values]
        found = form(*args, **{a.name: values[a.name] for a in form._schema.arguments if a.kwarg_only})
        return found[0] if isinstance(found, (list, tuple)) else found  # type: ignore[no-any-return]

    return run


def exists(name: str) -> bool:
    """Whether it is one of PyTorch's that gives a new tensor (its in-place form has the same facts)."""
    return name.startswith("aten.") and not name.endswith("_") and hasattr(torch.ops.aten, name.removeprefix("aten."))


def cases(claim: str) -> Iterator[Any]:
    """Every operator with the claim, and every activation without it."""
    for name in OPERATORS:
        known = OPERATORS[name].facts
        if exists(name) and (getattr(known, claim) or known.kind is Kind.ACTIVATION):
            yield pytest.param(name, bool(getattr(known, claim)), id=name)


def agree(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-12, atol=1e-12, equal_nan=True)


def claims() -> Iterator[Any]:
    """What a user's operator is tried for too, see `secateur.check`."""
    for claim in CLAIMS:
        for case in cases(claim):
            yield pytest.param(claim, *case.values, id=f"{claim}-{case.id}")


@pytest.mark.parametrize(("claim", "name", "claimed"), claims())
def test_claims_that_a_plugin_is_tried_for(claim: str, name: str, claimed: bool) -> None:
    assert CLAIMS[claim](function(name), SAMPLE) is claimed


@pytest.mark.parametrize(("name", "claimed"), cases("keeps_mean"))
def test_keeps_mean(name: str, claimed: bool) -> None:
    """The same weight on every entry where windows tile; a dropout that is on, over many entries."""
    x = SAMPLE + torch.tensor([1.0, 5.0, -2.0], dtype=torch.float64).reshape(1, 3, 1, 1)
    if facts_of(name).kind is Kind.DROPOUT:
        x = x.repeat(2000, 1, 1, 1)
        torch.manual_seed(0)
        found = function(name, train=True)(x)
        assert (float((found.mean((0, 2, 3)) - x.mean((0, 2, 3))).abs().max()) < 0.15) is claimed
        return
    means = [t.transpose(0, 1).flatten(1).mean(1) for t in (function(name)(x), x)]
    assert agree(*means) is claimed


@pytest.mark.parametrize(("name", "claimed"), cases("keeps_constants"))
def test_keeps_constants(name: str, claimed: bool) -> None:
    """With padding too, where an operator has any."""
    constant = torch.tensor([1.5, -0.5, 3.0], dtype=torch.float64).reshape(1, 3, 1, 1).expand(2, 3, 6, 8)
    found = [function(name)(constant.contiguous())]
    if "_pool" in name and "adaptive" not in name:
        found.append(function(name, padding=[1] * int(name[name.index("_pool") + 5]))(constant.contiguous()))
    for each in found:
        want = constant[:, :, 0, 0].reshape(2, 3, *[1] * (each.ndim - 2)).expand(each.shape)
        assert agree(each, want) is claimed


def with_module() -> list[str]:
    return [n for n in OPERATORS if OPERATORS[n].facts.module is not None and exists(n)]


@pytest.mark.parametrize("name", with_module())
def test_module_computes_the_operator(name: str) -> None:
    known, numbers = facts_of(name), dict(NUMBERS.get(name, {}))
    if known.kind is Kind.DROPOUT:
        made = known.module(numbers["p"]).eval()  # type: ignore[misc]
    elif name == "aten.hardtanh":
        numbers["max_val"] = 2.0
        made = nn.Hardtanh(0, 2.0)
    else:
        made = known.module(*numbers.values())  # type: ignore[misc]
    assert torch.equal(function(name, **numbers)(SAMPLE), made(SAMPLE))


def test_every_activation_has_a_module_or_its_reason() -> None:
    without = {n for n in OPERATORS if (f := OPERATORS[n].facts).kind is Kind.ACTIVATION and f.module is None}
    assert without == {"aten.prelu", "aten._prelu_kernel", "aten.rrelu"}  # weights; slopes that are drawn


def on_one_tensor() -> list[str]:
    return [n for n in OPERATORS if exists(n) and overload(n, {**NUMBERS.get(n, {}), **windows(n, SAMPLE)[1]})]


@pytest.mark.parametrize("name", on_one_tensor())
def test_whose_memory_it_is_is_said_by_the_schema_or_by_the_facts(name: str) -> None:
    """Of every operator that can be called on one tensor."""
    x = SAMPLE.clone()
    form = overload(name, {**NUMBERS.get(name, {}), **windows(name, x)[1]})
    assert form is not None
    try:
        found = function(name)(x)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"it takes another kind of tensor: {error}")
    if not isinstance(found, Tensor):
        pytest.skip("it gives a number")
    shared = found.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    said = any(r.alias_info is not None for r in form._schema.returns)
    assert shared <= (said or facts_of(name).aliases)
    assert facts_of(name).aliases <= (shared and not said)


@pytest.mark.parametrize("name", [n for n in OPERATORS if OPERATORS[n].facts.writes])
def test_statistics_that_an_operator_writes_are_named(name: str) -> None:
    known = facts_of(name)
    form = getattr(torch.ops.aten, name.removeprefix("aten.")).default
    tensors = {"weight": torch.ones(3), "bias": torch.zeros(3), "running_mean": torch.zeros(3),
               "running_var": torch.ones(3)}  # fmt: skip
    rest = {"momentum": 0.5, "eps": 1e-5, "cudnn_enabled": False}
    for on in (False, True):
        own = {k: v.clone() for k, v in tensors.items()}
        call = {"input": SAMPLE.float(), **own, **rest, known.writes_if: on}
        form(**{a.name: call[a.name] for a in form._schema.arguments})
        changed = tuple(k for k in tensors if not torch.equal(own[k], tensors[k]))
        assert changed == (known.writes if on else ())


def test_claims_that_depend_on_an_argument_are_dropped_with_another_value() -> None:
    known = facts_of("aten.hardtanh")
    assert known.given({"min_val": 0}).makes_zeros
    assert not known.given({"min_val": -1}).makes_zeros
    assert function("aten.hardtanh", min_val=-1)(SAMPLE).count_nonzero() == SAMPLE.numel()
    assert facts_of("aten.convolution").given({"transposed": True}).kind is Kind.CONV_TRANSPOSE


def test_of_an_unknown_operator_nothing_is_claimed() -> None:
    assert facts_of("garden.swish") == Facts()
