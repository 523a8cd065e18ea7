"""Networks on the meta device, planned and cut out of safetensors files."""

from __future__ import annotations

import copy
import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import secateur
from secateur.core.errors import DataError, InputError, PlanError, WeightsError
from secateur.cut.artifact import plan_at, shards
from secateur.models import import_torchvision, weight_files


def held(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's files."""
    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state dicts are the same to the bit, types and all."""
    return one.keys() == other.keys() and all(
        t.dtype == other[n].dtype
        and t.shape == other[n].shape
        and torch.equal(t.reshape(-1).view(torch.uint8), other[n].reshape(-1).view(torch.uint8))
        for n, t in one.items()
    )


class Net(nn.Module):
    """A chain with a normalisation, whose last layer shares its weight where it is ``tied``."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.first, self.norm, self.middle = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 16)
        self.last = nn.Linear(16, 16)
        self.out = nn.Linear(16, 3)
        if tied:
            self.last.weight = self.middle.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.norm(self.first(x)).relu()).relu()
        return self.out(self.last(x).relu())


def network(*, tied: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return Net(tied=tied).eval()


def empty(*, tied: bool = False) -> nn.Module:
    """The same without values; ``model.to("meta")`` would part tensors that are shared."""
    with torch.device("meta"):
        return Net(tied=tied).eval()


X = torch.zeros(2, 6)
META = X.to("meta")


def in_shards(model: nn.Module, folder: Path, *, index: bool = True) -> Path:
    """Writes a network in two files and their index; a shared tensor lies there once."""
    folder.mkdir(parents=True)
    state, seen = {}, set[int]()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            state[name] = tensor.detach()
        seen.add(id(tensor))
    names = sorted(state)
    table: dict[str, str] = {}
    for number, several in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({n: state[n] for n in several}, folder / file, metadata={"format": "pt"})
        table |= dict.fromkeys(several, file)
    if index:
        content = {"metadata": {"total_size": 0, "note": "kept"}, "weight_map": table}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return in_shards(network(), tmp_path / "dense")


def cut(source: Path, out: Path, **options: Any) -> secateur.Pruned:
    """Plans and cuts the network of this file."""
    options = {"ratio": 0.5} | options
    pruned = secateur.prune(empty(), META, weights=source, **options)
    secateur.cut_shards(pruned, source, out)
    return pruned


@pytest.mark.parametrize(
    "options",
    [{}, {"criterion": "l1", "scope": "global"}, {"macs": 0.5, "ratio": None}, {"criterion": "bn_scale"}],
    ids=["ratio", "global", "macs", "bn_scale"],
)
def test_files_are_cut_as_the_network_in_memory(source: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    pruned = cut(source, tmp_path / "out", **options)
    dense = secateur.prune(network(), X, **({"ratio": 0.5} | options))
    dense.save(tmp_path / "memory")
    assert pruned.verification is None
    assert pruned.plan.keep == dense.plan.keep
    assert same_bits(held(tmp_path / "out"), held(tmp_path / "memory"))
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(t.nbytes for t in held(tmp_path / "out").values()), "note": "kept"}
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "out" / file)
    assert plan_at(tmp_path / "out").keep == dense.plan.keep


def test_shared_tensors_lie_in_the_files_once(tmp_path: Path) -> None:
    source = in_shards(network(tied=True), tmp_path / "dense")
    pruned = secateur.prune(empty(tied=True), META, ratio=0.5, weights=source)
    secateur.cut_shards(pruned, source, tmp_path / "out")
    dense = secateur.prune(network(tied=True), X, ratio=0.5)
    small = held(tmp_path / "out")
    assert "last.weight" not in small
    assert torch.equal(small["middle.weight"], dense.model.state_dict()["middle.weight"])
    assert small["middle.weight"].shape[0] < 16


