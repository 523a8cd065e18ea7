"""Whole layers removed: the same as a network written without them, by both back ends, and reloadable."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import BudgetError, InputError, PlanError, UnknownNameError, VerificationError, WeightsError
from secateur.core.plan import Plan
from secateur.cut.layers import _network, _proof
from secateur.graph.flow import flow
from secateur.graph.groups import solve
from secateur.graph.trace import trace
from secateur.models import create
from secateur.models.darknet import Darknet
from secateur.models.darknet_cfg import parse_cfg
from secateur.models.resnet import BasicBlock
from secateur.surgery.module import prune_module
from secateur.surgery.substitutes import substitute
from zoo import ZOO, Lambda, image, settle

BACKENDS = ["module", "graph"]


class Blocks(nn.Module):
    """Two stages of two ResNet blocks: three identities and a shortcut that pads (A) or projects (B)."""

    def __init__(self, option: str = "A") -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(6, 6, 1, option), BasicBlock(6, 6, 1, option))
        self.layer2 = nn.Sequential(BasicBlock(6, 10, 2, option), BasicBlock(10, 10, 1, option))
        self.linear = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.layer2(self.layer1(self.stem(x).relu())).mean((2, 3)))


def resnet(option: str = "A") -> tuple[nn.Module, Tensor]:
    return settle(Blocks(option)), image(3, 1, 8, 8)


# ------------------------------------------------------------------------- against networks written without them


@pytest.mark.parametrize("backend", BACKENDS)
def test_resnet_without_blocks(backend: str) -> None:
    model, x = resnet()
    pruned = secateur.remove_layers(model, x, names=["layer1.1", "layer2.1"], backend=backend)
    by_hand = copy.deepcopy(model)
    del by_hand.layer1[1], by_hand.layer2[1]
    assert torch.equal(pruned.model(x), by_hand(x))
    assert pruned.backend == backend
    assert pruned.plan.removed == ("layer1.1", "layer2.1")
    assert pruned.after.params == sum(p.numel() for p in by_hand.parameters()) == secateur.count(pruned.model, x).params
    assert pruned.after.macs == secateur.count(by_hand, x).macs == secateur.count(pruned.model, x).macs
    names = {n for n in model.state_dict() if not n.startswith(("layer1.1.", "layer2.1."))}
    assert set(pruned.model.state_dict()) == names
    assert all(torch.equal(v, pruned.model.state_dict()[n]) for n, v in model.state_dict().items() if n in names)


class PreActivation(nn.Module):
    """Two blocks in which normalisation and a ReLU in place come first (He et al., arXiv:1603.05027)."""

    def __init__(self, blocks: tuple[str, ...] = ("b0", "b1")) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.blocks = nn.ModuleDict({b: nn.Sequential(
            nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.ReLU(inplace=True),
            nn.Conv2d(12, 8, 3, padding=1)) for b in blocks})  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks.values():
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def test_pre_activation_without_a_block() -> None:
    model, x = settle(PreActivation()), image(2, 3, 8, 8)
    pruned = secateur.remove_layers(model, x, names=["blocks.b1"])
    by_hand = PreActivation(("b0",)).eval()
    by_hand.load_state_dict({n: v for n, v in model.state_dict().items() if "b1" not in n})
    assert torch.equal(pruned.model(x), by_hand(x))
    assert pruned.backend == "graph"
    assert "no module of its own" in pruned.notes[0]


class TinyViT(nn.Module):
    """A transformer whose blocks know which of their two branches they have."""

    class Block(nn.Module):
        def __init__(self, parts: str) -> None:
            super().__init__()
            self.parts = parts
            self.norm1, self.norm2 = nn.LayerNorm(12), nn.LayerNorm(12)
            if "a" in parts:
                self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
            if "m" in parts:
                self.mlp = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Dropout(0.1), nn.Linear(20, 12))

        def forward(self, x: Tensor) -> Tensor:
            if "a" in self.parts:
                y = self.norm1(x)
                x = x + self.attention(y, y, y, need_weights=False)[0]
            return x + self.mlp(self.norm2(x)) if "m" in self.parts else x

    def __init__(self, *parts: str) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 4, 4)
        self.positions = nn.Parameter(torch.randn(1, 4, 12))
        self.blocks = nn.ModuleList(self.Block(p) for p in parts)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def test_vit_without_an_attention_and_an_mlp() -> None:
    model, x = settle(TinyViT("am", "am", "am")), image(2, 3, 8, 8)
    names = ["blocks.0.attention", "blocks.2.mlp"]
    pruned = secateur.remove_layers(model, x, names=names)
    by_hand = TinyViT("m", "am", "a").eval()
    by_hand.load_state_dict({n: v for n, v in model.state_dict().items() if n in by_hand.state_dict()})
    torch.testing.assert_close(pruned.model(x), by_hand(x), rtol=1e-6, atol=1e-7)
    gone = [n for n in model.state_dict() if n not in pruned.model.state_dict()]
    assert {n.rsplit(".", 1)[0].removesuffix(".out_proj") for n in gone} == {
        "blocks.0.attention", "blocks.0.norm1", "blocks.2.mlp.0", "blocks.2.mlp.3", "blocks.2.norm2"}  # fmt: skip


def test_a_vit_block_without_branches_leaves_its_list() -> None:
    model, x = settle(TinyViT("am", "am")), image(2, 3, 8, 8)
    pruned = secateur.remove_layers(model, x, names=["blocks.1"])
    assert pruned.plan.removed == ("blocks.1.attention", "blocks.1.mlp")
    assert len(pruned.model.blocks) == 1
    assert pruned.backend == "module"


def darknet(blocks: int) -> Darknet:
    layer = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize={}\npad=1\nactivation=leaky\n"
    block = layer.format(4, 1) + layer.format(8, 3) + "[shortcut]\nfrom=-3\nactivation=linear\n"
    head = "[convolutional]\nfilters=7\nsize=1\n[yolo]\nanchors=1,2\nclasses=2\n"
    return Darknet(parse_cfg("[net]\n" + layer.format(8, 3) + blocks * block + head))


@pytest.mark.parametrize("backend", BACKENDS)
def test_darknet_loses_the_shortcut_with_its_two_convolutions(backend: str) -> None:
    model, x = settle(darknet(3)), image(2, 3, 8, 8)
    pruned = secateur.remove_layers(model, x, names=["layers.6"], backend=backend)
    by_hand, state = darknet(2).eval(), iter(pruned.model.state_dict().values())
    by_hand.load_state_dict({name: next(state) for name in by_hand.state_dict()})
    assert torch.equal(pruned.model(x)[0], by_hand(x)[0])
    assert pruned.before.params - pruned.after.params == 8 * 4 + 2 * 4 + 9 * 4 * 8 + 2 * 8


@pytest.mark.parametrize("spelling", ["fused", "einsum", "relative", "linear"])
def test_branches_however_attention_is_written(spelling: str) -> None:
    model, x = ZOO[f"attention_{spelling}"]()
    settle(model)
    for branch, last in (("attention", "attention.out.weight"), ("mlp", "mlp.2.weight")):
        pruned = secateur.remove_layers(model, x, names=[branch])
        assert pruned.verification is not None
        assert pruned.after.params < pruned.before.params
        assert {n for n in model.state_dict() if n not in pruned.model.state_dict()} >= {last}


# ------------------------------------------------------------------------------------------------ what is left


def test_activations_that_follow_the_sum_stay_and_are_not_repeated() -> None:
    class Block(nn.Module):
        def __init__(self, after: nn.Module) -> None:
            super().__init__()
            self.body, self.after = nn.Linear(6, 6), after

        def forward(self, x: Tensor) -> Tensor:
            return self.after(x + self.body(x))

    kinds = [nn.ReLU(inplace=True), nn.ReLU(), nn.LeakyReLU(0.3), nn.ELU(0.5)]
    model, x = nn.Sequential(nn.Linear(6, 6), *map(Block, kinds), Block(nn.ReLU())), torch.randn(4, 6)
    pruned = secateur.remove_layers(model, x, count=4, ignore=["5"])
    left = ["ReLU()", "Identity()", "LeakyReLU(negative_slope=0.3)", "ELU(alpha=0.5)"]
    assert [str(m) for m in pruned.model[1:5]] == left
    graph = secateur.remove_layers(model, x, count=4, ignore=["5"], backend="graph").model
    assert torch.equal(graph(x), pruned.model(x))
    called = [graph.get_submodule(n.target) for n in graph.graph.nodes if n.op == "call_module"]
    assert sum(type(module) is nn.ReLU for module in called) == 2


@pytest.mark.parametrize("backend", ["auto", "graph"])
def test_writing_into_the_sum_does_not_reach_the_skip(backend: str) -> None:
    def run(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        first = m.stem(x)
        second = (first + m.a(first)).mul_(3)
        return m.out(second + m.b(second)), first

    net = Lambda(run, stem=nn.Linear(4, 6), a=nn.Linear(6, 6), b=nn.Linear(6, 6), out=nn.Linear(6, 2))
    x = torch.randn(2, 4)
    got, kept = secateur.remove_layers(net, x, names=["a"], backend=backend).model(x)
    assert torch.equal(kept, net.stem(x))
    torch.testing.assert_close(got, net.out(3 * kept + net.b(3 * kept)))


def test_a_branch_that_writes_into_the_skip_leaves_what_it_wrote() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        h = m.stem(x)
        h = h + m.a(h.relu_())
        return m.out(h + m.b(h))

    net = Lambda(run, stem=nn.Linear(4, 6), a=nn.Linear(6, 6), b=nn.Linear(6, 6), out=nn.Linear(6, 2))
    x = torch.randn(2, 4)
    h = net.stem(x).relu()
    torch.testing.assert_close(secateur.remove_layers(net, x, names=["a"]).model(x), net.out(h + net.b(h)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_result_trains_and_the_original_is_untouched(backend: str) -> None:
    model, x = resnet()
    before, y = copy.deepcopy(model.state_dict()), model(x)
    pruned = secateur.remove_layers(model, x, count=2, backend=backend).model.train()
    pruned(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pruned.parameters())
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert torch.equal(model(x), y)


def test_the_proof_notices_another_network() -> None:
    model, x = resnet()
    network = _network(model, x)
    branch = {b.name: b for b in network.branches}["layer1.1"]
    right = secateur.remove_layers(model, x, names=["layer1.1"]).model
    assert _proof(right, network.groups, [branch]).max_relative_error == 0
    wrong = secateur.remove_layers(model, x, names=["layer1.0"]).model
    with pytest.raises(VerificationError, match="differs"):
        _proof(wrong, network.groups, [branch])
    with pytest.raises(VerificationError, match="differs"):
        _proof(model, network.groups, [branch])


# ----------------------------------------------------------------------------------------------------- ranking


def test_branches_are_ranked_by_the_scale_that_ends_them() -> None:
    model, x = resnet()
    found = secateur.removable(model, x)
    scores = {b.name: model.get_submodule(b.name).bn2.weight.abs().mean().item() for b in found if not b.reason}
    assert [b.name for b in found[:-1]] == sorted(scores, key=scores.__getitem__)
    assert {b.name: b.score for b in found[:-1]} == pytest.approx(scores)
    assert (found[-1].name, found[-1].score) == ("layer2.0", None)
    block = model.layer1[0]
    (first,) = (b for b in found if b.name == "layer1.0")
    assert first.params == sum(p.numel() for p in block.parameters())
    assert first.macs == 2 * 6 * 6 * 9 * 8 * 8
    lowest = sorted(scores, key=scores.__getitem__)[:2]
    assert set(secateur.remove_layers(model, x, count=2).plan.removed) == set(lowest)
    assert set(secateur.remove_layers(model, x, ratio=0.7).plan.removed) == set(lowest)


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_other_scores_are_of_the_last_weights(criterion: str) -> None:
    model, x = settle(TinyViT("am", "am")), image(2, 3, 8, 8)
    last = {b: model.get_submodule(f"blocks.{b}") for b in (0, 1)}
    weights = {f"blocks.{b}.attention": m.attention.out_proj.weight for b, m in last.items()}
    weights |= {f"blocks.{b}.mlp": m.mlp[3].weight for b, m in last.items()}
    norms = {"l1": lambda w: w.abs().mean().item(), "l2": lambda w: w.square().mean().sqrt().item()}
    found = {b.name: b.score for b in secateur.removable(model, x, criterion=criterion)}
    assert found == pytest.approx({n: norms[criterion](w) for n, w in weights.items()})
    if criterion == "l1":
        assert found == {b.name: b.score for b in secateur.removable(model, x)}


def test_random_scores_follow_the_seed() -> None:
    model, x = resnet()
    first, again, other = (
        [b.name for b in secateur.removable(model, x, criterion="random", seed=s)] for s in (1, 1, 2)
    )
    assert first == again != other


# --------------------------------------------------------------------------------- plans, artifacts, composition


@pytest.mark.parametrize("backend", BACKENDS)
def test_artifacts_reload_with_and_without_the_users_class(backend: str, tmp_path: Path) -> None:
    model, x = resnet()
    pruned = secateur.remove_layers(model, x, count=2, backend=backend)
    with torch.no_grad():
        for p in pruned.model.parameters():
            p.mul_(1.01)  # weights move after the cut
    pruned.save(tmp_path, graph=True)
    expected = pruned.model(x)
    for loaded in (secateur.load(tmp_path).model, secateur.load(tmp_path, model=Blocks()).model):
        assert torch.equal(loaded(x), expected)
        assert set(loaded.state_dict()) == set(pruned.model.state_dict())
    with pytest.raises((PlanError, WeightsError)):
        secateur.load(tmp_path, model=create("resnet_digits"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ["layers first", "channels first"])
def test_channels_and_layers_compose_in_both_orders(order: str, backend: str, tmp_path: Path) -> None:
    model, x = resnet("B")
    names, options = ["layer1.1", "layer2.1"], {"ratio": 0.5, "scope": "block", "backend": backend}
    current = model
    for layers in (True, False) if order == "layers first" else (False, True):
        pruned = (
            secateur.remove_layers(current, x, names=names, backend=backend)
            if layers
            else secateur.prune(current, x, **options)
        )
        current = pruned.model
    assert pruned.plan.removed == ("layer1.1", "layer2.1")
    assert len(pruned.plan.parts) == 2
    expected = current(x)
    fresh = Blocks("B")
    fresh.load_state_dict(model.state_dict())
    again = secateur.apply(fresh.eval(), Plan.from_json(pruned.plan.to_json()), x)
    torch.testing.assert_close(again.model(x), expected)
    assert again.before.params == secateur.count(model, x).params
    pruned.save(tmp_path, graph=True)
    for loaded in (
        secateur.load(tmp_path).model,
        secateur.load(tmp_path, model=Blocks("B")).model,
    ):
        torch.testing.assert_close(loaded(x), expected)
    blocks = [m for m in model.modules() if isinstance(m, BasicBlock)]
    assert len(blocks) == 4
    assert secateur.count(current, x).macs < secateur.count(model, x).macs


def test_layers_are_removed_in_several_steps() -> None:
    model, x = settle(TinyViT("am", "am")), image(2, 3, 8, 8)
    one = secateur.remove_layers(model, x, names=["blocks.0.attention"])
    two = secateur.remove_layers(one.model, x, names=["blocks.1.mlp"])
    assert two.plan.removed == ("blocks.0.attention", "blocks.1.mlp")
    torch.testing.assert_close(secateur.apply(model, two.plan, x).model(x), two.model(x))


def test_plans_say_what_they_remove_and_older_ones_still_read() -> None:
    model, x = resnet()
    plan = secateur.remove_layers(model, x, count=1).plan
    data = json.loads(plan.to_json())
    assert data["format"] == 2
    assert data["replaced"] == {plan.removed[0]: "identity"}
    assert Plan.from_dict(data) == plan
    assert plan.removed[0] in repr(plan)
    channels = secateur.prune(model, x, ratio=0.5).plan.to_dict()
    assert channels["format"] == 4  # the shortcut's padding is in attributes
    assert "removed" not in channels
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    assert secateur.prune(plain, torch.randn(2, 4), ratio=0.5).plan.to_dict()["format"] == 1


def test_plans_that_do_not_fit_are_refused() -> None:
    model, x = resnet()
    with pytest.raises(PlanError, match=r"'layer9\.1'.*layer"):
        secateur.apply(model, Plan({}, {}, removed=("layer9.1",)), x)
    with pytest.raises(PlanError, match="cannot lose"):
        secateur.apply(model, Plan({}, {}, removed=("layer2.0",)), x)
    wrong = ("os.system", "relu x", "identityy", "identity 1", "", "hardtanh 5 1", "celu 0", "gelu 0.1", "threshold 1")
    for kind in (*wrong, "relu 1", "elu 1 1"):  # numbers are no switches: they would make them write in place
        with pytest.raises(PlanError, match="understood"):
            substitute(kind)


# -------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, InputError, "got none"),
        ({"count": 1, "ratio": 0.5}, InputError, "count and ratio"),
        ({"count": 1, "names": ["layer1.0"]}, InputError, "names and another"),
        ({"count": 0}, InputError, "at least 1; got 0"),
        ({"count": 3}, BudgetError, r"3 residual branches.*at most 2"),
        ({"count": 2, "ignore": ["layer1"]}, BudgetError, "at most 1"),
        ({"ratio": 1.0}, InputError, r"\(0, 1\)"),
        ({"ratio": 0.05}, BudgetError, "5% of 3 residual branches is none"),
        ({"names": []}, InputError, "empty"),
        ({"names": ["layer1.7"]}, UnknownNameError, r"'layer1\.[01]'"),
        ({"names": ["layer2.0"]}, InputError, "changes the values"),
        ({"names": ["layer1.1"], "ignore": ["layer1"]}, InputError, "in ignore"),
        ({"names": ["layer*"]}, BudgetError, "all 3"),
        ({"count": 1, "ignore": ["layer7"]}, UnknownNameError, "residual branch"),
        ({"count": 1, "criterion": "l3"}, UnknownNameError, "'l1'"),
        ({"count": 1, "backend": "modul"}, UnknownNameError, "'module'"),
    ],
)
def test_wrong_requests(options: dict[str, Any], error: type[Exception], words: str) -> None:
    model, x = resnet()
    with pytest.raises(error, match=words):
        secateur.remove_layers(model, x, **options)


def test_networks_without_branches_or_scales() -> None:
    with pytest.raises(BudgetError, match="no residual branch"):
        secateur.remove_layers(create("lenet5"), torch.zeros(1, 1, 28, 28), count=1)
    assert secateur.removable(create("lenet5"), torch.zeros(1, 1, 28, 28)) == ()
    with pytest.raises(InputError, match=r"bn_scale needs batch normalisation.*'blocks\.0\.attention'"):
        secateur.removable(TinyViT("am"), image(2, 3, 8, 8), criterion="bn_scale")
    with pytest.raises(PlanError, match="no module of its own"):
        secateur.remove_layers(TinyViT("am", "am"), image(2, 3, 8, 8), names=["blocks.0.mlp"], backend="module")


def test_a_projection_alone_says_so() -> None:
    net = Lambda(lambda m, x: m.out(m.b(h := m.a(x)) + m.c(h)), **{n: nn.Linear(6, 6) for n in ("a", "b", "c", "out")})
    with pytest.raises(BudgetError, match=r"projection \([bc]\)"):
        secateur.remove_layers(net, torch.randn(2, 6), count=1)


def test_costs_of_the_whole_graph_agree() -> None:
    model, x = resnet()
    network = _network(model, x)
    assert network.counts() == secateur.count(model, x)
    assert solve(flow(trace(model, x))).units == network.groups.units


class Layer(nn.Module):
    """Two branches, as a transformer's layers have; ``number`` is its place."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.mix, self.wide, self.narrow = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor, seen: list[int]) -> Tensor:
        seen.append(self.number)
        x = x + self.mix(x).tanh()
        return x + self.narrow(self.wide(x).relu())  # type: ignore[no-any-return]


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.layers, self.last = nn.Linear(4, 8), nn.ModuleList(Layer(k) for k in range(5)), nn.Linear(8, 3)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        x, self.seen = self.first(x), []
        for layer in self.layers:
            x = layer(x, self.seen)
        return self.last(x)  # type: ignore[no-any-return]


