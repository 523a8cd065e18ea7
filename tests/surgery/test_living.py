"""The user's class stays where its code holds sizes: attributes, configurations, factors, and submodules as graphs."""

from __future__ import annotations

import copy
import functools
import json
import math
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from secateur import Plan
from secateur.core.errors import InputError, PlanError, SecateurError
from secateur.core.plan import Place
from secateur.cut.prune import plan_of
from secateur.graph.free import free_sizes
from secateur.graph.numbers import Free, Log
from secateur.graph.places import changed, number_at, tagged
from secateur.surgery import prune_module
from secateur.surgery.factors import folded
from secateur.surgery.sizes import Equation, Solver, solved_sizes
from zoo import settle


class Attention(nn.Module):
    """Self-attention; ``scale`` says how the scores are divided."""

    def __init__(self, scale: str, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.size, self.kind = heads, width // heads, scale
        self.fixed = self.size**-0.5

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        parts = self.qkv(x).reshape(batch, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        if self.kind == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.kind == "attribute":
            y = ((q * self.fixed) @ k.transpose(-2, -1)).softmax(-1) @ v
        elif self.kind == "root":
            y = (q @ k.transpose(-2, -1) / math.sqrt(self.size)).softmax(-1) @ v
        elif self.kind == "tensor":
            y = (q @ k.transpose(-2, -1) / torch.sqrt(torch.tensor(float(q.shape[-1])))).softmax(-1) @ v
        else:
            raise ValueError(self.kind)
        return self.out(y.transpose(1, 2).reshape(batch, length, self.heads * self.size))  # type: ignore[no-any-return]


@pytest.mark.parametrize("granularity", ["whole", "within"])
@pytest.mark.parametrize("kind", ["fused", "attribute", "root", "tensor"])
def test_attention_keeps_its_class_and_takes_other_lengths(kind: str, granularity: str) -> None:
    torch.manual_seed(0)
    model, x = Attention(kind).eval(), torch.randn(2, 5, 32)
    before = copy.deepcopy(vars(model))
    pruned = secateur.prune(model, x, ratio=0.5, granularity=granularity)
    small = pruned.model
    assert pruned.backend == "module"
    assert type(small) is Attention
    assert (small.heads, small.size) == ((2, 8) if granularity == "whole" else (4, 4))
    assert {k: v for k, v in vars(model).items() if type(v) in (int, float)} == {
        k: v for k, v in before.items() if type(v) in (int, float)
    }
    # At another size, against the same plan that is cut and proven there.
    other = torch.randn(3, 9, 32)
    again = secateur.apply(model, pruned.plan, other).model
    torch.testing.assert_close(small(other), again(other))
    small.train()(other).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def test_what_was_changed_is_said() -> None:
    torch.manual_seed(0)
    pruned = secateur.prune(Attention("root").eval(), torch.randn(2, 5, 32), ratio=0.5, granularity="within")
    assert "size in its code: size 8 → 4" in pruned.notes
    assert "made good in the weights: 16 outputs of qkv.weight × 0.7071" in pruned.notes
    assert pruned.lost == ()


def test_a_factor_is_made_good_in_the_queries_alone() -> None:
    torch.manual_seed(0)
    model = Attention("fused").eval()
    pruned = secateur.prune(model, torch.randn(2, 5, 32), ratio=0.5, granularity="within")
    kept = list(pruned.plan.keep["qkv.weight"][0])
    want = model.qkv.weight.detach()[kept].clone()
    queries = [row for row, old in enumerate(kept) if old < 32]
    want[queries] *= math.sqrt(0.5)
    torch.testing.assert_close(pruned.model.qkv.weight.detach(), want)
    (scaled,) = pruned.plan.scaled["qkv.weight"]
    assert list(scaled.entries) == queries


@pytest.mark.parametrize("granularity", ["whole", "within"])
def test_artifacts_hold_the_sizes_and_load_into_the_class(granularity: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Attention("fused").eval(), torch.randn(2, 5, 32)
    pruned = secateur.prune(model, x, ratio=0.5, granularity=granularity)
    pruned.save(tmp_path)
    loaded = secateur.load(tmp_path, Attention("fused"))
    torch.testing.assert_close(loaded.model(x), pruned.model(x))
    assert (loaded.model.heads, loaded.model.size) == (pruned.model.heads, pruned.model.size)
    assert Plan.from_json(pruned.plan.to_json()) == pruned.plan
    twice = secateur.prune(pruned, ratio=0.5, granularity=granularity)
    twice.save(tmp_path)
    torch.testing.assert_close(secateur.load(tmp_path, Attention("fused")).model(x), twice.model(x))
    torch.testing.assert_close(secateur.apply(model, twice.plan, x).model(x), twice.model(x))


@pytest.mark.parametrize(
    "numbers",
    [
        [[["", ["attribute", "nothing"]], 2]], [[["", ["attribute", "kind"]], 2]], [[["", ["attribute", "heads"]], 0]],
        [[["", ["attribute", "heads"]], 2.5]], [[["", ["attribute", "heads"]], True]], [[["", ["call", "heads"]], 2]],
        [[["", []], 2]], [[["nowhere", ["attribute", "heads"]], 2]], [[["", ["attribute", "heads"]], 2**40]], "x", 3,
        [[["", ["attribute", "qkv"], ["attribute", "in_features"]], 2]],
    ],
)  # fmt: skip
def test_a_plan_from_elsewhere_can_change_numbers_alone(numbers: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Attention("fused").eval(), torch.randn(2, 5, 32)
    secateur.prune(model, x, ratio=0.5, granularity="whole").save(tmp_path)
    record = json.loads((tmp_path / "plan.json").read_text())
    record["plan"]["numbers"] = numbers
    (tmp_path / "plan.json").write_text(json.dumps(record))
    with pytest.raises(PlanError):
        secateur.load(tmp_path, Attention("fused"))


# ------------------------------------------------------------------------------------------------ where numbers are


class Everywhere(nn.Module):
    """The width is in a tuple, a dictionary, an object, a closure, a partial and a list; each is read."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 4)
        self.where, width = where, 12
        self.shape = (3, width)
        self.options = {"width": width}
        self.config = SimpleNamespace(inner=SimpleNamespace(width=width))
        self.closure = lambda x: x.reshape(-1, width)
        self.partial = functools.partial(_reshaped, width=width)
        self.list = [1, width]

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        if self.where == "tuple":
            y = y.reshape(-1, self.shape[1])
        elif self.where == "dictionary":
            y = y.reshape(-1, self.options["width"])
        elif self.where == "object":
            y = y.reshape(-1, self.config.inner.width)
        elif self.where == "closure":
            y = self.closure(y)
        elif self.where == "partial":
            y = self.partial(y)
        else:
            y = y.reshape(-1, self.list[-1] // 2, 2).flatten(1)
        return self.b(y)  # type: ignore[no-any-return]


def _reshaped(x: Tensor, width: int) -> Tensor:
    return x.reshape(-1, width)


@pytest.mark.parametrize("where", ["tuple", "dictionary", "object", "closure", "partial", "list"])
def test_numbers_are_found_where_they_are(where: str) -> None:
    torch.manual_seed(0)
    model, x = Everywhere(where).eval(), torch.randn(3, 6)
    pruned = secateur.prune(model, x, ratio=0.5)
    assert pruned.backend == "module"
    small = pruned.model
    small(torch.randn(7, 6))
    # The user's own objects are as they were.
    assert (model.shape, model.options, model.config.inner.width, model.list) == ((3, 12), {"width": 12}, 12, [1, 12])
    assert model.closure(torch.zeros(2, 12)).shape == (2, 12)
    assert small.where == where


def test_the_places_of_numbers() -> None:
    model = Everywhere("tuple")
    twin, log = copy.deepcopy(model), Log(lenient=True)
    places = {str(p): n for p, n in tagged(twin, log).items()}
    assert places["shape[1]"] == 12
    assert places["options['width']"] == 12
    assert places["config.inner.width"] == 12
    assert places["closure.width"] == 12
    assert isinstance(twin.shape[1], Free)
    assert model.config.inner.width.__class__ is int
    place = Place("", (("attribute", "config"), ("attribute", "inner"), ("attribute", "width")))
    changed(model, {place: 5})
    assert number_at(model, place) == 5
    with pytest.raises(PlanError, match=r"no such number"):
        changed(model, {Place("", (("attribute", "gone"),)): 5})


def test_an_object_that_several_modules_hold_stays_one() -> None:
    class Part(nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.config, self.a, self.b = config, nn.Linear(4, config.width), nn.Linear(config.width, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).relu().view(-1, self.config.width))  # type: ignore[no-any-return]

    config = SimpleNamespace(width=8)
    model = nn.Sequential(Part(config), Part(config))
    pruned = secateur.prune(model.eval(), torch.randn(3, 4), ratio=0.5)
    assert pruned.backend == "module"
    assert pruned.model[0].config is pruned.model[1].config
    assert (pruned.model[0].config.width, config.width) == (4, 8)
    # Of other widths each gets its own.
    uneven = secateur.prune(model, torch.randn(3, 4), ratio={"0": 0.25, "1": 0.5})
    assert [part.config.width for part in uneven.model] == [6, 4]


# ------------------------------------------------------------------------------------------------------- equations


def attribute(name: str) -> tuple[str, Place]:
    return ("attribute", Place("", (("attribute", name),)))


def test_equations_are_solved_one_after_the_other() -> None:
    heads, size, width = map(attribute, ("heads", "size", "width"))
    equations = [
        Equation(("mul", heads, size), 32), Equation(("floordiv", width, heads), 8), Equation(heads, 4),
        Equation(("sub", width, 2), 30),
    ]  # fmt: skip
    solver = Solver(equations, [], {heads[1]: 8, size[1]: 8, width[1]: 64})
    solver.solve()
    assert solver.known == {heads: 4, size: 8, width: 32}
    assert not list(solver.conflicts())


def test_what_contradicts_is_named() -> None:
    width = attribute("width")
    solver = Solver([Equation(width, 4, "a", "aten.view"), Equation(width, 6, "b", "aten.view")], [], {width[1]: 8})
    solver.solve()
    (conflict,) = solver.conflicts()
    assert (conflict.module, conflict.wanted, conflict.places) == ("b", 6, (width[1],))


def test_what_the_code_says_is_equal_counts() -> None:
    one, other = attribute("one"), attribute("other")
    solver = Solver([Equation(one, 3)], [(one, other)], {one[1]: 6, other[1]: 6})
    solver.solve()
    assert solver.known == {one: 3, other: 3}


# --------------------------------------------------------------------------------------------------------- islands


class Halves(nn.Module):
    """A channel shuffle of two halves, as ShuffleNet has it; the halves come out uneven."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return torch.cat([self.left(a).relu(), self.right(b)], dim=1)


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.norm = nn.Conv2d(3, 16, 3, padding=1), Halves(), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.block(self.stem(x).relu())).mean((2, 3)))  # type: ignore[no-any-return]


def left_first(view: Any) -> Tensor:
    """The first half loses more."""
    left = any(member.parameter == "block.left.weight" and member.dim == 1 for member in view.group.members)
    return torch.arange(len(view.group)) if left else torch.full((len(view.group),), 100.0)


def uneven() -> tuple[Around, Tensor, secateur.Pruned]:
    torch.manual_seed(0)
    model, x = Around().eval(), torch.randn(2, 3, 8, 8)
    return model, x, secateur.prune(model, x, ratio=0.2, criterion=left_first, scope="global", granularity="within")


def test_a_submodule_whose_code_does_not_fit_becomes_a_graph_in_its_place() -> None:
    model, x, pruned = uneven()
    assert pruned.backend == "module"
    assert type(pruned.model) is Around
    assert pruned.plan.islands == ("block",)
    assert any("block" in note for note in pruned.notes)
    assert set(pruned.model.state_dict()) == set(model.state_dict())
    for size in ((5, 3, 12, 6), (1, 3, 8, 8)):
        other = torch.randn(*size)
        again = secateur.apply(model, pruned.plan, other).model
        torch.testing.assert_close(pruned.model(other), again(other))
    pruned.model.train()(x).sum().backward()
    assert all(p.grad is not None for p in pruned.model.parameters())
    assert isinstance(copy.deepcopy(pruned.model), Around)


def test_artifacts_with_islands_load_into_the_class(tmp_path: Path) -> None:
    _, x, pruned = uneven()
    pruned.save(tmp_path)
    loaded = secateur.load(tmp_path, Around())
    torch.testing.assert_close(loaded.model(x), pruned.model(x))
    assert loaded.plan.islands == ("block",)


def test_a_submodule_that_is_called_twice_leaves_the_graph() -> None:
    class Twice(Around):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.block(self.block(self.stem(x).relu()))).mean((2, 3)))  # type: ignore

    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(2, 3, 8, 8)
    how: dict[str, Any] = {"ratio": 0.2, "criterion": left_first, "scope": "global"}
    pruned = secateur.prune(model, x, granularity="within", **how)
    assert pruned.verification is not None
    assert pruned.verification.max_relative_error <= 1e-9
    assert pruned.backend == "graph"
    assert "class" in pruned.lost
    with pytest.raises(SecateurError, match="called 2 times"):
        secateur.prune(model, x, granularity="within", backend="module", **how)
    even = secateur.prune(model, x, **how)  # halves of one size are no graph
    assert even.backend == "module"
    assert len(even.plan.keep["block.left.weight"][0]) == len(even.plan.keep["block.right.weight"][0])