def test_one_file_stays_one_file_and_prefixes_stay(tmp_path: Path) -> None:
    save_file({f"module.{n}": t for n, t in network().state_dict().items()}, tmp_path / "net.safetensors")
    pruned = secateur.prune(empty(), META, ratio=0.5, weights=tmp_path / "net.safetensors")
    secateur.cut_shards(pruned, tmp_path / "net.safetensors", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["cut.json", "net.safetensors"]
    want = {f"module.{n}": t for n, t in secateur.prune(network(), X, ratio=0.5).model.state_dict().items()}
    assert same_bits(held(tmp_path / "out"), want)


def test_removed_branches_leave_the_files(tmp_path: Path) -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = x + block(x)
            return x

    torch.manual_seed(0)
    model = Deep().eval()
    source = in_shards(model, tmp_path / "dense")
    with torch.device("meta"):
        nothing = Deep().eval()
    gone = secateur.remove_layers(nothing, META, names=["blocks.1"])
    secateur.cut_shards(gone, source, tmp_path / "out")
    assert same_bits(held(tmp_path / "out"), secateur.remove_layers(model, X, names=["blocks.1"]).model.state_dict())


def test_tensors_are_held_one_at_a_time(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import weakref

    alive: list[weakref.ref[Tensor]] = []
    most = 0
    read = weight_files.WeightFiles.read

    def watched(files: weight_files.WeightFiles, name: str) -> Tensor:
        nonlocal most
        tensor = read(files, name)
        most = max(most, sum(other() is not None for other in alive) + 1)
        alive.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(weight_files.WeightFiles, "read", watched)
    cut(source, tmp_path / "out")
    assert len(alive) > 20
    assert most <= 2  # the one that is read, and the one before, which the loop lets go of then


def broken(source: Path, how: str) -> None:
    """Damages the files."""
    index = source / "model.safetensors.index.json"
    first, second = (source / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    content = json.loads(index.read_text())
    if how == "missing":
        second.unlink()
    elif how == "elsewhere":
        content["weight_map"]["first.weight"], content["weight_map"]["first.bias"] = (
            content["weight_map"]["first.bias"], content["weight_map"]["first.weight"],
        )  # fmt: skip
    elif how == "unlisted":
        del content["weight_map"]["first.weight"]
    elif how == "outside":
        content["weight_map"]["first.weight"] = "../dense/model-00001-of-00002.safetensors"
    elif how == "no table":
        content = {"weight_map": 3}
    elif how == "twice":
        save_file(load_file(first) | load_file(second), second)
    elif how == "damaged":
        first.write_bytes(first.read_bytes()[:-4])
    elif how == "nan":
        state = load_file(second)
        state["first.weight" if "first.weight" in state else next(iter(state))][0] = torch.nan
        save_file(state, second)
    elif how in ("shape", "unexpected", "absent"):
        state = load_file(first)
        name = next(n for n in state if n.endswith("weight"))
        if how == "shape":
            state[name] = torch.zeros(2, 2)
        elif how == "absent":
            del state[name], content["weight_map"][name]
        else:
            state["stray"], content["weight_map"]["stray"] = torch.zeros(2), first.name
        save_file(state, first)
    index.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", r"names 2 files, of which model-00002-of-00002\.safetensors is missing"),
        ("elsewhere", r"says that first\.\w+ lies in model.*; it lies in model"),
        ("unlisted", r"holds first\.weight, which .* does not name"),
        ("outside", r"names the file '\.\./dense/.*', which does not lie beside it"),
        ("no table", r"is no index of weights"),
        ("twice", r"lies in .* and in "),
        ("damaged", r"is not a readable safetensors file"),
        ("nan", r"NaN or infinite of \d+ values"),
        ("shape", r"is \(2, 2\), the network wants"),
        ("unexpected", r"1 unexpected: stray"),
        ("absent", r"1 missing: "),
    ],
)
def test_files_that_disagree_are_one_sentence(source: Path, tmp_path: Path, how: str, words: str) -> None:
    planned = secateur.prune(empty(), META, ratio=0.5, weights=source)
    broken(source, how)
    with pytest.raises(WeightsError, match=words) as caught:
        secateur.cut_shards(planned, source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match=words):
        secateur.prune(empty(), META, ratio=0.5, weights=source)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dense"]


def test_a_pattern_that_leaves_files_out_is_refused(source: Path) -> None:
    with pytest.raises(WeightsError, match=r"of which model-00002-of-00002.safetensors is not what .* matches"):
        weight_files.open_weight_files(source / "model-00001*")
    with pytest.raises(WeightsError, match=r"There is no safetensors file"):
        weight_files.open_weight_files(source / "other-*.safetensors")
    save_file({"more": torch.zeros(1)}, source / "model-more.safetensors")
    with pytest.raises(WeightsError, match=r"matches model-more.safetensors, which .* does not name"):
        weight_files.open_weight_files(source / "model-*")
    assert "more" not in weight_files.open_weight_files(source).tensors  # the index says which


def test_what_is_in_the_way_is_one_sentence(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = secateur.prune(empty(), META, ratio=0.5, weights=source)
    with pytest.raises(InputError, match=r"exists already\. Choose another out"):
        secateur.cut_shards(planned, source, source)
    with pytest.raises(InputError, match="before its first cut is not known any more"):
        secateur.cut_shards(copy.deepcopy(planned), source, tmp_path / "out")
    with pytest.raises(InputError, match=r"has no values to save\. secateur\.cut_shards"):
        planned.save(tmp_path / "artifact")
    with pytest.raises(InputError, match="has values in memory"):
        secateur.prune(network(), X, ratio=0.5, weights=source)
    with pytest.raises(InputError, match=r"criterion='taylor' looks at more than weights .* take one of .*l1, l2"):
        secateur.prune(empty(), META, ratio=0.5, weights=source, criterion="taylor")
    with pytest.raises(InputError, match="A latency is measured with the network in memory"):
        secateur.prune(empty(), META, latency=0.5, runtime="pytorch", weights=source)
    with pytest.raises(InputError, match=r"Say with weights=… which files hold them"):
        secateur.prune(empty(), META, ratio=0.5)
    with pytest.raises(WeightsError, match=r"holds float32, and the network is of float16.*to\(torch\.float32\)"):
        secateur.prune(empty().half(), META.half(), ratio=0.5, weights=source)
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10, 9, 1))
    with pytest.raises(DataError, match=r"The cut weights are 0\.00 GB, and the disk of .* has 0\.00 GB left"):
        secateur.cut_shards(planned, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = secateur.prune(empty(), META, ratio=0.5, weights=source)

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "write_safetensors", full)
    with pytest.raises(DataError, match="The disk is full"):
        secateur.cut_shards(planned, source, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dense"]


def test_a_plan_that_says_something_else_is_refused(source: Path, tmp_path: Path) -> None:
    planned = secateur.prune(empty(), META, ratio=0.5, weights=source)
    planned.model.get_submodule("out").weight = nn.Parameter(torch.empty(3, 5, device="meta"))
    with pytest.raises(PlanError, match=r"The plan makes 'out\.weight' .*, and in the result it is \(3, 5\)"):
        secateur.cut_shards(planned, source, tmp_path / "out")
    with pytest.raises(InputError, match="There is no plan"):
        plan_at(tmp_path / "nothing.json")


def llama(**options: Any) -> Any:
    import_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=32, **options,
        )
    ).to(torch.bfloat16).eval()  # fmt: skip


