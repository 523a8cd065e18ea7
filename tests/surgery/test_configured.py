"""Configurations of transformers are true after a cut: its own save and load work, without Secateur."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.models._torchvision import import_torchvision

import_torchvision()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

WIDE = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
LLAMA = {**WIDE, "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": 2}  # fmt: skip
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("LlamaConfig", LLAMA),
    "Qwen3ForCausalLM": ("Qwen3Config", {**LLAMA, "head_dim": 8}),
    "GPT2LMHeadModel": ("GPT2Config", {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32,
                                       "bos_token_id": 1, "eos_token_id": 2}),
    "BertForSequenceClassification": ("BertConfig", {**WIDE, "max_position_embeddings": 32}),
    "T5ForConditionalGeneration": ("T5Config", {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
                                                "num_heads": 4, "decoder_start_token_id": 0}),
}  # fmt: skip


def network(name: str) -> tuple[Any, dict[str, Tensor]]:
    torch.manual_seed(0)
    config, options = NETWORKS[name]
    model = getattr(transformers, name)(getattr(transformers, config)(**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    inputs = {"input_ids": torch.randint(3, 60, (2, 7))}
    if name.startswith("T5"):
        inputs["decoder_input_ids"] = torch.randint(3, 60, (2, 4))
    return model, inputs


CHECK = """
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
sys.modules["secateur"] = None  # whoever asks for it fails
sys.modules["torchvision"] = None
import torch, transformers
for name, folder in json.loads(sys.argv[1]).items():
    model = getattr(transformers, name).from_pretrained(folder).eval()
    held = torch.load(folder + "/check.pt", weights_only=True)
    with torch.no_grad():
        found = model(**held["inputs"]).logits
    print(name, float((found - held["logits"]).abs().max() / held["logits"].abs().max()))
    if model.can_generate():
        ids = held["inputs"]["input_ids"]
        tokens = model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
        assert torch.equal(tokens, held["tokens"]), name
