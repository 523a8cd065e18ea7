"""Whole experts go: what is left computes what the dense network does whose router never chooses them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.core.errors import BudgetError, InputError, SecateurError, UnknownNameError
from secateur.cut.experts import experts_of
from secateur.graph.reasons import change_for
from tiny_networks import Mixture

SIZES = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
KINDS: dict[str, dict[str, int]] = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
                  "shared_expert_intermediate_size": 20, "decoder_sparse_step": 1},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "head_dim": 4},
}  # fmt: skip
TOKENS = torch.randint(0, 48, (3, 9), generator=torch.Generator().manual_seed(0))
BATCH = {"input_ids": TOKENS}


def mixture(kind: str) -> Any:
    pytest.importorskip("transformers")
    from secateur.models import import_torchvision

    import_torchvision()  # transformers imports it, and would fail the way it does
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **KINDS[kind])).eval()
    for layer in model.model.layers:  # as trained ones: routers that prefer, experts that differ
        nn.init.normal_(layer.mlp.gate.weight)
        nn.init.normal_(layer.mlp.experts.down_proj, std=0.3)
    return model


def kept_of(pruned: secateur.Pruned) -> dict[str, list[int]]:
    return {name: list(dims[0]) for name, dims in pruned.plan.keep.items() if name.endswith("gate.weight")}


def never_chosen(gate: Any, kept: Sequence[int]) -> Callable[[Tensor], Any]:
    """The forward of a router of transformers, written anew, with logits of −∞."""

    def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = F.linear(x.reshape(-1, gate.weight.shape[1]), gate.weight)
        gone = [e for e in range(logits.shape[1]) if e not in kept]
        logits[:, gone] = float("-inf")
        values, numbers = logits.softmax(-1).topk(gate.top_k, -1)
        if getattr(gate, "norm_topk_prob", True):
            values = values / values.sum(-1, keepdim=True)
        return logits, values, numbers

    return forward


@pytest.mark.parametrize("criterion", ["routing", "output_change", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_is_the_dense_network_that_never_chooses_the_others(kind: str, criterion: str) -> None:
    model = mixture(kind)
    pruned = secateur.remove_experts(model, BATCH, keep=3, criterion=criterion, data=[BATCH])
    assert not pruned.lost
    assert pruned.verification.proven
    assert pruned.plan.provenance["criterion"] == criterion
    assert getattr(pruned.model.config, next(iter(KINDS[kind]))) == 3
    dense = pruned.model(TOKENS).logits
    for name, kept in kept_of(pruned).items():
        assert len(kept) == 3
        gate = model.get_submodule(name.removesuffix(".weight"))
        gate.forward = never_chosen(gate, kept)
    with torch.no_grad():
        assert torch.allclose(dense, model(TOKENS).logits, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_alone_opens_and_generates(kind: str, tmp_path: Path) -> None:
    pruned = secateur.remove_experts(mixture(kind), BATCH, ratio=0.5, data=[BATCH])
    pruned.model.save_pretrained(tmp_path / "saved")
    torch.save({"tokens": TOKENS, "logits": pruned.model(TOKENS).logits.detach()}, tmp_path / "said.pt")
    code = ALONE.format(folder=str(tmp_path / "saved"), said=str(tmp_path / "said.pt"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


ALONE = """
import sys, torch
try:
    import torchvision
except ImportError:
    pass
