"""Layers that are more than their residual branches go whole: the network with the identity in their place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import BudgetError, InputError, UnknownNameError, VerificationError
from secateur.graph.copies import deep_copy
from secateur.models._torchvision import import_torchvision

os.environ.setdefault("HF_HUB_OFFLINE", "1")


class After(nn.Module):
    """An encoder's layer that normalises after its sums."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix, self.first = nn.Linear(width, width), nn.LayerNorm(width)
        self.up, self.down, self.second = nn.Linear(width, 20), nn.Linear(20, width), nn.LayerNorm(width)
        for norm in (self.first, self.second):  # as they come, one after another is as one
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.first(x + self.mix(x * mask).mean(1, keepdim=True).expand_as(x))
        return self.second(x + self.down(torch.tanh(self.up(x))))  # type: ignore[no-any-return]


class Plain(nn.Module):
    """A layer without any skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return torch.tanh(self.mix(x)) * mask


class Same(nn.Module):
    """The identity, in the place of a layer."""

    def forward(self, x: Tensor, *more: Any, **others: Any) -> Tensor:
        return x


class SameInTuple(Same):
    """The same, for layers that give a tuple."""

    def forward(self, x: Tensor, *more: Any, **others: Any) -> Any:
        return (x,)


class Encoder(nn.Module):
    def __init__(self, kind: Callable[[int], nn.Module] = After, count: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(6, 12), nn.Linear(12, 3)
        self.layer = nn.ModuleList(kind(12) for _ in range(count))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layer:
            x = layer(x, mask)
        return self.head(x)  # type: ignore[no-any-return]


INPUTS = (torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)), torch.ones(2, 5, 12))


def without(net: Any, path: str, gone: list[int], same: type[Same] = Same) -> Any:
    """The dense network with the identity in the place of layers."""
    twin = deep_copy(net).eval()
    for number in gone:
        twin.get_submodule(path)[number] = same()
    return twin


@pytest.mark.parametrize("kind", [After, Plain])
@pytest.mark.parametrize("gone", [[1], [0, 3], [1, 2, 3]])
def test_a_layer_that_goes_is_the_identity(kind: Callable[[int], nn.Module], gone: list[int]) -> None:
    net = Encoder(kind).eval()
    pruned = secateur.remove_layers(net, INPUTS, names=[f"layer.{k}" for k in gone], whole=True)
    assert pruned.backend == "module"
    assert pruned.verification is not None
    assert pruned.verification.proven
    assert pruned.plan.shortened == {"layer": tuple(k for k in range(4) if k not in gone)}
    assert len(pruned.model.layer) == 4 - len(gone)
    assert torch.equal(pruned.model(*INPUTS), without(net, "layer", gone)(*INPUTS))


def test_a_graph_is_without_them_too() -> None:
    net = Encoder().eval()
    pruned = secateur.remove_layers(net, INPUTS, names=["layer.1", "layer.2"], whole=True, backend="graph")
    assert torch.allclose(pruned.model(*INPUTS), without(net, "layer", [1, 2])(*INPUTS), atol=1e-6)
    assert not [name for name, _ in pruned.model.named_parameters() if name.startswith(("layer.1", "layer.2"))]


def test_the_lowest_scores_go_first_and_ignored_ones_stay() -> None:
    net = Encoder().eval()
    with torch.no_grad():
        for number, size in enumerate((3.0, 0.2, 0.1, 2.0)):
            net.layer[number].down.weight.mul_(size)
            net.layer[number].mix.weight.mul_(size)
    listed = [b.name for b in secateur.removable(net, INPUTS, whole=True)]
    assert listed == ["layer.2", "layer.1", "layer.3", "layer.0"]
    one = secateur.removable(net, INPUTS, whole=True)[0]
    assert one.params == sum(p.numel() for p in net.layer[2].parameters())
    assert one.layers == ("layer.2.mix", "layer.2.up", "layer.2.down")
    assert secateur.remove_layers(net, INPUTS, count=2, whole=True).plan.shortened == {"layer": (0, 3)}
    kept = secateur.remove_layers(net, INPUTS, count=2, whole=True, ignore="layer.2")
    assert kept.plan.shortened == {"layer": (0, 2)}
    alone = Encoder(Plain).eval()
    with torch.no_grad():
        alone.layer[1].mix.weight.mul_(0.1)
    assert secateur.remove_layers(alone, INPUTS, count=1, whole=True).plan.shortened == {"layer": (0, 2, 3)}


def test_plans_are_replayed_and_saved(tmp_path: Path) -> None:
    net = Encoder().eval()
    pruned = secateur.remove_layers(net, INPUTS, names=["layer.1"], whole=True)
    assert pruned.plan.removed == ("layer.1 as a whole",)
    again = secateur.apply(net, pruned.plan, INPUTS)
    assert torch.equal(again.model(*INPUTS), pruned.model(*INPUTS))
    both = secateur.prune(pruned, ratio=0.5)
    both.save(tmp_path)
    loaded = secateur.load(tmp_path, model=Encoder())
    assert torch.allclose(loaded.model(*INPUTS), both.model(*INPUTS), atol=1e-6)


def test_the_proof_is_of_the_identity() -> None:
    """Without the layer's branches, but with its normalisations, the network is another one."""
    net = Encoder().eval()
    branches = secateur.remove_layers(net, INPUTS, names=["layer.1"])
    whole = secateur.remove_layers(net, INPUTS, names=["layer.1"], whole=True)
    assert not torch.allclose(branches.model(*INPUTS), whole.model(*INPUTS), atol=1e-3)


