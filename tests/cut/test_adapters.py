"""Networks with PEFT's adapters: these follow the cut, merge afterwards, and are saved and loaded by PEFT alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.models._torchvision import import_torchvision

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import_torchvision()
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

INPUTS = {"input_ids": torch.randint(0, 60, (2, 9), generator=torch.Generator().manual_seed(0))}


def adapted(layers: int = 2, **more: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=layers,
                                      num_attention_heads=4, num_key_value_heads=2, vocab_size=60)  # fmt: skip
    wanted = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"], "init_lora_weights": False, **more}
    return peft.get_peft_model(transformers.LlamaForCausalLM(config), peft.LoraConfig(**wanted)).eval()


def logits(net: nn.Module) -> Tensor:
    return net(**INPUTS).logits.detach()  # type: ignore[no-any-return]


def held_to(given: Tensor, net: Any, folder: Path) -> None:
    """Adapters and the network below them, and both merged, are saved and loaded without Secateur."""
    kind = transformers.LlamaForCausalLM
    net.save_pretrained(folder / "adapters")
    net.unload().save_pretrained(folder / "base")
    again = peft.PeftModel.from_pretrained(kind.from_pretrained(folder / "base"), folder / "adapters").eval()
    assert torch.allclose(logits(again), given, atol=1e-6)
    again.merge_and_unload().save_pretrained(folder / "merged")
    assert torch.allclose(logits(kind.from_pretrained(folder / "merged").eval()), given, atol=1e-6)


@pytest.mark.parametrize("more", [{}, {"modules_to_save": ["lm_head"]}, {"use_rslora": True}])
def test_the_configuration_below_the_adapters_is_made_true(more: dict[str, Any], tmp_path: Path) -> None:
    net = adapted(**more)
    pruned = secateur.prune(net, INPUTS, ratio=0.5, granularity="whole")
    assert not pruned.lost
    assert pruned.model.config is pruned.model.get_base_model().config
    assert pruned.model.config.intermediate_size == 24
    assert net.config.intermediate_size == 48  # the user's own
    if "modules_to_save" not in more:
        held_to(logits(pruned.model), pruned.model, tmp_path)
    else:
        given = logits(pruned.model)
        pruned.model.merge_and_unload().save_pretrained(tmp_path)
        again = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
        assert torch.allclose(logits(again), given, atol=1e-6)


def test_ranks_that_differ_by_layer_are_saved_by_name(tmp_path: Path) -> None:
    net = adapted(r=6, lora_alpha=12)
    kept = secateur.prune(net, INPUTS, ratio={"*": 0.5, "*.layers.1.self_attn.q_proj.lora_A": 0.17}).model
    config, one = kept.peft_config["default"], "model.layers.1.self_attn.q_proj"
    assert (config.r, config.rank_pattern) == (3, {one: 5})
    assert (config.lora_alpha, config.alpha_pattern) == (6.0, {one: 10.0})
    held_to(logits(kept), kept, tmp_path)
    assert (net.peft_config["default"].r, net.peft_config["default"].lora_alpha) == (6, 12)


def test_where_a_configuration_cannot_say_the_cut_it_is_said() -> None:
    pruned = secateur.prune(adapted(), INPUTS, ratio=0.5, granularity="within")
    assert pruned.lost == ("configuration",)
    assert any("its configuration does not describe the result" in note for note in pruned.notes)


def test_layers_that_an_adapter_lists_by_number_are_numbered_anew(tmp_path: Path) -> None:
    net = adapted(3, layers_to_transform=[0, 2])
    pruned = secateur.remove_layers(net, INPUTS, names=["base_model.model.model.layers.1"])
    assert pruned.model.peft_config["default"].layers_to_transform == [0, 1]
    assert net.peft_config["default"].layers_to_transform == [0, 2]
    assert pruned.model.config.num_hidden_layers == 2
    held_to(logits(pruned.model), pruned.model, tmp_path)


def test_other_numbers_in_an_adapters_names_are_told() -> None:
    net = adapted(3, target_modules=["layers.2.self_attn.q_proj", "layers.0.self_attn.q_proj"])
    pruned = secateur.remove_layers(net, INPUTS, names=["base_model.model.model.layers.1"])
    assert any("target_modules of the adapter 'default' may name layers by their numbers" in n for n in pruned.notes)
    plain = secateur.remove_layers(adapted(3), INPUTS, names=["base_model.model.model.layers.1"])
    assert not any("by their numbers" in n for n in plain.notes)


@pytest.mark.parametrize("granularity", ["whole", "within"])
def test_adapters_follow_the_cut_and_merge(granularity: str) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                                      num_key_value_heads=2, vocab_size=60)  # fmt: skip
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    net = peft.get_peft_model(transformers.LlamaForCausalLM(config), lora).eval()
    inputs = {"input_ids": torch.randint(0, 60, (2, 9))}
    pruned = secateur.prune(net, inputs, ratio=0.5, granularity=granularity)
    assert type(pruned.model) is type(net)
    given = pruned.model(**inputs).logits
    adapters = [name for name in pruned.plan.keep if "lora_A" in name or "lora_B" in name]
    assert adapters
    trainable = [n for n, p in pruned.model.named_parameters() if p.requires_grad]
    assert trainable == [n for n, p in net.named_parameters() if p.requires_grad]
    merged = pruned.model.merge_and_unload()
    assert type(merged) is transformers.LlamaForCausalLM
    assert torch.allclose(merged(**inputs).logits, given, atol=1e-5)


def test_adapters_on_layers_that_go_are_gone() -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
                                      num_key_value_heads=2, vocab_size=60)  # fmt: skip
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    net = peft.get_peft_model(transformers.LlamaForCausalLM(config), lora).eval()
    inputs = {"input_ids": torch.randint(0, 60, (2, 9))}
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad])
    net(**inputs).logits.pow(2).mean().backward()
    optimizer.step()
    pruned = secateur.remove_layers(net, inputs, names=["base_model.model.model.layers.1"])
    assert [len(kept) for kept in pruned.plan.shortened.values()] == [2]
    carried = pruned.carry(optimizer)
    left = {id(p) for p in pruned.model.parameters() if p.requires_grad}
    assert {id(p) for p in carried.param_groups[0]["params"]} == left
    given = pruned.model(**inputs).logits
    assert torch.allclose(pruned.model.merge_and_unload()(**inputs).logits, given, atol=1e-5)


def test_ranks_stay_where_they_are_named() -> None:
    pruned = secateur.prune(adapted(), INPUTS, ratio=0.5, ignore="*lora_A*")
    assert pruned.model.peft_config["default"].r == 4
    assert {p.shape[0] for n, p in pruned.model.named_parameters() if "lora_A" in n} == {4}
