"""Low-rank adapters are trained, added to the weights, and leave nothing but other weights behind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, UnknownNameError, VerificationError
from secateur.data import load
from secateur.data.texts import cut_text
from secateur.models import import_torchvision
from secateur.recipe import load_recipe, reopen, resume, run
from secateur.recipe.sameness import differences, numbers
from secateur.task import LanguageModelling
from secateur.train import Adapters, Distill, Extra, TrainConfig, fit
from transformer_cases import CORPUS, causal

import_torchvision()  # PEFT imports transformers, which imports it, and would fail the way it does
pytest.importorskip("peft")
CONFIG = TrainConfig(epochs=2, batch_size=8, lr=5e-3, optimizer="adamw", weight_decay=0.0)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(CORPUS * 24), encoding="utf-8")
    return path


@pytest.fixture
def llama(tmp_path: Path) -> Any:
    return causal(tmp_path / "dense")


@pytest.fixture
def task(llama: Any, text: Path, tmp_path: Path) -> LanguageModelling:
    return LanguageModelling(cut_text(str(text)), tokenizer=str(tmp_path / "dense"), length=16)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_pruned_llama_recovers_and_stays_what_it_is(llama: Any, task: LanguageModelling, tmp_path: Path) -> None:
    pruned = secateur.prune(llama, task.sample(2), ratio=0.5, only="*.mlp.*", data=task)
    before, worse = state_of(pruned.model), secateur.evaluate(pruned.model, task).metrics["perplexity"]
    wanted = {name: p.requires_grad for name, p in pruned.model.named_parameters()}
    history = fit(pruned.model, task, CONFIG, adapters=Adapters(rank=4))
    assert len(history.epochs) == 2
    assert secateur.evaluate(pruned.model, task).metrics["perplexity"] < worse
    assert type(pruned.model) is type(llama)
    assert {name: p.requires_grad for name, p in pruned.model.named_parameters()} == wanted
    after = pruned.model.state_dict()
    assert {n: t.shape for n, t in after.items()} == {n: t.shape for n, t in before.items()}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {n for n in before if n.endswith("proj.weight")}  # embedding and scores share their weights
    assert not any("lora" in name or "peft" in name for name in vars(pruned.model))
    pruned.model.save_pretrained(tmp_path / "small")
    again = type(llama).from_pretrained(tmp_path / "small").eval()
    tokens = task.sample(2)
    assert torch.equal(again(**tokens).logits, pruned.model.eval()(**tokens).logits)


def test_what_is_added_is_of_that_rank_and_what_the_formula_says(llama: Any, task: LanguageModelling) -> None:
    seen: dict[str, Tensor] = {}

    class Look(Extra):
        def finish(self, model: nn.Module) -> None:
            layer: Any = model.get_submodule("model.layers.1.mlp.up_proj")
            seen["a"], seen["b"] = (m["default"].weight.detach().clone() for m in (layer.lora_A, layer.lora_B))

    name = "model.layers.1.mlp.up_proj.weight"
    before = state_of(llama)[name]
    fit(llama, task, CONFIG, adapters=Adapters(rank=2, alpha=3.0, layers=("*.up_proj",)), extras=[Look()])
    added = llama.state_dict()[name] - before
    assert torch.linalg.matrix_rank(added, atol=1e-5) == 2
    torch.testing.assert_close(added, 3.0 / 2 * seen["b"] @ seen["a"], atol=1e-6, rtol=1e-4)


def test_killed_and_gone_on_with_ends_with_the_same(llama: Any, task: LanguageModelling, tmp_path: Path) -> None:
    def killed(record: Any) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    whole, parts = secateur.prune(llama, task.sample(2), ratio=0.5, only="*.mlp.*", data=task).model, None
    parts = secateur.prune(llama, task.sample(2), ratio=0.5, only="*.mlp.*", data=task).model
    config, adapters = CONFIG.model_copy(update={"epochs": 3}), Adapters(rank=2, dropout=0.1)
    fit(whole, task, config, adapters=adapters, folder=tmp_path / "whole")
    first = state_of(parts)
    with pytest.raises(KeyboardInterrupt):
        fit(parts, task, config, adapters=adapters, folder=tmp_path / "parts", on_epoch=killed)
    assert all(torch.equal(first[name], tensor) for name, tensor in parts.state_dict().items())
    with pytest.raises(InputError):
        fit(parts, task, config, adapters=Adapters(rank=2), folder=tmp_path / "parts")
    fit(parts, task, config, adapters=adapters, folder=tmp_path / "parts")
    assert all(torch.equal(whole.state_dict()[name], tensor) for name, tensor in parts.state_dict().items())


def test_a_teacher_and_adapters(llama: Any, task: LanguageModelling) -> None:
    pruned = secateur.prune(llama, task.sample(2), ratio=0.5, only="*.mlp.*", data=task)
    before = secateur.evaluate(pruned.model, task).metrics["perplexity"]
    fit(pruned.model, task, CONFIG, adapters=Adapters(), extras=[Distill(llama, task=task)])
    assert secateur.evaluate(pruned.model, task).metrics["perplexity"] < before


def test_any_network_with_linear_layers_takes_them() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    data = load("digits", limit=128)
    biases = net[1].bias.clone()
    first = secateur.evaluate(net, data).metrics["loss"]
    fit(net, data, TrainConfig(epochs=3, lr=0.1, batch_size=32, augment=False), adapters=Adapters(rank=3))
    assert secateur.evaluate(net, data).metrics["loss"] < first
    assert torch.equal(net[1].bias, biases)


def test_a_gpt_with_transposed_weights() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from secateur.train.adapters import adapted

    torch.manual_seed(0)
    net = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=30, n_positions=16)).eval()
    tokens = {"input_ids": torch.randint(0, 30, (2, 8))}

    class Sampled:
        def sample(self, count: int, *, split: str) -> Any:
            return tokens

    with adapted(net, Adapters(rank=2), Sampled(), (0,)) as (twin, _):  # type: ignore[arg-type]
        for name, parameter in twin.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter)
        with torch.no_grad():
            beside = twin.eval()(**tokens).logits
    assert torch.allclose(net(**tokens).logits, beside, atol=1e-5)


def test_adapters_that_do_not_add_up_are_not_kept(llama: Any, task: LanguageModelling, monkeypatch: Any) -> None:
    from peft.tuners.lora.layer import Linear

    right = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, name: 5 + right(self, name))
    before = state_of(llama)
    with pytest.raises(VerificationError, match="weights are those from before"):
        fit(llama, task, CONFIG, adapters=Adapters())
    assert all(torch.equal(before[name], tensor) for name, tensor in llama.state_dict().items())


def test_what_cannot_be_done_is_said(llama: Any, task: LanguageModelling, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="up_proj"):
        fit(llama, task, CONFIG, adapters=Adapters(layers=("model.layers.0.mlp.up_prj",)))
    with pytest.raises(InputError, match="no linear layer"):
        fit(nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()), load("digits", limit=64), CONFIG, adapters=Adapters())
    import peft

    inner = peft.get_peft_model(llama, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(InputError, match="adapters of its own"):
        fit(inner, task, CONFIG, adapters=Adapters())
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r'peft: pip install "secateur\[adapters\]"'):
        fit(llama, task, CONFIG, adapters=Adapters())


RECIPE = """
name: trial
model: {{name: "hf:{model}"}}
data: {{name: "text:{text}"}}
task: {{name: language-modelling, length: 16}}
steps:
- prune: {{ratio: 0.5, only: ["*.mlp.*"], criterion: wanda}}
{more}- finetune: {{epochs: 2, batch_size: 8, lr: 0.005, optimizer: adamw, adapters: {{rank: 4}}}}
"""


def test_a_recipe_stopped_and_gone_on_with(llama: Any, text: Path, tmp_path: Path) -> None:
    file = tmp_path / "trial.yaml"
    file.write_text(RECIPE.format(model=tmp_path / "dense", text=text, more=""))
    whole = run(load_recipe(file), tmp_path / "whole", progress=False)

    from secateur.recipe import Event

    def stop(event: Event) -> None:
        if event.what == "begin" and event.step == "02-finetune":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(load_recipe(file), tmp_path / "parts", progress=False, on_event=stop)
    parts = resume(tmp_path / "parts", progress=False)
    assert not differences(numbers(whole.folder), numbers(parts.folder))
    one, other = whole.state.models["pruned"].state_dict(), reopen(whole.folder).state.models["pruned"].state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert whole.state.models["pruned"].config.intermediate_size == 16


def test_a_recipe_in_which_they_would_fill_removed_weights(llama: Any, text: Path, tmp_path: Path) -> None:
    file = tmp_path / "trial.yaml"
    file.write_text(RECIPE.format(model=tmp_path / "dense", text=text, more="- sparsify: {ratio: 0.5}\n"))
    with pytest.raises(InputError, match="would come back"):
        run(load_recipe(file), tmp_path / "run", progress=False)
    file.write_text(file.read_text().replace("rank: 4}", "rank: 4}, penalty: {name: l2, weight: 0.1}"))
    with pytest.raises(InputError, match="penalty"):
        load_recipe(file)
