"""The one reader of calibration data: every verb accepts every form, and bad data are refused with a reason."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import secateur
from secateur.core.errors import InputError
from secateur.core.inputs import batches, calls, pieces


@dataclass
class Takes:
    """What a network was traced with."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    batch: int = 2
    dynamic: bool = True


ONE, TWO = Takes((torch.zeros(2, 3),)), Takes((torch.zeros(2, 3), torch.zeros(2, 4)))
NAMED = Takes(kwargs={"x": torch.zeros(2, 3), "y": torch.zeros(2, 4)})
X = torch.arange(150 * 3.0).reshape(150, 3)
Y = torch.arange(150 * 4.0).reshape(150, 4)
LABELS = torch.arange(150)


def forms_of_one() -> dict[str, Any]:
    return {
        "tensor": X,
        "tuple of the input": (X,),
        "inputs and labels": (X, LABELS),
        "tuple and labels": ((X,), LABELS),
        "list of batches": list(X.split(40)),
        "tuple of batches": X.split(40),
        "pairs": [(X[:100], LABELS[:100]), (X[100:], LABELS[100:])],
        "loader": DataLoader(TensorDataset(X, LABELS), batch_size=32),
        "loader of inputs": DataLoader(TensorDataset(X), batch_size=32),
        "generator": (X[k : k + 30] for k in range(0, 150, 30)),
        "another precision": X.double(),
        "regression": (X, torch.randn(150)),
    }


def forms_of_two() -> dict[str, Any]:
    return {
        "tuple": (X, Y),
        "list": [X, Y],
        "with labels": (X, Y, LABELS),
        "nested": ((X, Y), LABELS),
        "batches": [(X[:70], Y[:70]), [X[70:], Y[70:]]],
        "loader": DataLoader(TensorDataset(X, Y, LABELS), batch_size=64),
        "pairs": [((X, Y), LABELS)],
    }


def forms_by_name() -> dict[str, Any]:
    return {
        "dict": {"x": X, "y": Y},
        "another order": {"y": Y, "x": X},
        "with labels": {"x": X, "labels": LABELS, "y": Y},
        "pair": ({"x": X, "y": Y}, LABELS),
        "batches": [{"x": X[:50], "y": Y[:50]}, UserDict(x=X[50:], y=Y[50:])],
        "pairs": [({"x": X, "y": Y}, LABELS)],
    }


CASES: list[tuple[Takes, Callable[[], dict[str, Any]], str]] = [
    (takes, forms, name)
    for takes, forms in ((ONE, forms_of_one), (TWO, forms_of_two), (NAMED, forms_by_name))
    for name in forms()
]


@pytest.mark.parametrize(("takes", "forms", "name"), CASES, ids=[f"{f.__name__}: {n}" for _, f, n in CASES])
def test_every_form_gives_the_same_samples(takes: Takes, forms: Callable[[], dict[str, Any]], name: str) -> None:
    found = list(batches(forms()[name], takes))
    assert [b.number for b in found] == list(range(1, len(found) + 1))
    values = [torch.cat([[*b.args, *b.kwargs.values()][k] for b in found]) for k in range(1 if takes is ONE else 2)]
    assert all(torch.equal(v, w) for v, w in zip(values, (X, Y), strict=False))
    assert all(v.dtype == torch.float32 for v in values)
    assert [b.labels is not None for b in found] == [any(w in name for w in ("label", "pair", "loader", "nested",
        "regression")) and name != "loader of inputs"] * len(found)  # fmt: skip
    if found[0].labels is not None and name != "regression":
        assert torch.equal(torch.cat([b.labels for b in found]), LABELS)


def test_what_holds_all_samples_is_cut_and_batches_stay_as_they_are() -> None:
    assert [b.size for b in batches(X, ONE)] == [64, 64, 22]
    assert [b.size for b in batches([X], ONE)] == [150]
    assert [b.size for b in calls([X], ONE, 40)] == [40, 40, 40, 30]


def test_a_network_of_one_batch_size_gets_that_size() -> None:
    fixed = Takes(ONE.args, dynamic=False)
    assert {b.size for b in calls([X[:5], X[5:10]], fixed, 64)} == {2}
    assert len(list(calls([X[:5], X[5:10]], fixed, 64))) == 4
    with pytest.raises(InputError, match="too few samples: the network takes exactly 2"):
        list(calls(X[:1], fixed, 64))


def test_inputs_without_a_batch_are_never_cut() -> None:
    takes = Takes((torch.zeros(2, 3), torch.zeros(4, 4)))
    table = torch.randn(4, 4)
    found = list(batches((X[:4], table), takes))
    parts = list(pieces(found[0], 2, takes))
    assert [p.args[0].shape[0] for p in parts] == [2, 2]
    assert all(torch.equal(p.args[1], table) for p in parts)


def test_no_more_is_read_than_is_asked_for() -> None:
    asked: list[int] = []

    def stream() -> Iterator[Tensor]:
        for k in range(1_000_000):
            asked.append(k)
            yield X[:8]

    reader = batches(stream(), ONE)
    next(reader)
    next(reader)
    assert asked == [0, 1]