# ------------------------------------------------------------------------------------------------ in training loops


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        model(x).pow(2).sum().backward()
        optimizer.step()


@pytest.mark.parametrize(
    "kind", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "Adadelta", "Adamax", "RAdam", "ASGD", "Rprop"]
)
def test_an_optimizer_goes_on_where_it_was(kind: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(4, 6)
    options = {"momentum": 0.9} if kind in ("SGD", "RMSprop") else {}
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.01, **options)
    stepped(model, optimizer, x)
    pruned = secateur.prune(model, x, ratio=0.5)
    new = pruned.carry(optimizer)
    assert type(new) is type(optimizer)
    assert new.param_groups[0]["lr"] == 0.01
    names = dict(model.named_parameters())
    for name, parameter in pruned.model.named_parameters():
        for key, value in optimizer.state[names[name]].items():
            kept = value
            for dim, indices in pruned.plan.keep.get(name, {}).items() if value.shape == names[name].shape else ():
                kept = kept.index_select(dim, torch.tensor(indices))
            assert torch.equal(new.state[parameter][key], kept)
    # The same step as the dense network's, of the entries that stay, where the gradients are the same.
    before = {n: p.detach().clone() for n, p in pruned.model.named_parameters()}
    for name, parameter in pruned.model.named_parameters():
        parameter.grad = torch.ones_like(parameter)
        names[name].grad = torch.ones_like(names[name])
    dense = {n: p.detach().clone() for n, p in names.items()}
    new.step()
    optimizer.step()
    for name, parameter in pruned.model.named_parameters():
        moved = names[name].detach() - dense[name]
        for dim, indices in pruned.plan.keep.get(name, {}).items():
            moved = moved.index_select(dim, torch.tensor(indices))
        torch.testing.assert_close(parameter.detach() - before[name], moved)