except RuntimeError:  # its compiled operators do not fit this PyTorch: declaring them is enough
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from transformers import AutoModelForCausalLM
said = torch.load({said!r}, weights_only=True)
model = AutoModelForCausalLM.from_pretrained({folder!r}).eval()
assert torch.allclose(model(said["tokens"]).logits, said["logits"], atol=1e-6)
assert model.generate(said["tokens"][:1], max_new_tokens=4, do_sample=False).shape == (1, 13)
assert not any(name.startswith("secateur") for name in sys.modules)
"""


def test_scores_of_a_router_are_its_mean_weights() -> None:
    """By hand: token after token."""
    model = mixture("qwen3_moe")
    seen: list[Tensor] = []
    gate = model.model.layers[0].mlp.gate
    gate.register_forward_hook(lambda module, args, out: seen.append(out[0]))
    mask = torch.ones_like(TOKENS)
    mask[0, :4] = 0
    batch = {"input_ids": TOKENS, "attention_mask": mask}
    found = experts_of(model, batch, data=[batch])
    seen.clear()
    model(**batch)
    want = [0.0] * 4
    rows = [row for row, hidden in zip(seen[0].tolist(), (mask == 0).flatten().tolist(), strict=True) if not hidden]
    for row in rows:
        first, second = sorted(range(4), key=lambda e: -row[e])[:2]
        shares = torch.tensor([row[first], row[second]], dtype=torch.float64).softmax(-1).tolist()
        want[first] += shares[0] / len(rows)
        want[second] += shares[1] / len(rows)
    assert found[0].name == "model.layers.0.mlp"
    assert (found[0].count, found[0].chosen) == (4, 2)
    assert found[0].scores == pytest.approx(want)
    assert sum(found[1].scores) == pytest.approx(1)


def test_the_expert_goes_without_which_the_mixture_changes_least() -> None:
    """By hand: every expert alone is left out."""
    net, x = Mixture(inputs=5).double(), torch.randn(20, 5).double()
    changes = []
    with torch.no_grad():
        first = net(x)
        for number in range(4):
            bias = net.router.bias.clone()
            net.router.bias[number] = float("-inf")
            changes.append(float((net(x) - first).square().sum()))
            net.router.bias.copy_(bias)
    pruned = secateur.remove_experts(net, x, count=1, criterion="output_change", data=x)
    gone = ({0, 1, 2, 3} - set(pruned.plan.keep["router.weight"][0])).pop()
    # the mixture is the whole network here, so what it gives is what was compared
    assert gone == changes.index(min(changes))


class ByNumber(Mixture):
    """Asks for its experts by number, and gives each of them its tokens alone."""

    def __init__(self) -> None:
        super().__init__(inputs=5)
        self.num_experts = 4

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        weights, numbers = self.router(x).topk(2, -1)
        weights = weights.softmax(-1)
        asked = F.one_hot(numbers, num_classes=self.num_experts).permute(2, 1, 0)
        y = torch.zeros_like(x)
        for number in range(self.num_experts):
            place, token = torch.where(asked[number])
            y.index_add_(0, token, self.experts[number](x[token]) * weights[token, place, None])
        return self.linear(y + self.shared(x))  # type: ignore[no-any-return]


class Spread(Mixture):
    """Spreads the weights of the choice over all experts."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        weights, numbers = self.router(x).softmax(-1).topk(2, -1)
        every = torch.zeros(len(x), len(self.experts), dtype=x.dtype).scatter(1, numbers, weights)
        y = sum((every[:, n, None] * expert(x) for n, expert in enumerate(self.experts)), self.shared(x))
        return self.linear(y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [lambda: Mixture(inputs=5), ByNumber, lambda: Spread(inputs=5)])
def test_experts_of_a_list_leave_it(make: Callable[[], Mixture], tmp_path: Path) -> None:
    net, x = make().double(), torch.randn(11, 5).double()
    pruned = secateur.remove_experts(net, x, ratio=0.25, data=x)
    kept = list(pruned.plan.keep["router.weight"][0])
    assert pruned.plan.shortened == {"experts": tuple(kept)}
    assert [type(expert) for expert in pruned.model.experts] == [nn.Sequential] * 3
    assert type(pruned.model.experts) is nn.ModuleList
    assert torch.equal(pruned.model.experts[2][0].weight, net.experts[kept[2]][0].weight)
    assert pruned.after.params == sum(p.numel() for p in pruned.model.parameters())
    assert pruned.after.params == pruned.before.params - (8 + 1) - (8 * 12 + 12 + 12 * 8 + 8)
    pruned.save(tmp_path)
    assert torch.equal(secateur.load(tmp_path, make().double()).model(x), pruned.model(x))
    again = secateur.apply(net, secateur.Plan.from_json(pruned.plan.to_json()), x)
    assert torch.equal(again.model(x), pruned.model(x))
    with torch.no_grad():
        net.router.bias[next(e for e in range(4) if e not in kept)] = float("-inf")
        assert torch.allclose(pruned.model(x), net(x), atol=1e-12)


def test_prune_says_what_takes_experts_out_of_a_list() -> None:
    analysis = secateur.analyse(Mixture(inputs=5), torch.randn(6, 5))
    assert any("secateur.remove_experts" in change_for(pinned.reason) for pinned in analysis.unsupported)
    assert secateur.prune(Mixture(inputs=5), torch.randn(6, 5), ratio=0.5).model.router.out_features == 4


def test_experts_then_channels_then_experts() -> None:
    net, x = Mixture(inputs=5), torch.randn(11, 5)
    first = secateur.remove_experts(net, x, count=1)
    second = secateur.prune(first, ratio=0.5)
    assert second.model.experts[0][0].out_features == 6
    third = secateur.remove_experts(second, keep=2, data=x)
    assert len(third.model.experts) == 2
    again = secateur.apply(net, third.plan, x)
    assert torch.allclose(again.model(x), third.model(x), atol=1e-6)
    assert len(third.plan.shortened["experts"]) == 2
    assert set(third.plan.shortened["experts"]) < set(first.plan.shortened["experts"])