class Uneven(Encoder):
    """Hands the first layer's result to the head beside the last one's; a list whose layers read one input; widths."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.stem(x)
        x = sum(side(x) for side in self.side) / 3  # type: ignore[assignment]
        for layer in self.layer:
            x = layer(x, mask)
        return self.head(x)  # type: ignore[no-any-return]


def test_layers_beside_each_other_are_no_layers_of_a_chain() -> None:
    names = [b.name for b in secateur.removable(Uneven().eval(), INPUTS, whole=True) if not b.reason]
    assert [n for n in names if n.startswith("layer.")]
    assert not [n for n in names if n.startswith("side.")]


def test_wrong_requests_are_answered() -> None:
    net = Encoder().eval()
    with pytest.raises(UnknownNameError, match=r"layer 'layers.1'|'layers.1'.*layer.1"):
        secateur.remove_layers(net, INPUTS, names=["layers.1"], whole=True)
    with pytest.raises(BudgetError, match="These are all 4 layers of the network"):
        secateur.remove_layers(net, INPUTS, names=["layer.*"], whole=True)
    with pytest.raises(BudgetError, match="at most 3"):
        secateur.remove_layers(net, INPUTS, count=4, whole=True)
    with pytest.raises((InputError, VerificationError, UnknownNameError)):
        secateur.remove_layers(net, INPUTS, names=["head"], whole=True)


def transformer(name: str) -> tuple[Any, str, dict[str, Tensor]]:
    import_torchvision()
    library = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    same = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    made = {
        "Bert": lambda: library.BertForSequenceClassification(library.BertConfig(**same, intermediate_size=48)),
        "Roberta": lambda: library.RobertaForMaskedLM(library.RobertaConfig(**same, intermediate_size=48)),
        "DistilBert": lambda: library.DistilBertModel(
            library.DistilBertConfig(vocab_size=60, dim=32, hidden_dim=48, n_layers=4, n_heads=4)),
        "OPT": lambda: library.OPTForCausalLM(
            library.OPTConfig(**same, ffn_dim=48, word_embed_proj_dim=32, do_layer_norm_before=False)),
        "T5": lambda: library.T5EncoderModel(
            library.T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=4, num_heads=4)),
        "Electra": lambda: library.ElectraForSequenceClassification(
            library.ElectraConfig(**same, intermediate_size=48, embedding_size=16)),
        "MPNet": lambda: library.MPNetForMaskedLM(library.MPNetConfig(**same, intermediate_size=48)),
        "Bart": lambda: library.BartModel(library.BartConfig(
            vocab_size=60, d_model=32, encoder_layers=4, decoder_layers=3, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=32,
            pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2)),
    }  # fmt: skip
    where = {"Bert": "bert.encoder.layer", "Roberta": "roberta.encoder.layer", "DistilBert": "transformer.layer",
             "OPT": "model.decoder.layers", "T5": "encoder.block",
             "Electra": "electra.encoder.layer", "MPNet": "mpnet.encoder.layer"}  # fmt: skip
    return made[name]().eval(), where.get(name, ""), {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("name", ["Bert", "Roberta", "DistilBert", "OPT", "T5", "Electra", "MPNet"])
def test_encoders_of_transformers_become_shorter(name: str, tmp_path: Path) -> None:
    net, path, inputs = transformer(name)
    pruned = secateur.remove_layers(net, inputs, count=2, whole=True)
    assert not pruned.lost
    kept = pruned.plan.shortened[path]
    assert len(kept) == len(pruned.model.get_submodule(path)) == 2
    if name != "T5":  # its layers give more than hidden states
        same = SameInTuple if name == "MPNet" else Same
        want = without(net, path, [k for k in range(4) if k not in kept], same)
        assert torch.allclose(pruned.model(**inputs)[0], want(**inputs)[0], atol=1e-6)
    pruned.model.save_pretrained(tmp_path)
    again = type(net).from_pretrained(tmp_path).eval()
    assert torch.allclose(again(**inputs)[0], pruned.model(**inputs)[0], atol=1e-6)


@pytest.mark.parametrize(("path", "gone"), [("encoder.layers", [1, 2]), ("decoder.layers", [0])])
def test_either_side_of_bart_becomes_shorter(path: str, gone: list[int], tmp_path: Path) -> None:
    net, _, inputs = transformer("Bart")
    inputs["decoder_input_ids"] = inputs["input_ids"][:, :5].contiguous()
    pruned = secateur.remove_layers(net, inputs, names=[f"{path}.{k}" for k in gone], whole=True)
    assert not pruned.lost
    assert torch.allclose(pruned.model(**inputs)[0], without(net, path, gone)(**inputs)[0], atol=1e-6)
    pruned.model.save_pretrained(tmp_path)
    again = type(net).from_pretrained(tmp_path).eval()
    assert torch.allclose(again(**inputs)[0], pruned.model(**inputs)[0], atol=1e-6)
