"""Graphs are called as the network was: by place, by name in any order, with the defaults of its forward."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError
from secateur.graph.signature import call_like
from zoo import settle


class Called(nn.Module):
    """An argument of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(
        self, x: Tensor, both: dict[str, Tensor], scale: float = 1.0, mask: Tensor | None = None, *, shift: float = 0.5,
        name: str | None = None, other: Tensor | None = None, kind: torch.dtype = torch.float32,
    ) -> Tensor:  # fmt: skip
        h = self.a(x + both["one"] * both["two"]).relu() * scale
        h = h if mask is None else h * mask
        return self.b(h) + shift + (0 if other is None else other)  # type: ignore[no-any-return]


X, BOTH, MASK = torch.randn(3, 4), {"one": torch.randn(3, 4), "two": torch.randn(3, 4)}, torch.ones(3, 1) * 2


def small(inputs: Any, model: nn.Module | None = None) -> Any:
    torch.manual_seed(0)
    return secateur.prune(settle(model or Called()), inputs, ratio=0.5, backend="graph")


@pytest.fixture(scope="module")
def pruned() -> Any:
    return small({"both": BOTH, "x": X, "mask": MASK, "scale": 2.0})


def test_nested_inputs_are_recorded(pruned: Any) -> None:
    assert not any("torch.export" in note for note in pruned.notes)


def test_arguments_go_by_place_and_by_name_in_any_order(pruned: Any) -> None:
    network = pruned.model
    want = network(X, BOTH, 2.0, MASK)
    named = {"x": X, "both": BOTH, "scale": 2.0, "mask": MASK}
    for order in itertools.permutations(named):
        assert torch.equal(network(**{n: named[n] for n in order}), want)
    assert torch.equal(network(X, mask=MASK, scale=2.0, both={"two": BOTH["two"], "one": BOTH["one"]}), want)
    assert torch.equal(pruned(X, BOTH, 2.0, MASK, shift=0.5, name=None, other=None), want)


def test_the_signature_is_that_of_the_network(pruned: Any) -> None:
    ours, theirs = (inspect.signature(m.forward).parameters for m in (pruned.model, Called()))
    assert list(ours) == list(theirs)
    assert [p.default for n, p in ours.items() if n != "kind"][-5:] == [1.0, ..., 0.5, None, None]