def test_experts_are_of_one_width_and_get_narrower_together() -> None:
    model = mixture("mixtral")
    pruned = secateur.prune(model, BATCH, ratio=0.5, only="*.mlp.experts", groups=[
        "model.layers.0.mlp.experts", "model.layers.1.mlp.experts"])  # fmt: skip
    assert not pruned.lost
    assert pruned.model.config.intermediate_size == 12
    assert pruned.model.model.layers[0].mlp.experts.down_proj.shape == (4, 16, 12)


def test_repair_brings_the_output_nearer() -> None:
    """The layers behind the experts are refitted; a router is not."""
    model = mixture("mixtral")
    data = [{"input_ids": torch.randint(0, 48, (8, 9))} for _ in range(4)]
    pruned = secateur.remove_experts(model, BATCH, keep=2, data=data)
    narrow = secateur.prune(pruned, ratio=0.5, only="*.self_attn.v_proj")
    repaired = secateur.recover(narrow, data)
    with torch.no_grad():
        want, cut, mended = (net(TOKENS).logits for net in (model, narrow.model, repaired.model))
    assert (mended - want).norm() < (cut - want).norm()


def test_repair_says_that_it_cannot_pair_experts_of_a_list() -> None:
    net, x = Mixture(inputs=5), torch.randn(64, 5)
    with pytest.raises(InputError, match=r"left the list 'experts'.*finetune"):
        secateur.recover(secateur.remove_experts(net, x, keep=2), x)


def test_other_mixtures_stay_and_a_note_says_what_is_lost() -> None:
    model = mixture("mixtral")
    pruned = secateur.remove_experts(model, BATCH, keep=2, ignore="model.layers.0")
    assert model.model.layers[0].mlp.gate.weight.shape == pruned.model.model.layers[0].mlp.gate.weight.shape
    assert len(pruned.model.model.layers[1].mlp.gate.weight) == 2
    assert pruned.lost == ("configuration",)


class Told(Mixture):
    """Gives the numbers of the experts, too, which then may not change."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), self.router(self.stem(x).relu()).topk(2, -1)[1]


BAD: list[tuple[Callable[[], nn.Module], dict[str, Any], type[SecateurError], str]] = [
    (Mixture, {"keep": 1}, BudgetError, "chooses 2 for every token, so 2 have to stay and at most 2 can go"),
    (Mixture, {"keep": 4}, BudgetError, "removes none of 4"),
    (Mixture, {"ratio": 0.01}, BudgetError, "removes none of 4"),
    (Mixture, {}, InputError, "Give one of keep, count and ratio; got none"),
    (Mixture, {"keep": 2, "count": 2}, InputError, "got keep and count"),
    (Mixture, {"count": 0}, InputError, "at least 1"),
    (Mixture, {"ratio": 1.5}, InputError, r"\(0, 1\)"),
    (Mixture, {"keep": 3, "criterion": "rooting"}, UnknownNameError, "Did you mean 'routing'"),
    (Mixture, {"keep": 3, "criterion": "routing"}, InputError, "give data"),
    (Mixture, {"keep": 3, "criterion": "output_change"}, InputError, "give data"),
    (Mixture, {"keep": 3, "ignore": "stem"}, UnknownNameError, "mixture of experts"),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), {"keep": 3}, InputError, "no mixture of experts"),
    (Told, {"keep": 3}, InputError, "no mixture of experts"),
]


@pytest.mark.parametrize(("make", "options", "kind", "words"), BAD)
def test_what_cannot_be_done_is_said(
    make: Callable[[], nn.Module], options: dict[str, Any], kind: type[SecateurError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        secateur.remove_experts(make(), torch.randn(6, 64), **options)


def test_a_router_that_is_no_linear_layer_is_refused_by_name() -> None:
    class Product(Mixture):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            weights, numbers = (x @ self.router.weight.T).softmax(-1).topk(2, -1)
            y = torch.zeros_like(x)
            for number, expert in enumerate(self.experts):
                y = y + expert(x) * (weights * (numbers == number)).sum(-1, keepdim=True)
            return self.linear(y)  # type: ignore[no-any-return]

    x = torch.randn(6, 64)
    with pytest.raises(InputError, match=r"router\.weight"):
        secateur.remove_experts(Product(), x, keep=3, data=x)
    assert len(secateur.remove_experts(Product(), x, keep=3, criterion="l2").model.experts) == 3


def test_the_network_itself_stays_as_it_is() -> None:
    net, x = Mixture(inputs=5), torch.randn(6, 5)
    before = net(x)
    secateur.remove_experts(net, x, keep=2, data=x, criterion="output_change")
    assert torch.equal(net(x), before)
    assert len(net.experts) == 4