def test_nested_inputs_are_no_labels() -> None:
    takes = Takes(((torch.zeros(2, 3), torch.zeros(2, 4)), torch.zeros(2, 1)))
    (found,) = batches([((X[:8], Y[:8]), X[:8, :1])], takes)
    assert found.labels is None
    assert found.args[0][1] is not None
    (found,) = batches([((X[:8], Y[:8]), X[:8, :1], LABELS[:8])], takes)
    assert torch.equal(found.labels, LABELS[:8])


BAD: dict[str, tuple[Takes, Any, str]] = {
    "no batch": (ONE, [], "hold no batch.*give it afresh"),
    "no sample": (ONE, torch.zeros(0, 3), "hold no sample"),
    "another width": (ONE, torch.zeros(5, 4), r"Batch 1 .* shape \(4,\); .* traced with samples of shape \(3,\)"),
    "pixels": (ONE, torch.zeros(5, 3, dtype=torch.uint8), "torch.uint8, the network takes torch.float32"),
    "complex": (ONE, torch.zeros(5, 3, dtype=torch.complex64), "torch.complex64, the network takes"),
    "NaN": (ONE, [X, X * float("nan")], "Batch 2 of the data holds NaN or infinite"),
    "infinite": (ONE, X / 0, "holds NaN or infinite"),
    "two batches or a pair": (ONE, (X, X + 1), r"\[x, y\] for batches, \[\(x, y\)\]"),
    "an input too few": (TWO, X, "are a Tensor; the network takes 2 inputs|is a Tensor; the network takes 2 inputs"),
    "an input too many": (ONE, [(X, X, X)], "Batch 1 of the data is a tuple of 3; the network takes a tensor"),
    "a missing name": (NAMED, {"x": X}, "a dict with x; the network takes a dict with x, y"),
    "a name too many": (NAMED, [{"x": X, "y": Y, "z": X}], "a dict with x, y, z; the network takes a dict with x, y"),
    "names for a network without": (ONE, {"x": X}, "The data are a dict with x; the network takes a tensor"),
    "labels of another batch": (ONE, [(X, LABELS[:3])], "150 samples and 3 labels"),
    "labels of all, another number": (ONE, (X, LABELS[:3]), "150 samples and 3 labels"),
    "inputs of two sizes": (TWO, (X, Y[:100]), "inputs of|samples"),
    "text": (ONE, "images", "data is a tensor, a tuple or a dict of inputs, or an iterable of batches"),
    "a number": (ONE, 3, "an iterable of batches .* got int"),
    "a list of numbers": (ONE, [1, 2], "Batch 1 of the data is a int; the network takes a tensor"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_refused_with_a_reason(name: str) -> None:
    takes, data, words = BAD[name]
    with pytest.raises(InputError, match=words):
        list(batches(data, takes))


def test_minus_infinity_is_what_masks_are_made_of() -> None:
    mask = torch.full((4, 3), -torch.inf)
    assert next(batches(mask, ONE)).size == 4


# ------------------------------------------------------------------------------------------------- every verb


class Net(nn.Module):
    """A network of one input, or of two."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        hidden = self.a(x) if y is None else self.a(x) + self.b(y)
        return self.c(torch.relu(hidden))  # type: ignore[no-any-return]


def prune(net: nn.Module, inputs: Any, data: Any) -> Any:
    return secateur.prune(net, inputs, ratio=0.5, criterion="apoz", data=data).plan.to_json()


def recover(net: nn.Module, inputs: Any, data: Any) -> Any:
    cut = secateur.prune(net, inputs, ratio=0.5)
    return secateur.recover(cut, data, dense=net, ridge=1e-3).model.state_dict()["c.weight"]


def reconstruct(net: nn.Module, inputs: Any, data: Any) -> Any:
    return secateur.prune(net, inputs, ratio=0.5, criterion="reconstruction", data=data).plan.to_json()


VERBS: dict[str, Callable[[nn.Module, Any, Any], Any]] = {
    "prune": prune, "prune by reconstruction": reconstruct, "recover": recover,
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_accepts_every_form(verb: str) -> None:
    torch.manual_seed(0)
    x, y, labels = torch.randn(64, 3), torch.randn(64, 4), torch.zeros(64).long()
    net = Net().eval()
    cases: list[tuple[Any, dict[str, Any]]] = [
        (x[:2], {"tensor": x, "pair": (x, labels), "list": list(x.split(32)), "split": x.split(16),
                 "loader": DataLoader(TensorDataset(x, labels), batch_size=32), "double": x.double(),
                 "generator": (part for part in x.split(32)), "pairs": [((x,), labels)]}),
        ((x[:2], y[:2]), {"tuple": (x, y), "list": [x, y], "triple": [(x, y, labels)], "pair": ((x, y), labels)}),
        ({"x": x[:2], "y": y[:2]}, {"dict": {"x": x, "y": y}, "turned": [{"y": y, "x": x}],
                                    "labelled": [{"x": x, "y": y, "labels": labels}]}),
    ]  # fmt: skip
    for inputs, forms in cases:
        found = {name: VERBS[verb](net, inputs, data) for name, data in forms.items()}
        first, *others = found.values()
        for other in others:
            same = torch.allclose(first, other, atol=1e-5) if isinstance(first, Tensor) else first == other
            assert same, list(found)
