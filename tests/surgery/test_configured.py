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