def test_three_cuts_in_a_row_carry_the_optimizer_the_schedule_and_the_average() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(4, 6)
    optimizer: Any = torch.optim.Adam(net.parameters(), lr=0.1)
    schedule: Any = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    average: Any = torch.optim.swa_utils.AveragedModel(net)
    given: Any = net
    for cut in range(3):
        model = given if isinstance(given, nn.Module) else given.model
        stepped(model, optimizer, x)
        schedule.step()
        average.update_parameters(model)
        given = secateur.prune(given, x, ratio=0.25)
        optimizer, schedule, average = given.carry(optimizer, schedule, average)
        assert schedule.optimizer is optimizer
        assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5 ** (cut + 1)
        shapes = [p.shape for p in given.model.parameters()]
        assert [p.shape for p in average.module.parameters()] == shapes
        assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in given.model.parameters())


def test_momentum_of_weights_that_were_multiplied_is_divided() -> None:
    torch.manual_seed(0)
    model, x = Attention("fused"), torch.randn(2, 5, 32)
    optimizer = torch.optim.Adam(model.parameters())
    stepped(model, optimizer, x)
    pruned = secateur.prune(model, x, ratio=0.5, granularity="within")
    new, kept = pruned.carry(optimizer), list(pruned.plan.keep["qkv.weight"][0])
    old, state = optimizer.state[model.qkv.weight], new.state[pruned.model.qkv.weight]
    rows = list(pruned.plan.scaled["qkv.weight"][0].entries)
    torch.testing.assert_close(state["exp_avg"][rows], old["exp_avg"][kept][rows] / math.sqrt(0.5))
    torch.testing.assert_close(state["exp_avg_sq"][rows], old["exp_avg_sq"][kept][rows] / 0.5)
    others = np.setdiff1d(np.arange(len(kept)), rows)
    assert torch.equal(state["exp_avg"][others], old["exp_avg"][kept][others])