"""


def test_what_transformers_saves_it_loads_without_secateur(tmp_path: Path) -> None:
    folders = {}
    for name in NETWORKS:
        model, inputs = network(name)
        pruned = secateur.prune(model, inputs, ratio=0.5, granularity="whole")
        assert pruned.backend == "module"
        assert pruned.lost == ()
        assert pruned.after.params < 0.6 * pruned.before.params
        folder = folders[name] = str(tmp_path / name)
        pruned.model.save_pretrained(folder)
        held = {"inputs": inputs, "logits": pruned.model(**inputs).logits.detach()}
        if model.can_generate():
            held["tokens"] = pruned.model.generate(
                inputs["input_ids"], max_new_tokens=5, do_sample=False, pad_token_id=0
            )
        torch.save(held, f"{folder}/check.pt")
    done = subprocess.run(
        [sys.executable, "-c", CHECK, json.dumps(folders)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert not done.returncode, done.stderr[-2000:]
    errors = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}
    assert set(errors) == set(NETWORKS)
    assert max(errors.values()) < 1e-6


def masked(dense: nn.Module, plan: secateur.Plan) -> Any:
    """The dense network with every removed entry zero."""
    twin = copy.deepcopy(dense)
    tensors = dict(twin.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, dims in plan.keep.items():
            for dim, kept in dims.items():
                gone = sorted(set(range(tensors[name].shape[dim])) - set(kept))
                tensors[name].index_fill_(dim, torch.tensor(gone, dtype=torch.long), 0)
    return twin


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen3ForCausalLM", "GPT2LMHeadModel"])
def test_generate_gives_the_tokens_of_the_masked_dense_network(name: str) -> None:
    model, inputs = network(name)
    stream = "transformer.wte" if name.startswith("GPT2") else "model.embed_tokens"
    pruned = secateur.prune(model, inputs, ratio=0.5, granularity="whole", ignore=[stream])
    ids = inputs["input_ids"]
    how = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    want = masked(model, pruned.plan).generate(ids, **how)
    assert torch.equal(pruned.model.generate(ids, **how), want)
    assert torch.equal(pruned.model.generate(ids, use_cache=False, **how), want)


def test_the_configuration_is_made_true_and_the_users_own_is_left_alone() -> None:
    model, inputs = network("LlamaForCausalLM")
    before = model.config.to_dict()
    pruned = secateur.prune(model, inputs, ratio=0.5, granularity="whole")
    small = pruned.model.config
    assert (small.hidden_size, small.intermediate_size) == (16, 24)
    assert (small.num_attention_heads, small.num_key_value_heads, small.head_dim) == (2, 1, 8)
    assert model.config.to_dict() == before
    assert pruned.model.model.layers[0].self_attn.config is small


def test_what_a_configuration_cannot_say_is_said() -> None:
    model, inputs = network("LlamaForCausalLM")
    pruned = secateur.prune(model, inputs, ratio=0.5, granularity="within")
    assert pruned.lost == ("configuration",)
    (note,) = [n for n in pruned.notes if n.startswith("its configuration does not describe the result")]
    assert "inv_freq" in note
    assert pruned.model.generate(inputs["input_ids"], max_new_tokens=3, do_sample=False, pad_token_id=0).shape[1] > 7
    # Of itself it takes what a configuration can say.
    assert secateur.prune(model, inputs, ratio=0.5).lost == ()
    uneven = secateur.prune(model, inputs, ratio={"*.0.mlp.gate_proj": 0.5})
    assert uneven.lost == ("configuration",)
    assert any("several sizes" in n for n in uneven.notes)


def test_artifacts_hold_what_the_configuration_changed(tmp_path: Path) -> None:
    model, inputs = network("BertForSequenceClassification")
    pruned = secateur.prune(model, inputs, ratio=0.5, granularity="within")
    pruned.save(tmp_path)
    fresh = type(model)(copy.deepcopy(model.config))
    loaded = secateur.load(tmp_path, fresh)
    torch.testing.assert_close(loaded.model(**inputs).logits, pruned.model(**inputs).logits)
    assert loaded.model.config.hidden_size == pruned.model.config.hidden_size == 16


def test_half_of_the_experts_of_a_mixtral_go(tmp_path: Path) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(**WIDE, num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2)
    net, tokens = MixtralForCausalLM(config).eval(), torch.randint(0, 60, (2, 11))
    experts = [f"model.layers.{i}.mlp.{part}" for i in (0, 1) for part in ("gate", "experts")]
    pruned = secateur.prune(net, {"input_ids": tokens}, ratio=0.5, granularity="whole", ignore=[
        "model.embed_tokens", "model.layers.*.self_attn", "model.norm"], groups=experts[::2])  # fmt: skip
    assert not pruned.lost
    assert pruned.model.config.num_local_experts == 4
    for layer, gone in enumerate(pruned.model.model.layers):
        kept = list(pruned.plan.keep[f"model.layers.{layer}.mlp.gate.weight"][0])
        assert len(kept) == 4
        dense = net.model.layers[layer].mlp
        assert torch.equal(gone.mlp.experts.down_proj, dense.experts.down_proj[kept])
        with torch.no_grad():  # the masked dense network: those that go are never chosen
            left = [e for e in range(8) if e not in kept]
            dense.gate.forward = _without(dense.gate, left)
    assert torch.allclose(pruned.model(tokens).logits, net(tokens).logits, atol=1e-5)
    pruned.model.save_pretrained(tmp_path)
    again = MixtralForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.allclose(again(tokens).logits, pruned.model(tokens).logits, atol=1e-6)
    assert torch.equal(again.generate(tokens, max_new_tokens=4, do_sample=False),
                       net.generate(tokens, max_new_tokens=4, do_sample=False))  # fmt: skip


def _without(gate: Any, left: list[int]) -> Any:
    """The router as it is, but for experts that it never chooses."""

    def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = torch.nn.functional.linear(x.reshape(-1, gate.hidden_dim), gate.weight)
        logits[:, left] = -1e9
        values, numbers = torch.topk(logits.softmax(-1), gate.top_k, dim=-1)
        return logits, values / values.sum(-1, keepdim=True), numbers

    return forward


@pytest.mark.parametrize("kind", ["LlamaForCausalLM", "GPT2LMHeadModel", "Gemma2ForCausalLM", "Qwen3ForCausalLM"])
def test_layers_that_go_whole_are_fewer_in_the_configuration(kind: str, tmp_path: Path) -> None:
    config = {
        "LlamaForCausalLM": ("LlamaConfig", {**LLAMA, "num_hidden_layers": 4}),
        "GPT2LMHeadModel": ("GPT2Config", {**NETWORKS["GPT2LMHeadModel"][1], "n_layer": 4}),
        "Qwen3ForCausalLM": ("Qwen3Config", {**LLAMA, "head_dim": 8, "num_hidden_layers": 4}),
        "Gemma2ForCausalLM": ("Gemma2Config", {**LLAMA, "head_dim": 8, "num_hidden_layers": 4}),
    }[kind]
    torch.manual_seed(0)
    net = getattr(transformers, kind)(getattr(transformers, config[0])(**config[1])).eval()
    tokens = torch.randint(3, 60, (2, 9))
    pruned = secateur.remove_layers(net, {"input_ids": tokens}, count=1, whole=True)
    assert not pruned.lost
    assert pruned.model.config.num_hidden_layers == 3
    assert net.config.num_hidden_layers == 4
    pruned.model.save_pretrained(tmp_path)
    again = type(net).from_pretrained(tmp_path).eval()
    assert torch.allclose(again(tokens).logits, pruned.model(tokens).logits, atol=1e-6)
    told = [m.generate(tokens, max_new_tokens=5, do_sample=False, pad_token_id=0) for m in (again, pruned.model)]
    assert torch.equal(*told)


def test_the_librarys_trainer_goes_on_and_writes_what_it_reads(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    torch.manual_seed(0)
    net = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval()
    tokens = torch.randint(3, 60, (8, 9))
    pruned = secateur.prune(net, {"input_ids": tokens[:2]}, ratio=0.5, granularity="whole")
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4,
                                               report_to=[], save_steps=2, use_cpu=True, disable_tqdm=True)  # fmt: skip
    data = [{"input_ids": row, "labels": row} for row in tokens]
    before = {n: p.detach().clone() for n, p in pruned.model.named_parameters()}
    trainer = transformers.Trainer(pruned.model, arguments, train_dataset=data)
    trainer.train()
    assert all(p.shape == before[n].shape for n, p in pruned.model.named_parameters())
    assert any(not torch.equal(p, before[n]) for n, p in pruned.model.named_parameters())
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "checkpoint-2").eval()
    assert again.config.num_attention_heads == 2
    assert torch.allclose(again(tokens).logits, pruned.model.eval()(tokens).logits, atol=1e-6)


def test_the_librarys_pipeline_takes_the_result() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    torch.manual_seed(0)
    words = {f"w{k}": k for k in range(60)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="w0", eos_token="w2")
    net = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval()
    pruned = secateur.prune(net, {"input_ids": torch.randint(3, 60, (2, 9))}, ratio=0.5)
    told = transformers.pipeline("text-generation", model=pruned.model, tokenizer=tokenizer)
    text = told("w5 w6 w7", max_new_tokens=3, do_sample=False)[0]["generated_text"]
    assert text.startswith("w5 w6 w7")
    assert len(text) > len("w5 w6 w7")


@pytest.mark.parametrize("target", [{"macs": 0.6}, {"params": 0.6}])
def test_a_target_leaves_layers_of_one_width_where_the_configuration_knows_one(target: dict[str, float]) -> None:
    torch.manual_seed(0)
    net = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**LLAMA, "num_hidden_layers": 4,
                                                                    "intermediate_size": 160})).eval()  # fmt: skip
    tokens = {"input_ids": torch.randint(3, 60, (2, 9))}
    pruned = secateur.prune(net, tokens, **target)  # type: ignore[arg-type]
    (share,) = target.values()
    (name,) = target
    assert abs(getattr(pruned.after, name) / getattr(pruned.before, name) - share) < 0.012 * share
    assert not pruned.lost
    assert len({layer.mlp.gate_proj.out_features for layer in pruned.model.model.layers}) == 1


EXPERTS: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2MoeForCausalLM": ("Qwen2MoeConfig", {"num_experts": 8, "moe_intermediate_size": 24,
                                               "shared_expert_intermediate_size": 16}),
    "Qwen3MoeForCausalLM": ("Qwen3MoeConfig", {"num_experts": 8, "moe_intermediate_size": 24, "head_dim": 8}),
    "OlmoeForCausalLM": ("OlmoeConfig", {"num_experts": 8}),
    "GptOssForCausalLM": ("GptOssConfig", {"num_local_experts": 8, "head_dim": 8}),
}  # fmt: skip


@pytest.mark.parametrize("kind", EXPERTS)
def test_mixtures_of_experts_are_saved_with_half_of_them(kind: str, tmp_path: Path) -> None:
    config, options = EXPERTS[kind]
    torch.manual_seed(0)
    given = getattr(transformers, config)(**LLAMA, num_experts_per_tok=2, **options)
    net, tokens = getattr(transformers, kind)(given).eval(), torch.randint(3, 60, (2, 11))
    pruned = secateur.prune(net, {"input_ids": tokens}, ratio=0.5, granularity="whole")
    assert not pruned.lost
    experts = [dims for name, dims in pruned.plan.keep.items() if name.endswith(".experts.down_proj")]
    assert [len(dims[0]) for dims in experts] == [4, 4]
    pruned.model.save_pretrained(tmp_path)
    again = type(net).from_pretrained(tmp_path).eval()
    assert torch.allclose(again(tokens).logits, pruned.model(tokens).logits, atol=1e-6)
    told = [m.generate(tokens, max_new_tokens=4, do_sample=False, pad_token_id=0) for m in (again, pruned.model)]
    assert torch.equal(*told)


@pytest.mark.parametrize(("groups", "ratio", "left"), [(2, 0.5, (1, 4)), (4, 0.5, (2, 4)), (1, 0.25, (1, 6))])
def test_experts_that_are_chosen_in_groups_go(groups: int, ratio: float, left: tuple[int, int], tmp_path: Path) -> None:
    """Whole groups, where there are several; of a single one, experts."""
    torch.manual_seed(0)
    config = transformers.DeepseekV3Config(
        **{**LLAMA, "num_key_value_heads": 4}, n_routed_experts=8, num_experts_per_tok=2, n_group=groups, topk_group=1,
        moe_intermediate_size=24, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, v_head_dim=8,
        qk_nope_head_dim=8, first_k_dense_replace=1, n_shared_experts=1)  # fmt: skip
    net, tokens = transformers.DeepseekV3ForCausalLM(config).eval(), torch.randint(3, 60, (2, 11))
    gate = "model.layers.1.mlp.gate.weight"
    experts = [group.name for group in secateur.analyse(net, {"input_ids": tokens}, granularity="whole").groups.items
               if gate in {member.parameter for member in group.members if not member.dim}]  # fmt: skip
    pruned = secateur.prune(net, {"input_ids": tokens}, ratio=ratio, granularity="whole", groups=experts)
    kept = pruned.plan.keep[gate][0]
    assert (pruned.model.config.n_group, pruned.model.config.n_routed_experts) == left
    router = net.model.layers[1].mlp.gate
    with torch.no_grad():  # the masked dense network: those that go are never chosen
        router.e_score_correction_bias[[e for e in range(8) if e not in kept]] = -1e9
    torch.testing.assert_close(pruned.model(tokens).logits, net(tokens).logits, atol=1e-5, rtol=1e-5)
    pruned.model.save_pretrained(tmp_path)
    again = type(net).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(tokens).logits, pruned.model(tokens).logits, atol=1e-6, rtol=1e-5)


def test_encodec_is_traced_whole() -> None:
    torch.manual_seed(0)
    config = transformers.EncodecConfig(num_filters=8, hidden_size=16, codebook_size=32, codebook_dim=16,
                                        num_lstm_layers=1, upsampling_ratios=[4, 2])  # fmt: skip
    net = transformers.EncodecModel(config).eval()
    pruned = secateur.prune(net, {"input_values": torch.randn(1, 1, 400)}, ratio=0.5, granularity="whole")
    assert pruned.backend == "module"
    assert type(pruned.model) is type(net)
    assert pruned.after.params < 0.5 * pruned.before.params


def test_a_vision_transformer_with_fewer_layers_round_trips(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {k: v for k, v in WIDE.items() if k != "vocab_size"}
    config = transformers.ViTConfig(**{**options, "num_hidden_layers": 4}, image_size=16, patch_size=8)
    net, images = transformers.ViTForImageClassification(config).eval(), torch.randn(2, 3, 16, 16)
    pruned = secateur.remove_layers(net, {"pixel_values": images}, count=1, whole=True)
    assert not pruned.lost
    pruned.model.save_pretrained(tmp_path)
    again = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
    assert again.config.num_hidden_layers == 3
    assert torch.allclose(again(images).logits, pruned.model(images).logits, atol=1e-6)


def test_a_part_of_a_network_with_a_configuration_says_that_the_whole_knows_nothing_of_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = {**LLAMA, "hidden_size": 32}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                                    num_attention_heads=4, image_size=16, patch_size=8),
        text_config=transformers.LlamaConfig(**text), image_token_index=5, image_seq_length=4,
        vision_feature_layer=-1)  # fmt: skip
    net = transformers.LlavaForConditionalGeneration(config).eval()
    tokens = torch.randint(6, 60, (1, 9))
    tokens[0, 1:5] = 5
    inputs = {"input_ids": tokens, "pixel_values": torch.randn(1, 3, 16, 16)}
    pruned = secateur.prune(net, inputs, ratio=0.5, granularity="whole", part="model.language_model")
    assert pruned.lost == ("configuration",)
    assert any("the configuration of the whole" in note for note in pruned.notes)
    pruned.save(tmp_path)
    loaded = secateur.load(tmp_path, transformers.LlavaForConditionalGeneration(config).eval())
    torch.testing.assert_close(loaded.model(**inputs).logits, pruned.model(**inputs).logits)
    assert loaded.model.generate(**inputs, max_new_tokens=2, do_sample=False).shape == (1, 11)
