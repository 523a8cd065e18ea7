"""Parts of networks that cannot be traced whole."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, PlanError, SecateurError, VerificationError


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.out = nn.Conv2d(32, 8, 1)
        self.width = 16

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.body(self.stem(x).relu()).relu()
        return {"half": self.out(y), "quarter": self.out(y[..., ::2, ::2])}


class Detector(nn.Module):
    """Proposals by value: it cannot be traced whole."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Backbone(), nn.Sequential(nn.Conv2d(8, 24, 3, 1, 1), nn.ReLU(), nn.Conv2d(24, 5, 1))
        self.unused = nn.Linear(3, 3)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = []
        for image in images:
            levels = [self.head(level)[0] for level in self.backbone(image[None]).values()]
            every = torch.cat([level.flatten(1) for level in levels], 1)
            best = every[0] > every[0].median()
            if int(best.sum()) < 1:
                raise RuntimeError("nothing found")
            found.append({"boxes": every[1:, best].T, "scores": every[0, best]})
        return found


def images() -> tuple[list[Tensor]]:
    return ([torch.randn(3, 16, 16), torch.randn(3, 16, 24)],)


def detector() -> Detector:
    torch.manual_seed(0)
    return Detector().eval()


def test_a_network_that_cannot_be_traced_whole_is_cut_by_its_parts() -> None:
    net = detector()
    with pytest.raises(SecateurError):
        secateur.prune(net, images(), ratio=0.5)
    before = copy.deepcopy(net.state_dict())
    pruned = secateur.prune(net, images(), ratio=0.5, part=["backbone", "head"])
    assert type(pruned.model) is Detector
    assert pruned.backend == "module"
    assert pruned.model.backbone.stem.out_channels == 8
    assert pruned.model.backbone.body.out_channels == 16
    assert pruned.model.backbone.out.out_channels == 8  # what it gives keeps its size
    assert pruned.model.head[0].out_channels == 12
    assert pruned.verification is not None
    assert pruned.verification.proven
    assert pruned.before.params == sum(p.numel() for p in net.parameters())
    assert pruned.after.params == sum(p.numel() for p in pruned.model.parameters())
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert any("multiply-accumulates are those of backbone, head" in note for note in pruned.notes)
    boxes = pruned.model([torch.randn(3, 32, 16)])[0]["boxes"]  # another size
    assert boxes.shape[1] == 4


def test_the_result_is_the_masked_dense_network() -> None:
    net = detector()
    pruned = secateur.prune(net, images(), ratio=0.5, part="backbone")
    masked = copy.deepcopy(net)
    with torch.no_grad():
        for name in ("stem", "body"):
            layer = masked.backbone.get_submodule(name)
            gone = torch.ones(layer.out_channels, dtype=torch.bool)
            gone[list(pruned.plan.keep[f"backbone.{name}.weight"][0])] = False
            layer.weight[gone], layer.bias[gone] = 0, 0
    given = images()
    for ours, theirs in zip(pruned.model(*given), masked(*given), strict=True):
        assert torch.allclose(ours["scores"], theirs["scores"], atol=1e-5)


def test_saved_loaded_applied_and_cut_again(tmp_path: Path) -> None:
    net = detector()
    given = images()
    pruned = secateur.prune(net, given, ratio=0.5, part=["backbone", "head"])
    pruned.save(tmp_path / "small")
    loaded = secateur.load(tmp_path / "small", Detector())
    assert torch.equal(loaded.model(*given)[0]["boxes"], pruned.model(*given)[0]["boxes"])
    again = secateur.apply(net, secateur.Plan.from_json(pruned.plan.to_json()), given)
    assert torch.equal(again.model(*given)[0]["boxes"], pruned.model(*given)[0]["boxes"])
    further = secateur.prune(pruned, ratio=0.5, part="head")
    assert further.model.head[0].out_channels == 6
    assert len(further.plan.keep["head.0.weight"][0]) == 6
    assert further.plan.dense_shapes["head.0.weight"][0] == 24
    twice = secateur.apply(net, further.plan, given)
    assert torch.equal(twice.model(*given)[0]["boxes"], further.model(*given)[0]["boxes"])


def test_what_goes_along_in_training_loops() -> None:
    net = detector()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    pruned = secateur.prune(net, images(), ratio=0.5, part="backbone")
    carried = pruned.carry(optimizer)
    assert [p.shape for p in carried.param_groups[0]["params"]] == [p.shape for p in pruned.model.parameters()]
    assert "stem" in str(pruned.explain("backbone.stem"))


def test_calibration_data_go_through_the_network() -> None:
    net = detector()
    data = [([torch.randn(3, 16, 16)],) for _ in range(4)]
    pruned = secateur.prune(net, data[0], ratio=0.5, part="backbone", criterion="apoz", data=data)
    assert pruned.model.backbone.stem.out_channels == 8