def without(net: Deep, *numbers: int) -> Deep:
    """By hand: layers whose branches give nothing."""
    made = copy.deepcopy(net)
    with torch.no_grad():
        for number in numbers:
            for layer in (made.layers[number].mix, made.layers[number].narrow):
                layer.weight.zero_()
                layer.bias.zero_()
    return made


def test_whole_layers_leave_their_list() -> None:
    net, x = Deep(), torch.randn(6, 4)
    pruned = secateur.remove_layers(net, x, names=["layers.1", "layers.3"])
    assert pruned.backend == "module"
    assert type(pruned.model) is Deep
    assert len(pruned.model.layers) == 3
    assert list(dict(pruned.model.named_parameters())) == [
        n for n, _ in net.named_parameters() if not n.startswith(("layers.3.", "layers.4."))
    ]
    assert torch.allclose(pruned.model(x), without(net, 1, 3)(x), atol=1e-6)
    assert pruned.model.seen == [0, 1, 2]  # they know their new places
    assert pruned.plan.shortened == {"layers": (0, 2, 4)}
    assert torch.equal(pruned.model.layers[2].mix.weight, net.layers[4].mix.weight)
    assert len(net.layers) == 5
    assert pruned.after.params == sum(p.numel() for p in pruned.model.parameters())