def test_half_a_llama_in_shards_is_that_in_memory(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    dense = llama()
    from transformers import LlamaForCausalLM

    dense.save_pretrained(tmp_path / "dense", max_shard_size="15KB")
    with torch.device("meta"):
        nothing = llama()
    tokens = torch.ones(2, 8, dtype=torch.long)
    how = {"ratio": 0.5, "only": ["*.mlp.*", "*.self_attn.*"], "granularity": "whole"}
    weights = str(tmp_path / "dense/model-*.safetensors")
    pruned = secateur.prune(nothing, {"input_ids": tokens.to("meta")}, weights=weights, **how)
    secateur.cut_shards(pruned, weights, tmp_path / "out")
    memory = secateur.prune(dense, {"input_ids": tokens}, **how)
    memory.save(tmp_path / "memory")
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    assert {t.dtype for t in held(tmp_path / "out").values()} == {torch.bfloat16}
    assert same_bits(held(tmp_path / "out"), held(tmp_path / "memory"))
    assert (tmp_path / "out/config.json").read_text() == (tmp_path / "memory/config.json").read_text()
    again = LlamaForCausalLM.from_pretrained(tmp_path / "out")
    assert (again.config.intermediate_size, again.config.num_key_value_heads) == (24, 1)
    assert again.dtype == torch.bfloat16
    assert torch.equal(again(tokens).logits, memory.model(tokens).logits)


def test_what_code_cannot_hold_is_not_taken_without_values(tmp_path: Path) -> None:
    """In memory the proof refuses heads of positions of their own in each layer; without values their sizes do."""
    pytest.importorskip("transformers")
    dense = llama(tie_word_embeddings=True)
    dense.save_pretrained(tmp_path / "dense")
    with torch.device("meta"):
        nothing = llama(tie_word_embeddings=True)
    tokens = torch.ones(2, 8, dtype=torch.long)
    how = {"ratio": 0.5, "scope": "global", "criterion": "l1"}
    pruned = secateur.prune(nothing, {"input_ids": tokens.to("meta")}, weights=tmp_path / "dense", **how)
    assert pruned.plan.keep == secateur.prune(dense, {"input_ids": tokens}, **how).plan.keep