def test_state_of_rows_and_columns_follows_and_what_is_neither_is_refused() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(4, 6)
    rows: Any = torch.optim.Adafactor(model.parameters())
    stepped(model, rows, x)
    pruned = secateur.prune(model, x, ratio=0.5)
    new, weight = pruned.carry(rows), pruned.model.get_submodule("0").weight
    state, kept = new.state[weight], list(pruned.plan.keep["0.weight"][0])
    assert torch.equal(state["row_var"], rows.state[model[0].weight]["row_var"][kept])
    stepped(pruned.model, new, x)
    whole: Any = torch.optim.LBFGS(model.parameters(), history_size=2)
    whole.step(lambda: model(x).pow(2).sum())
    whole.state[model[0].weight]["d"] = torch.zeros(83)
    with pytest.raises(InputError, match=r"keeps 'd' of shape \(83,\)"):
        pruned.carry(whole)


def test_what_belongs_to_another_network_is_refused() -> None:
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(4, 6)
    pruned = secateur.prune(model, x, ratio=0.5)
    with pytest.raises(InputError, match="not of the network that was cut"):
        pruned.carry(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1))
    with pytest.raises(InputError, match="does not have the shapes"):
        pruned.carry(nn.Linear(2, 2))
    with pytest.raises(InputError, match="takes optimizers"):
        pruned.carry(3)
    with pytest.raises(InputError, match="not known any more"):
        copy.deepcopy(pruned).carry(torch.optim.SGD(model.parameters(), lr=0.1))