@pytest.mark.parametrize(("args", "kwargs", "words"), [
    ((), {"both": BOTH, "scale": 2.0, "mask": MASK}, "argument x is missing"),
    ((X, BOTH, 2.0), {}, "argument mask is missing"),
    ((X, BOTH), {"mask": MASK}, r"traced with scale=2\.0, fixed in it; got 1\.0"),
    ((X, BOTH, 2.0, MASK), {"shift": 1.0}, r"traced with shift at its default 0\.5, fixed in it; got 1\.0"),
    ((X, BOTH, 2.0, MASK), {"shift": X}, r"shift at its default 0\.5, fixed in it; got a tensor of size \(3, 4\)"),
    ((X, BOTH, 2.0, MASK), {"other": X}, "traced with other at its default None"),
    ((X, BOTH, 2.0, MASK), {"kind": torch.float64}, "traced with kind at its default"),
    ((X, BOTH, 2.0, MASK), {"maske": MASK}, "no argument named 'maske'. Did you mean 'mask'"),
    ((X, BOTH, 2.0, MASK, 0.5), {}, "takes 4 positional arguments"),
    ((X, BOTH, 2.0, MASK), {"x": X}, "x is given twice"),
    ((X, BOTH, 2.0, None), {}, "traced with a tensor for mask; got None"),
    ((X, BOTH, X, MASK), {}, r"traced with scale=2\.0, fixed in it; got a tensor"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(pruned: Any, args: Any, kwargs: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        pruned.model(*args, **kwargs)


def test_values_that_were_the_default_may_be_left_out() -> None:
    network = small((X, BOTH, 1.0, None)).model
    assert torch.equal(network(X, BOTH), network(X, BOTH, 1.0, None, shift=0.5))
    with pytest.raises(InputError, match="traced with mask=None, fixed in it; got a tensor"):
        network(X, BOTH, 1.0, MASK)


class Spread(nn.Module):
    """Arguments without names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, /, *more: Tensor, scale: float = 1.0, **named: Tensor) -> Tensor:
        return self.b(self.a(x + sum(more) + named["last"]).relu()) * scale  # type: ignore[no-any-return]


def test_arguments_without_names_are_those_that_were_recorded() -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Spread()

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.inner(x, x, y, last=y)  # type: ignore[no-any-return]

    small((X, X + 1), Keywords())
    call = call_like(Spread().forward, (X, X, X), {"last": X})
    assert call is not None
    assert call.order == ("x", "more_0", "more_1", "last")
    assert call.values((1, 2, 3), {"last": 4, "scale": 1.0}) == [1, 2, 3, 4]
    assert str(call.signature) == "(self, x, more_0, more_1, /, *, scale=1.0, last)"
    assert call_like(Spread().forward, (), {}) is None


def test_calls_go_on_after_copies_files_and_a_further_cut(pruned: Any, tmp_path: Path) -> None:
    pruned.save(tmp_path)
    want = pruned.model(X, BOTH, 2.0, MASK)
    again = secateur.prune(pruned, {"x": X, "both": BOTH, "scale": 2.0, "mask": MASK}, ratio=0.5)
    for network in (copy.deepcopy(pruned.model), secateur.load(tmp_path).model, again.model):
        got = network(mask=MASK, x=X, scale=2.0, both=BOTH)
        assert network is again.model or torch.equal(got, want)
        assert str(inspect.signature(network.forward)) == str(inspect.signature(pruned.model.forward))
        with pytest.raises(InputError, match="shift at its default"):
            network(X, BOTH, 2.0, MASK, shift=1.0)


def test_compiled_exported_and_scripted_graphs_take_arguments_by_name(pruned: Any) -> None:
    network = pruned.model
    want = network(X, BOTH, 2.0, MASK)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    assert torch.equal(compiled(X, mask=MASK, scale=2.0, both=BOTH, name=None), want)
    exported = torch.export.export(network, (X,), {"both": BOTH, "scale": 2.0, "mask": MASK})
    assert torch.equal(exported.module()(X, both=BOTH, scale=2.0, mask=MASK), want)
    file = io.BytesIO()
    flat = small({"x": X, "both": BOTH, "mask": MASK}).model
    torch.jit.save(torch.jit.script(flat), file)
    file.seek(0)
    made = torch.jit.load(file)
    assert torch.allclose(made(mask=MASK, x=X, both_0=BOTH["one"], both_1=BOTH["two"]), flat(X, BOTH, mask=MASK))


def test_inputs_in_another_order_are_exported_and_saved(tmp_path: Path) -> None:
    inputs = {"mask": MASK, "both": BOTH, "x": X}
    pruned = small(inputs)
    secateur.export(pruned, path=tmp_path / "small.pt2")
    got = torch.export.load(tmp_path / "small.pt2").module()(x=X, both=BOTH, mask=MASK)
    assert torch.allclose(got, pruned.model(**inputs), atol=1e-6)
    module = secateur.prune(settle(Called()), inputs, ratio=0.5, backend="module")
    module.save(tmp_path, graph=True)
    assert torch.allclose(secateur.load(tmp_path).model(**inputs), module.model(**inputs), atol=1e-6)


def test_submodules_that_became_graphs_are_called_as_before() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor, *, scale: float = 1.0, mask: Tensor | None = None) -> Tensor:
            one, two = self.a(x).relu().split([6, 10], -1)
            return self.b(torch.cat([two.tanh(), one], -1)) * scale  # type: ignore[no-any-return]

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.inner, self.b = nn.Linear(4, 8), Halves(), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.inner(mask=None, x=self.a(x)))  # type: ignore[no-any-return]

    torch.manual_seed(1)
    around = secateur.prune(settle(Around()), torch.randn(2, 4), ratio=0.4)
    assert around.plan.islands == ("inner",)
    x = torch.randn(2, around.model.inner.a.in_features)
    assert torch.equal(around.model.inner(x, scale=1.0), around.model.inner(x=x))
