"""Checkpoints in 16 bits: cut, and saved with a configuration that is true, as in 32 bits."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur.models import import_torchvision

pytestmark = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")

SIZES = {"vocab_size": 100, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0}  # fmt: skip
FEWER_KEYS = {"num_key_value_heads": 1, "head_dim": 8}


def made(family: str) -> nn.Module:
    import_torchvision()  # transformers imports it, and would fail the way it does
    import transformers

    torch.manual_seed(0)
    kinds = {
        "llama": ("LlamaForCausalLM", transformers.LlamaConfig(**SIZES, **FEWER_KEYS)),
        "gemma": (
            "Gemma2ForCausalLM",
            transformers.Gemma2Config(**SIZES, **FEWER_KEYS),
        ),  # computes a scale
        "qwen": ("Qwen3ForCausalLM", transformers.Qwen3Config(**SIZES, **FEWER_KEYS)),
        "bert": ("BertForMaskedLM", transformers.BertConfig(**SIZES)),
        "gpt2": (
            "GPT2LMHeadModel",
            transformers.GPT2Config(
                vocab_size=100, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0
            ),
        ),
    }
    name, config = kinds[family]
    return getattr(transformers, name)(config).eval()  # type: ignore[no-any-return]


def tokens() -> dict[str, torch.Tensor]:
    ids = torch.randint(1, 100, (2, 8), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("rounded", [False, True], ids=["loaded", "rounded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma", "qwen", "bert"])
def test_a_cut_keeps_class_configuration_and_precision(
    family: str, dtype: torch.dtype, rounded: bool, tmp_path: Path
) -> None:
    network: Any = made(family)
    if rounded:  # tables that the class computes (frequencies, a scale) are rounded too
        network = network.to(dtype)
    else:
        network.save_pretrained(tmp_path / "dense")
        network = type(network).from_pretrained(tmp_path / "dense", dtype=dtype).eval()
    only = ["*.mlp.*", "*.intermediate.*"]
    small: Any = secateur.prune(network, tokens(), ratio=0.5, only=[p for p in only if _fits(network, p)])
    assert small.lost == ()
    assert small.model.config.intermediate_size == 16
    assert small.model.dtype is dtype
    small.model.save_pretrained(tmp_path / "small")
    again = type(network).from_pretrained(tmp_path / "small").eval()
    assert again.dtype is dtype
    if not rounded:
        assert torch.equal(again(**tokens()).logits, small.model(**tokens()).logits)


def _fits(network: nn.Module, pattern: str) -> bool:
    return any(pattern.strip("*") in f".{name}." for name, _ in network.named_modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["llama", "bert", "gpt2"])  # the first and the last give a cache beside their scores
def test_reconstruction_and_repair(family: str, dtype: torch.dtype) -> None:
    network = made(family).to(dtype)
    data = [dict(tokens()) for _ in range(2)]
    small = secateur.prune(network, tokens(), ratio=0.5, criterion="reconstruction", data=data)
    fixed = secateur.recover(small, data)
    assert fixed.after.params == small.after.params
    assert all(p.isfinite().all() and p.dtype is dtype for p in fixed.model.parameters())