def test_only_and_ignore_are_names_of_the_network() -> None:
    net = detector()
    pruned = secateur.prune(net, images(), ratio=0.5, part=[net.backbone, "head"], ignore=["backbone.stem"])
    assert pruned.model.backbone.stem.out_channels == 16
    assert pruned.model.backbone.body.out_channels == 16
    assert pruned.model.head[0].out_channels == 12


class Reads(nn.Module):
    """The code around the part reads a size of it."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x) / self.part[0].out_features


def test_a_network_that_reads_what_changed_is_refused() -> None:
    with pytest.raises(VerificationError, match="reads something of it that the cut changes"):
        secateur.prune(Reads(), torch.randn(2, 6), ratio=0.5, part="part")


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part, self.other = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)), nn.Linear(6, 16)
        self.other.weight = self.part[0].weight

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x) + self.other(x).mean(1, keepdim=True)


def test_a_tensor_that_is_used_outside_of_the_part_is_named() -> None:
    with pytest.raises(InputError, match=r"would change part\.0\.weight, which is other\.weight outside"):
        secateur.prune(Shared(), torch.randn(2, 6), ratio=0.5, part="part")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"part": "unused"}, "never called with these inputs.*Modules that are called"),
        ({"part": "backbon"}, "backbone"),
        ({"part": ["backbone", "backbone.stem"]}, "lies inside 'backbone'"),
        ({"part": []}, "names no submodule"),
        ({"part": nn.Linear(2, 2)}, "is not a module of the network"),
        ({"part": "backbone", "criterion": "taylor"}, "needs the loss"),
        ({"part": "backbone", "also": {"embed": images()}}, "cannot be given with also=…"),
        ({"part": "backbone", "ignore": "backbone.stm"}, "stm"),
    ],
)
def test_bad_parts_are_said(given: dict[str, object], message: str) -> None:
    net = detector()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(InputError, match=message):
        secateur.prune(net, images(), ratio=0.5, **given)  # type: ignore[arg-type]
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.part(x)
        return y if float(y.detach().sum()) == 0 else y * 2


def test_a_part_can_be_a_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Around(), torch.randn(3, 6)
    pruned = secateur.prune(net, x, ratio=0.5, part="part", backend="graph")
    assert type(pruned.model) is Around
    assert pruned.plan.islands == ("part",)
    assert pruned.model(torch.randn(5, 6)).shape == (5, 4)
    pruned.save(tmp_path / "small")
    assert torch.equal(secateur.load(tmp_path / "small", Around()).model(x), pruned.model(x))


class OtherWay(nn.Module):
    """Long inputs go another way, which the first call does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 16, 1), nn.Conv1d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(y.sin() if x.shape[-1] < 8 else y.sin() + 1)


class CallsTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = OtherWay()

    def forward(self, x: Tensor) -> Tensor:
        short = self.part(x[..., :4]).mean(-1)
        return short if float(short.detach().sum()) == 0 else short + self.part(x).mean(-1)


def test_a_part_that_is_called_with_several_shapes_is_proven_at_each() -> None:
    torch.manual_seed(0)
    with pytest.raises(VerificationError, match="goes another way"):
        secateur.prune(CallsTwice(), torch.randn(2, 3, 12), ratio=0.5, part="part", backend="graph")
    pruned = secateur.prune(CallsTwice(), torch.randn(2, 3, 12), ratio=0.5, part="part", backend="module")
    assert pruned.model.part.first.out_channels == 8


# --------------------------------------------------------------------------------------- what a stranger tried on them


class Head(nn.Module):
    def __init__(self, first: nn.Linear | None = None) -> None:
        super().__init__()
        self.a, self.b = first or nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, flip: bool = False) -> Any:
        y = self.a(x.float()).relu()
        return self.b(y.flip(1) if flip else y)