def test_shorter_lists_are_saved_replayed_and_cut_further(tmp_path: Path) -> None:
    net, x = Deep(), torch.randn(6, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(x).sum().backward()
    optimizer.step()
    pruned = secateur.remove_layers(net, x, names=["layers.1", "layers.3"])
    carried = pruned.carry(optimizer)
    momentum = carried.state[pruned.model.layers[2].mix.weight]["momentum_buffer"]
    assert torch.equal(momentum, optimizer.state[net.layers[4].mix.weight]["momentum_buffer"])
    pruned.save(tmp_path / "one")
    assert torch.equal(secateur.load(tmp_path / "one", Deep()).model(x), pruned.model(x))
    narrow = secateur.prune(pruned, ratio=0.5)
    assert len(narrow.plan.keep["layers.4.wide.weight"][0]) == 8  # by the names of the first network
    shorter = secateur.remove_layers(narrow, names=["layers.0"])
    assert shorter.plan.shortened == {"layers": (2, 4)}
    shorter.save(tmp_path / "two")
    loaded = secateur.load(tmp_path / "two", Deep())
    assert torch.equal(loaded.model(x), shorter.model(x))
    again = secateur.apply(net, secateur.Plan.from_json(shorter.plan.to_json()), x)
    assert torch.equal(again.model(x), shorter.model(x))
    assert again.model.seen == [0, 1]


def test_a_branch_alone_does_not_shorten_a_list() -> None:
    net, x = Deep(), torch.randn(6, 4)
    pruned = secateur.remove_layers(net, x, names=["layers.1.mix"])
    assert pruned.plan.shortened == {}
    assert pruned.verification is not None


class Counting(Deep):
    """The place of a layer in the list decides what is computed, in code that knows the number of layers."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for number, layer in enumerate(self.layers):
            x = layer(x, []) * (1 + number)
        return self.last(x)  # type: ignore[no-any-return]


def test_layers_that_are_more_than_their_branches_stay_in_their_list() -> None:
    net, x = Counting(), torch.randn(6, 4)
    pruned = secateur.remove_layers(net, x, names=["layers.1"])
    assert pruned.plan.shortened == {}
    assert pruned.verification is not None
    assert pruned.verification.proven


@pytest.mark.parametrize("kept", [[], [2, 1], [0, 9], [-1]])
def test_a_plan_that_keeps_other_elements_is_refused(kept: list[int]) -> None:
    net, x = Deep(), torch.randn(6, 4)
    plan = secateur.remove_layers(net, x, names=["layers.1"]).plan.to_dict()
    plan["shortened"] = {"layers": kept}
    with pytest.raises(PlanError, match=r"no elements of a list|does not have"):
        prune_module(net, {}, shortened=secateur.Plan.from_dict(plan).shortened)


def test_layers_go_whole_lowest_first() -> None:
    net, x = Deep(), torch.randn(6, 4)
    with torch.no_grad():
        for number, scale in enumerate((3.0, 0.1, 2.0, 0.2, 1.0)):
            net.layers[number].mix.weight.mul_(scale)
            net.layers[number].narrow.weight.mul_(scale)
    listed = secateur.removable(net, x, whole=True)
    assert [one.name for one in listed] == ["layers.1", "layers.3", "layers.4", "layers.2", "layers.0"]
    assert listed[0].inside == ("layers.1.mix", "layers.1")
    assert secateur.remove_layers(net, x, count=2, whole=True).plan.shortened == {"layers": (0, 2, 4)}
    kept = secateur.remove_layers(net, x, ratio=0.4, whole=True, ignore=["layers.1"]).plan.shortened
    assert kept == {"layers": (0, 1, 2)}
    with pytest.raises(BudgetError, match="5 layers cannot be removed"):
        secateur.remove_layers(net, x, count=5, whole=True)
    with pytest.raises(BudgetError, match=r"nn\.ModuleList.*none"):
        secateur.remove_layers(settle(TwoBranches()), torch.randn(3, 8), count=1, whole=True)


class TwoBranches(nn.Module):
    """In no list."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.one(x).relu()
        return self.last(x + self.two(x).relu())  # type: ignore[no-any-return]


def test_elements_of_a_chain_go_whole_too() -> None:
    net, x = settle(Blocks()), image(2, 1, 8, 8)
    free = {one.name for one in secateur.removable(net, x, whole=True) if not one.reason}
    assert free == {"layer1.0", "layer1.1", "layer2.1"}
    pruned = secateur.remove_layers(net, x, count=2, whole=True)
    assert pruned.backend == "module"
    assert sum(isinstance(m, nn.Identity) for m in (*pruned.model.layer1, *pruned.model.layer2)) == 2


class Stage(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Layer(k) for k in range(blocks))

    def forward(self, x: Tensor, seen: list[int]) -> Tensor:
        for block in self.blocks:
            x = block(x, seen)
        return x


class Stages(nn.Module):
    def __init__(self, *blocks: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.stages, self.last = nn.Linear(4, 8), nn.ModuleList(map(Stage, blocks)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for stage in self.stages:
            x = stage(x, [])
        return self.last(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("blocks", [(1, 3, 3), (1, 3, 2)])
@pytest.mark.parametrize(
    "cuts",
    [
        [["stages.0", "stages.1.blocks.1"]],
        [["stages.1.blocks.1"], ["stages.0.blocks.0"]],
        [["stages.0.blocks.0"], ["stages.1.blocks.0"], None],
        [["stages.1.blocks.1"], None, ["stages.2.blocks.0"], None],
    ],
)
def test_lists_in_lists_become_shorter(
    blocks: tuple[int, ...], cuts: list[list[str] | None], tmp_path: Path
) -> None:  # fmt: skip
    net, x = Stages(*blocks), torch.randn(5, 4)
    small: Any = net
    for names in cuts:
        small = secateur.prune(small, x, ratio=0.5) if names is None else secateur.remove_layers(small, x, names=names)
        for path, module in small.model.named_modules():
            if isinstance(module, nn.ModuleList):
                assert list(module._modules) == [str(k) for k in range(len(module))], path
    small.save(tmp_path)
    loaded = secateur.load(tmp_path, Stages(*blocks))
    assert torch.equal(loaded.model(x), small.model(x))
    again = secateur.apply(net, secateur.Plan.from_json(small.plan.to_json()), x)
    assert torch.allclose(again.model(x), small.model(x), atol=1e-6)
    for name, dims in small.plan.keep.items():  # by dense names
        assert name in dict(net.named_parameters())
        for dim, kept in dims.items():
            assert max(kept) < dict(net.named_parameters())[name].shape[dim]


@pytest.mark.parametrize(
    ("key", "value"),
    [("shortened", {"layers": [0.5, 1.7]}), ("shortened", {"layers": [False, True]}), ("shortened", {"layers": "134"}),
     ("alone", "body"), ("islands", [1]), ("alone", [""]), ("removed", "layers"), ("removed", [["layers.1"]])],
)  # fmt: skip
def test_odd_values_in_plans_are_no_names_and_numbers(key: str, value: Any) -> None:
    plan = secateur.remove_layers(Deep(), torch.randn(6, 4), names=["layers.1"]).plan.to_dict()
    plan[key] = value
    with pytest.raises(PlanError, match="damaged"):
        Plan.from_dict(plan)


@pytest.mark.parametrize("shortened", [{"layers": [0]}, {"first": [0]}, {"layers": [0, 1, 2, 3, 4]}])
def test_a_network_with_a_damaged_memory_is_refused(shortened: dict[str, list[int]]) -> None:
    net, x = Deep(), torch.randn(6, 4)
    small = secateur.remove_layers(net, x, names=["layers.1"]).model
    plan = json.loads(small.secateur_plan)
    plan["shortened"] = shortened
    small.secateur_plan = json.dumps(plan)
    if len(shortened.get("layers", [])) == 5:  # nothing in it contradicts the network
        secateur.prune(small, x, ratio=0.5)
        return
    with pytest.raises(PlanError, match="keeps 1 elements of"):
        secateur.prune(small, x, ratio=0.5)


def test_the_network_itself_cannot_be_replaced() -> None:
    with pytest.raises(PlanError, match="the network itself"):
        prune_module(Deep(), {}, {"": "identity"})


class Keeps(Deep):
    """It counts its calls, and one of its layers is frozen."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.norm(self.first(x))
        for layer in self.layers:
            x = layer(x, [])
        return self.last(x)  # type: ignore[no-any-return]


def test_shorter_lists_leave_buffers_and_modes_as_they_were() -> None:
    net, x = Keeps().train(), torch.randn(6, 4)
    net.norm.eval()
    pruned = secateur.remove_layers(net, x, names=["layers.1"])
    assert pruned.plan.shortened == {"layers": (0, 2, 3, 4)}
    assert float(net.calls) == 0
    assert float(pruned.model.calls) == 0
    assert pruned.model.training
    assert not pruned.model.norm.training