# ------------------------------------------------------------------------------------------------- explanations


def test_a_layer_says_what_it_goes_with_and_why_it_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    analysis = secateur.analyse(model, torch.randn(1, 3, 8, 8))
    rows = {row[0]: row[2:] for row in analysis.explain("0").rows}
    assert rows["0.weight"][0] == "8 of 8"
    assert "1.weight" in rows["0.weight"][1]
    assert "batch_norm in 1" in rows["0.weight"][1]
    assert "output of the network" in analysis.explain("3.weight").rows[0][3]
    with pytest.raises(SecateurError, match=r"0\.weight"):
        analysis.explain("0.weigth")
    pruned = secateur.prune(model, torch.randn(1, 3, 8, 8), ratio=0.5)
    assert pruned.explain("0.weight").rows[0][2] == "4 of 4"


def test_an_operator_without_a_rule_is_the_reason() -> None:
    class Special(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.special.zeta(self.a(x).relu() + 2, 1))  # type: ignore[no-any-return]

    (row, *_) = secateur.analyse(Special(), torch.randn(2, 4)).explain("a.weight").rows
    assert row[2] == "0 of 8"
    assert "special_zeta" in row[3]
    assert "no rule" in row[3]


LIBRARY = """
import functools

@functools.lru_cache(256)
def sizes(width, heads):
    return heads, width // heads

def split(x, heads):
    try:
        found = sizes(x.shape[-1], heads)
    except TypeError:  # sizes that have no hash, as einops has it
        found = sizes.__wrapped__(x.shape[-1], heads)
    return x.reshape(*x.shape[:-1], *found)
"""


