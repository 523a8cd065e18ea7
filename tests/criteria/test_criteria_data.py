"""The pass over calibration data: how they may be given, that batches make no difference, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import secateur
from criteria_cases import CASES, Case, built_in
from secateur.core.errors import InputError, UnknownNameError
from secateur.criteria import CRITERIA, NEEDS, GroupView, criterion
from secateur.criteria.statistics import Collecting, Statistic, collect
from zoo import ZOO, settle

STREAMED = {"activations": "apoz", "maps": "map_similarity", "gradients": "taylor", "responses": "thinet"}


def statistics(case: Case, need: str, data: Any) -> list[Any]:
    found, _ = collect(CRITERIA[STREAMED[need]], Collecting(case.groups), data)
    return [f[need] for f in found]


def numbers(statistic: Any) -> list[Tensor]:
    values = [statistic] if isinstance(statistic, np.ndarray) else vars(statistic).values()
    return [torch.as_tensor(v) for v in values if v is not None]


def split(case: Case, size: int, count: int = 64) -> list[tuple[Tensor, Tensor]]:
    return list(zip(case.images(count).split(size), case.labels(count).split(size), strict=True))


@pytest.mark.parametrize("need", STREAMED)
@pytest.mark.parametrize("name", CASES)
def test_how_data_are_cut_into_batches_makes_no_difference(name: str, need: str) -> None:
    case = CASES[name]()
    whole, cut = (statistics(case, need, split(case, size)) for size in (64, 8))
    for a, b in zip(whole, cut, strict=True):
        if need == "gradients":  # their first moment is, by definition, of the first batch alone
            a, b = (type(v)(v.squared, torch.zeros(1), v.fisher) for v in (a, b))
        for left, right in zip(numbers(a), numbers(b), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-9)


def held(value: Any, seen: set[int]) -> int:
    """Numbers in all tensors and arrays that a statistic holds on to, the network left out."""
    if id(value) in seen or type(value).__module__.startswith(("torch.fx", "secateur.graph", "torch.nn")):
        return 0
    seen.add(id(value))
    if isinstance(value, (Tensor, np.ndarray)):
        return value.numel() if isinstance(value, Tensor) else value.size
    if isinstance(value, dict):
        return sum(held(v, seen) for v in value.values())
    if isinstance(value, (list, tuple, set)):
        return sum(held(v, seen) for v in value)
    return sum(held(v, seen) for v in vars(value).values()) if hasattr(value, "__dict__") else 0


@pytest.mark.parametrize("need", STREAMED)
def test_what_is_kept_does_not_grow_with_the_data(need: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, kept = CASES["flattened"](), []
    make = NEEDS[need].make

    def noted(setting: Collecting) -> Statistic:
        kept.append(make(setting))
        return kept[-1]

    monkeypatch.setitem(NEEDS._items, need, type(NEEDS[need])(noted, NEEDS[need].data))
    for count in (16, 256):
        statistics(case, need, split(case, 16, count))
    few, many = (held(s, set()) for s in kept)
    assert 0 < few == many < case.images(256).numel() / 2


def test_data_are_gone_through_once() -> None:
    case, asked = CASES["residual"](), []

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        for item in split(case, 8, 24):
            asked.append(len(item[0]))
            yield item

    secateur.prune(case.model, case.images(2), ratio=0.3, criterion="apoz", data=stream())
    assert asked == [8, 8, 8]


def test_the_same_data_in_every_form() -> None:
    case = CASES["depthwise"]()
    images, labels = case.images(20), case.labels(20)
    forms = {
        "tensor": images,
        "pair of tensors": (images, labels),
        "list of batches": list(images.split(7)),
        "loader of lists": DataLoader(TensorDataset(images, labels), batch_size=6),
        "pairs of tuples": [((images,), labels)],
        "double precision": images.double(),
    }
    found = {form: case.scores("apoz", data)["0"] for form, data in forms.items()}
    for form, scores in found.items():
        torch.testing.assert_close(scores, found["tensor"], msg=form)
    pairs = [case.scores("taylor", data)["0"] for data in (forms["pair of tensors"], forms["loader of lists"])]
    torch.testing.assert_close(*pairs)


def test_networks_of_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.c(torch.relu(self.a(x) + self.b(y)))  # type: ignore[no-any-return]

    model, x, y = settle(Two()), torch.randn(9, 3), torch.randn(9, 4)
    labels = torch.randint(0, 2, (9,))
    alive = (model.a(x) + model.b(y) > 0).double().mean(0)  # type: ignore[operator]
    kept = tuple(sorted(alive.topk(3).indices.tolist()))
    for inputs, data in (
        ((x[:2], y[:2]), [(x, y)]),
        ((x[:2], y[:2]), [((x, y), labels)]),
        ((x[:2], y[:2]), [(x, y, labels)]),
        ({"x": x[:2], "y": y[:2]}, [{"x": x, "y": y}]),
        ({"x": x[:2], "y": y[:2]}, [({"x": x, "y": y}, labels)]),
    ):
        assert secateur.prune(model, inputs, ratio=0.5, criterion="apoz", data=data).plan.keep["a.weight"][0] == kept


def test_a_network_with_a_fixed_batch_leaves_a_remainder_out() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)).reshape(4, 6))  # type: ignore[no-any-return]

    model, x = settle(Fixed()), torch.randn(10, 3)
    pruned = secateur.prune(model, x[:4], ratio=0.5, criterion="apoz", data=x)
    alive = (model.a(x[:8]) > 0).double().mean(0)  # type: ignore[operator]
    assert pruned.plan.keep["a.weight"][0] == tuple(sorted(alive.topk(3).indices.tolist()))
    assert any("2 samples of the data left out: the network takes 4 at a time" in note for note in pruned.notes)
    with pytest.raises(InputError, match="batches of exactly 4 samples"):
        secateur.prune(model, x[:4], ratio=0.5, criterion="apoz", data=x[:3])


@pytest.mark.parametrize("name", [n for n in built_in() if secateur.criteria.needed_data(CRITERIA[n])])
def test_data_that_are_needed_and_missing(name: str) -> None:
    case = CASES["depthwise"]()
    what = "pairs" if "gradients" in CRITERIA[name].needs else "inputs"
    with pytest.raises(InputError, match=rf"'{name}' needs calibration data: data=….*batches of {what}.*--data"):
        secateur.prune(case.model, case.images(2), ratio=0.5, criterion=name)


IMAGES = torch.randn(4, 3, 3, 3)
BAD: dict[str, tuple[Any, str]] = {
    "no batch": ([], "hold no batch"),
    "used up": (iter(()), "give it afresh"),
    "another shape": (torch.randn(4, 3, 8, 8), r"samples of shape \(3, 8, 8\); the network was traced.*\(3, 3, 3\)"),
    "no channels": (torch.randn(4, 3, 3), r"samples of shape \(3, 3\)"),
    "raw pixels": (torch.zeros(4, 3, 3, 3, dtype=torch.uint8), r"torch.uint8, the network takes torch.float32"),
    "NaN": (IMAGES / torch.zeros(()), "Batch 1 of the data holds NaN or infinite"),
    "numpy": ([np.zeros((4, 3, 3, 3))], "is a ndarray; the network takes a tensor"),
    "names": ("images", "data is a tensor, .* an iterable of batches"),
    "number": (3, "data is a tensor, .* an iterable of batches"),
    "too many inputs": ([(IMAGES, IMAGES, IMAGES)], "is a tuple of 3; the network takes a tensor"),
    "labels of another batch": ([(IMAGES, torch.zeros(3).long())], "4 samples and 3 labels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_refused_with_a_reason(name: str) -> None:
    case, (data, words) = CASES["depthwise"](), BAD[name]
    with pytest.raises(InputError, match=words):
        case.scores("apoz", data)


@pytest.mark.parametrize("criterion_name", ["apoz", "map_similarity", "thinet", "taylor"])
def test_nan_activations_name_the_module(criterion_name: str) -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sqrt()  # NaN below zero

    model = settle(nn.Sequential(nn.Linear(3, 6), Root(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)))
    data = [(torch.randn(8, 3), torch.zeros(8).long())]
    with pytest.raises(InputError, match=r"activations of the module '1' \(aten.sqrt.*NaN"):
        secateur.prune(model, torch.rand(2, 3), ratio=0.5, criterion=criterion_name, data=data)


def test_infinite_masks_are_no_reason_to_stop() -> None:
    model, x = ZOO["attention_relative"]()
    pruned = secateur.prune(settle(model), x, ratio=0.3, criterion="mean_activation", data=x)
    assert pruned.after.params < pruned.before.params


def test_one_group_alone_is_scored() -> None:
    case = CASES["flattened"]()
    pruned = secateur.prune(
        case.model, case.images(2), ratio=0.5, criterion="apoz", data=case.images(), groups=["2.conv"]
    )
    assert [c.kept for c in pruned.groups] == [8, 3]


def test_a_users_criterion_with_statistics_in_a_few_lines() -> None:
    if "test_quiet" not in CRITERIA:

        @criterion("test_quiet", paper="none", needs=("activations", "gradients"))
        def quiet(view: GroupView) -> Tensor:
            """Activation times gradient."""
            found: Tensor = view.statistic("activations").mean * view.statistic("gradients").squared
            return found

    case = CASES["residual"]()
    data = [(case.images(), case.labels())]
    scores = case.scores("test_quiet", data)
    expected = case.scores("mean_activation", data)["a.conv"] * case.scores("taylor", data)["a.conv"]
    torch.testing.assert_close(scores["a.conv"], expected)
    del CRITERIA._items["test_quiet"]


def test_a_need_that_is_not_there() -> None:
    view = GroupView(CASES["flattened"]().groups.items[0], CASES["flattened"]().groups, torch.Generator())
    with pytest.raises(InputError, match=r"No maps were collected: register the criterion with needs=\('maps',\)"):
        view.statistic("maps")
    with pytest.raises(UnknownNameError, match="no statistic named 'activation'"):
        secateur.criteria.needed_data(
            secateur.criteria.Criterion("x", lambda v: torch.ones(1), "", "", ("activation",))
        )


@pytest.mark.parametrize("name", ["zero_padded_shortcut", "dense_concatenation", "split_shuffle", "attention_packed",
                                  "windows", "squeeze_excitation", "one_dimensional", "running_sums"])  # fmt: skip
def test_every_criterion_scores_every_construction(name: str) -> None:
    model, x = ZOO[name]()
    groups = secateur.analyse(settle(model), x).groups
    data = [(x, model(x).argmax(1))]
    silent = []
    for criterion_name in built_in():
        try:
            found = secateur.criteria.scoring.score(groups, criterion_name, data=data)
        except InputError as error:
            if "has nothing to score" not in str(error):
                raise
            silent.append(criterion_name)
            continue
        assert all(np.isfinite(v).all() and len(v) == len(groups.items[g]) for g, v in found.values.items())
        named = sum(note.count("of '") + note.count("channels of") for note in found.notes)
        assert len(found.values) == len(groups.items) or named
    assert {*silent} <= {"apoz", "bn_scale"}


@pytest.mark.parametrize("criterion_name", [*STREAMED.values(), "lasso", "filter_similarity", "energy"])
def test_what_criteria_choose_is_cut_and_verified(criterion_name: str) -> None:
    case = CASES["residual"]()
    pruned = secateur.prune(case.model, case.images(2), ratio=0.4, criterion=criterion_name,
                            data=[(case.images(), case.labels())])  # fmt: skip
    assert pruned.verification is not None
    assert [c.kept for c in pruned.groups] == [4, 5]
    scores = case.scores(criterion_name, [(case.images(), case.labels())])
    assert pruned.plan.keep["a.conv.weight"][0] == tuple(sorted(scores["a.conv"].topk(5).indices.tolist()))