class Calls(nn.Module):
    """``run`` is what the network does with its parts."""

    def __init__(self, run: Any, **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def seeded(run: Any, **parts: nn.Module) -> tuple[Calls, Tensor]:
    torch.manual_seed(0)
    for module in Calls(run, **parts).modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    return Calls(run, **parts).eval(), torch.randn(5, 6)


@pytest.mark.parametrize(
    "run",
    [lambda m, x: m.head(x) + m.head(x, flip=True), lambda m, x: m.head(x, False) + m.head(x, True)],
)
def test_other_arguments_are_another_call(run: Any) -> None:
    net, x = seeded(run, head=Head())
    with pytest.raises(VerificationError, match=r"called with .*True"):
        secateur.prune(net, x, ratio=0.5, part="head")


class GivesSize(Head):
    def forward(self, x: Tensor, flip: bool = False) -> Any:
        y = self.a(x).relu()
        return self.b(y), y.shape[1]


def test_a_size_among_the_results_must_not_change() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y, n = m.head(x)
        return y / n  # type: ignore[no-any-return]

    net, x = seeded(run, head=GivesSize())
    with pytest.raises(VerificationError, match=r"gives \[8\] where the dense part gives \[16\]"):
        secateur.prune(net, x, ratio=0.5, part="head")


def test_modules_that_hang_elsewhere_too_are_refused() -> None:
    shared = nn.Linear(6, 16)
    net, x = seeded(lambda m, x: m.p(x) + m.q(x), p=Head(shared), q=Head(shared))
    with pytest.raises(InputError, match=r"would change p\.a\.weight, which is q\.a\.weight outside"):
        secateur.prune(net, x, ratio=0.5, part=["p", "q"])
    head = Head()
    net, x = seeded(lambda m, x: m.head(x) + m.first(x).mean(1, keepdim=True), head=head, first=head.a)
    with pytest.raises(InputError, match=r"which is first\.weight outside"):
        secateur.prune(net, x, ratio=0.5, part="head")


@pytest.mark.parametrize("name", ["head", "alias"])
def test_a_part_with_two_names(name: str, tmp_path: Path) -> None:
    head = Head()
    net, x = seeded(lambda m, x: m.head(x), head=head, alias=head)
    optimizer = torch.optim.Adam(net.parameters())
    net(x).sum().backward()
    optimizer.step()
    pruned = secateur.prune(net, x, ratio=0.5, part=name)
    assert pruned.model.head is pruned.model.alias
    carried = pruned.carry(optimizer)
    assert carried.state[pruned.model.head.a.weight]["exp_avg"].shape == (8, 6)
    pruned.save(tmp_path)
    again = Head()
    loaded = secateur.load(tmp_path, Calls(net.run, head=again, alias=again))
    assert torch.equal(loaded.model(x), pruned.model(x))
    with pytest.raises(InputError, match="a part as well"):
        secateur.prune(net, x, ratio=0.5, part=["head", "alias"])


class Counts(Head):
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor, flip: bool = False) -> Any:
        self.seen += 1
        return super().forward(x) + self.seen


def test_the_dense_network_is_left_as_it_was() -> None:
    net, x = seeded(lambda m, x: m.head(x), head=Counts())
    pruned = secateur.prune(net, x, ratio=0.5, part="head")
    assert float(net.head.seen) == 0  # type: ignore[union-attr, arg-type]
    assert float(pruned.model.head.seen) == 0
    assert pruned.verification is not None
    assert pruned.verification.proven


def test_frozen_layers_of_a_part_stay_frozen() -> None:
    body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    net, x = seeded(lambda m, x: m.body(x), body=body)
    net.train()
    net.body[1].eval()  # type: ignore[index]
    pruned = secateur.prune(net, x, ratio=0.5, part="body")
    assert pruned.model.body.training
    assert not pruned.model.body[1].training


def test_ways_beyond_those_that_are_compared_are_said() -> None:
    net, x = seeded(lambda m, x: sum(m.head(x[: k % 5 + 1].repeat(k, 1)).mean() for k in range(1, 25)), head=Head())
    pruned = secateur.prune(net, x, ratio=0.5, part="head")
    assert pruned.verification is not None
    assert not pruned.verification.proven
    assert any("more than 16 ways" in note for note in pruned.notes)


def test_data_for_several_parts_have_to_last() -> None:
    net, x = seeded(lambda m, x: m.one(m.head(x)), head=Head(), one=Head(nn.Linear(4, 16)))
    given = {"ratio": 0.5, "part": ["head", "one"], "criterion": "apoz"}
    with pytest.raises(InputError, match="every part wants it"):
        secateur.prune(net, x, data=iter([x, x]), **given)  # type: ignore[arg-type]
    assert secateur.prune(net, x, data=[x, x], **given).model.one.a.out_features == 8  # type: ignore[arg-type]


def test_a_part_with_nothing_to_cut_is_named() -> None:
    net, x = seeded(lambda m, x: m.one(m.head(x)), head=Head(), one=nn.Linear(4, 4))
    with pytest.raises(SecateurError, match="Of the part 'one': Nothing can be pruned"):
        secateur.prune(net, x, ratio=0.5, part=["head", "one"])


@pytest.mark.parametrize("alone", [["nope"], "head", ["head."], [1], [["head"]], ["head", "head"], ["head"], []])
def test_damaged_plans_of_parts_are_refused(alone: Any) -> None:
    net, x = seeded(lambda m, x: m.head(x) + m.body(x), head=Head(), body=Head())
    plan = secateur.prune(net, x, ratio=0.5, part=["head", "body"]).plan.to_dict()
    plan["alone"] = alone
    if alone == []:  # a plan of the whole network, which may be what it is
        assert secateur.apply(net, secateur.Plan.from_dict(plan), x).verification is not None
        return
    with pytest.raises(PlanError):
        secateur.apply(net, secateur.Plan.from_dict(plan), x)