def test_tables_of_libraries_hold_plain_numbers_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    library: Any = types.ModuleType("a_library")
    monkeypatch.setitem(sys.modules, "a_library", library)
    exec(compile(LIBRARY, "a_library", "exec"), library.__dict__)

    class Uses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.heads = nn.Linear(6, 12), nn.Linear(12, 4), 4

        def forward(self, x: Tensor) -> Tensor:
            y = library.split(self.a(x).relu(), self.heads)
            return self.b(y.transpose(-1, -2).flatten(-2))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    pruned = secateur.prune(Uses().eval(), torch.randn(3, 5, 6), ratio=0.5, granularity="whole")
    assert pruned.backend == "module"
    assert pruned.model.heads == 2
    for width, heads in ((12, 4), (6, 2), (12, 2)):
        assert [type(n) for n in library.sizes(width, heads)] == [int, int]
        assert library.sizes(width, heads) == (heads, width // heads)


def test_factors_are_found_in_a_graph_whose_sizes_were_freed() -> None:
    torch.manual_seed(0)
    model, x = Attention("fused").eval(), torch.randn(2, 5, 32)
    groups = secateur.analyse(model, x, granularity="within").groups
    label_keep = groups.label_keep(np.arange(groups.units) % 2 == 0)
    keep = plan_of(groups, label_keep, {}).keep
    small = prune_module(model, keep, numbers=solved_sizes(model, groups, label_keep).numbers)
    before = folded(small, groups, label_keep)
    free_sizes(model, groups.flow.traced)
    assert not isinstance(groups.flow.traced.sizes.shapes[0][1], int)  # the length is free now
    assert folded(small, groups, label_keep) == before
    assert set(before) == {"qkv.weight", "qkv.bias"}
    assert solved_sizes(model, groups, label_keep).numbers == {Place("", (("attribute", "size"),)): 4}


@pytest.mark.parametrize("granularity", ["whole", "within"])
def test_a_plan_is_replayed_with_its_sizes_where_nothing_is_proven(granularity: str) -> None:
    torch.manual_seed(0)
    model, x = Attention("fused").eval(), torch.randn(2, 5, 32)
    pruned = secateur.prune(model, x, ratio=0.5, granularity=granularity)
    again = secateur.apply(model, pruned.plan, x, verify=False)
    assert again.backend == "module"
    assert again.plan.numbers == pruned.plan.numbers
    torch.testing.assert_close(again.model(x), pruned.model(x))
    unproven = secateur.prune(model, x, ratio=0.5, granularity=granularity, verify=False)
    torch.testing.assert_close(unproven.model(x), pruned.model(x))


def test_a_cut_by_sizes_and_then_by_islands_loads_into_the_class(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.stem, self.block, self.head = Attention("fused"), nn.Linear(32, 16), Halves(), 16
            self.out = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(self.attention(x)).relu().transpose(1, 2).unsqueeze(-1)
            return self.out(self.block(y).mean((2, 3)))  # type: ignore[no-any-return]

    def scores(view: Any) -> Tensor:
        left = any(member.parameter == "block.left.weight" and member.dim == 1 for member in view.group.members)
        return torch.arange(8) if left else torch.ones(len(view.group)) * 9

    torch.manual_seed(0)
    model, x = Both().eval(), torch.randn(2, 5, 32)
    one = secateur.prune(model, x, ratio=0.5, granularity="whole", only=["attention"])
    assert one.plan.numbers
    two = secateur.prune(one, ratio=0.1, criterion=scores, scope="global", only=["stem"], granularity="within")
    assert two.plan.islands == ("block",)
    two.save(tmp_path)
    torch.testing.assert_close(secateur.load(tmp_path, Both()).model(x), two.model(x))


class HalfUnused(nn.Module):
    """Two halves of which one is thrown away, as a variational autoencoder does in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.both, self.last = nn.Linear(5, 8), nn.Linear(8, 14), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        mean, _spread = self.both(self.first(x).relu()).chunk(2, dim=1)
        return self.last(mean)  # type: ignore[no-any-return]


def test_pieces_stay_of_one_size_where_code_cannot_say_other_ones() -> None:
    torch.manual_seed(0)
    net, x = HalfUnused(), torch.randn(4, 5)
    pruned = secateur.prune(net, x, ratio=0.5)
    assert pruned.backend == "module"
    kept = pruned.plan.keep["both.weight"][0]
    assert [k % 7 for k in kept if k < 7] == [k % 7 for k in kept if k >= 7]
    even = secateur.prune(net, x, ratio=0.4, granularity="even")
    assert even.backend == "module"
    assert even.model.both.out_features == 2 * even.model.last.in_features


def test_a_librarys_save_that_knows_nothing_of_the_cut_is_named() -> None:
    class Saves(nn.Sequential):
        def save_pretrained(self, folder: str) -> None:
            raise NotImplementedError

    pruned = secateur.prune(Saves(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4), ratio=0.5)
    assert any("save_pretrained knows nothing of the cut" in note for note in pruned.notes)


def test_islands_leave_the_buffers_of_the_dense_network_as_they_were() -> None:
    class Counting(Around):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    torch.manual_seed(0)
    model = Counting().eval()
    pruned = secateur.prune(
        model, torch.randn(2, 3, 8, 8), ratio=0.2, criterion=left_first, scope="global", granularity="within"
    )
    assert pruned.plan.islands == ("block",)
    assert float(model.calls) == 0
    assert float(pruned.model.calls) == 0


class Padded(nn.Module):
    """A shortcut with as many channels of zeros before as behind, as the ResNets for CIFAR-10 have it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.head, self.more = nn.Conv2d(32, 4, 1), 8

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        zeros = (0, 0, 0, 0, self.more, self.more)
        return self.head((F.pad(h[:, :, ::2, ::2], zeros) + self.b(h)).relu())  # type: ignore[no-any-return]


def test_channels_of_zeros_on_both_sides_stay_as_many_where_the_class_would_go_otherwise() -> None:
    x = torch.randn(2, 3, 8, 8)
    model = settle(Padded())
    for seed in range(4):  # which channels go is chance
        torch.manual_seed(seed)
        nn.init.normal_(model.b.weight)
        pruned = secateur.prune(model, x, ratio=0.4)
        assert pruned.backend == "module", seed
        assert isinstance(pruned.model, Padded)
        assert pruned.model.more < 8


@pytest.mark.parametrize("amount", [{"ratio": 0.3}, {"macs": 0.6}, {"params": 0.4, "scope": "global"}])
def test_attention_with_one_width_for_both_keeps_one(amount: dict[str, Any]) -> None:
    """``nn.MultiheadAttention`` has heads as wide together as what it takes."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
            self.inside, self.head = nn.Linear(10, 32), nn.Linear(32, 5)
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layers(self.inside(x)).mean(1))  # type: ignore[no-any-return]

    pruned = secateur.prune(settle(Encoder()), torch.randn(2, 7, 10), **amount)
    assert (pruned.backend, pruned.plan.islands, pruned.lost) == ("module", (), ())
    assert (
        pruned.model.layers.layers[0].self_attn.embed_dim
        == pruned.model.layers.layers[0].self_attn.out_proj.in_features
    )


class Constant(nn.Module):
    """Takes a constant from its inputs that its code makes anew in every call, or holds as a tensor of no kind."""

    def __init__(self, made: str, numbers: list[float]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.made, self.numbers, self.held = made, numbers, torch.tensor(numbers)

    def forward(self, x: Tensor) -> Tensor:
        given = {
            "tensor": lambda: torch.tensor(self.numbers, dtype=x.dtype, device=x.device),
            "as_tensor": lambda: torch.as_tensor(self.numbers, dtype=x.dtype),
            "numpy": lambda: torch.as_tensor(np.array(self.numbers), dtype=x.dtype),
            "new_tensor": lambda: x.new_tensor(self.numbers),
            "new_tensor by name": lambda: x.new_tensor(data=self.numbers, dtype=x.dtype),
            "new_tensor of no type": lambda: x.new_tensor(self.numbers, dtype=None, device=None),
            "held": lambda: self.held,
        }[self.made]().view(-1, 1, 1)
        return self.second(torch.relu(self.first((x - given) / given)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("numbers", [[0.1, 0.2, 0.3], [0.5, 0.5, 0.5]], ids=["unlike", "alike"])
@pytest.mark.parametrize(
    "made", ["tensor", "as_tensor", "numpy", "new_tensor", "new_tensor by name", "new_tensor of no type", "held"]
)
def test_constants_of_the_code_cost_no_class(made: str, numbers: list[float]) -> None:
    """0.1 has 16 digits in lifted code and 8 in the graph; equal entries were perturbed in the graph alone."""
    small = secateur.prune(settle(Constant(made, numbers)), torch.randn(2, 3, 9, 9), ratio=0.3)
    assert small.backend == "module"
    assert small.lost == ()
    assert small.notes == ()
    assert isinstance(small.model, Constant)
