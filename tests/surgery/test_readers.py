"""Readers that take ``config.json`` and safetensors alone and fuse matrices by its numbers, as servers do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import secateur
from secateur.models._torchvision import import_torchvision

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import_torchvision()
transformers = pytest.importorskip("transformers")


class Reader:
    """A decoder with one matrix for queries, keys and values, and one for gate and up, by the configuration."""

    def __init__(self, folder: Path) -> None:
        """Makes room for every matrix by the numbers of the file, and fills it; each piece has to fit."""
        self.config = json.loads((folder / "config.json").read_text())
        self.tensors = load_file(folder / "model.safetensors")
        self.width, self.inner = self.config["hidden_size"], self.config["intermediate_size"]
        self.heads, self.shared = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        self.size = self.config.get("head_dim") or self.width // self.heads
        self.layers = [self._layer(f"model.layers.{k}") for k in range(self.config["num_hidden_layers"])]
        self.words = self._take("model.embed_tokens.weight", self.config["vocab_size"], self.width)
        self.norm = self._take("model.norm.weight", self.width)
        tied = self.config.get("tie_word_embeddings")
        self.head = self.words if tied else self._take("lm_head.weight", self.config["vocab_size"], self.width)
        self.tensors.pop("lm_head.weight", None)
        assert not self.tensors, sorted(self.tensors)

    def _take(self, name: str, *shape: int) -> Tensor:
        tensor = self.tensors.pop(name)
        assert tuple(tensor.shape) == shape, f"{name}: {tuple(tensor.shape)} for {shape}"
        return tensor

    def _layer(self, path: str) -> dict[str, Tensor]:
        q, kv, made = self.heads * self.size, self.shared * self.size, {}
        parts = [
            self._take(f"{path}.self_attn.{n}_proj.weight", r, self.width)
            for n, r in zip("qkv", (q, kv, kv), strict=True)
        ]
        made["qkv"] = torch.cat(parts)
        made["out"] = self._take(f"{path}.self_attn.o_proj.weight", self.width, q)
        made["gate_up"] = torch.cat(
            [self._take(f"{path}.mlp.{n}_proj.weight", self.inner, self.width) for n in ("gate", "up")]
        )
        made["down"] = self._take(f"{path}.mlp.down_proj.weight", self.width, self.inner)
        for short, name in (("before", "input_layernorm"), ("after", "post_attention_layernorm")):
            made[short] = self._take(f"{path}.{name}.weight", self.width)
        for name in ("q_norm", "k_norm"):
            if f"{path}.self_attn.{name}.weight" in self.tensors:
                made[name] = self._take(f"{path}.self_attn.{name}.weight", self.size)
        return made

    def _normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        eps = self.config["rms_norm_eps"]
        return x if weight is None else x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt() * weight

    def _turned(self, x: Tensor) -> Tensor:
        """Rotary positions; x is (batch, heads, length, size)."""
        base = self.config["rope_parameters"]["rope_theta"]
        rates = base ** -(torch.arange(0, self.size, 2) / self.size)
        angles = torch.outer(torch.arange(x.shape[2]), rates).repeat(1, 2)
        one, other = x.chunk(2, dim=-1)
        return x * angles.cos() + torch.cat([-other, one], dim=-1) * angles.sin()

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits."""
        x, sizes = self.words[tokens], [n * self.size for n in (self.heads, self.shared, self.shared)]
        for layer in self.layers:
            parts = (self._normed(x, layer["before"]) @ layer["qkv"].T).split(sizes, dim=-1)
            q, k, v = (part.unflatten(-1, (-1, self.size)).transpose(1, 2) for part in parts)
            q, k = (self._turned(self._normed(t, layer.get(n))) for t, n in ((q, "q_norm"), (k, "k_norm")))
            k, v = (t.repeat_interleave(self.heads // self.shared, dim=1) for t in (k, v))
            seen = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + seen.transpose(1, 2).flatten(2) @ layer["out"].T
            gate, up = (self._normed(x, layer["after"]) @ layer["gate_up"].T).chunk(2, dim=-1)
            x = x + (torch.nn.functional.silu(gate) * up) @ layer["down"].T
        return self._normed(x, self.norm) @ self.head.T


def network(kind: str, **more: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4,
        head_dim=4, vocab_size=60, initializer_range=0.2, **more)  # fmt: skip
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


TOKENS = torch.randint(0, 60, (2, 9), generator=torch.Generator().manual_seed(0))
CUTS: dict[str, Any] = {
    "as it is": lambda net: net,
    "half": lambda net: secateur.prune(net, {"input_ids": TOKENS}, ratio=0.5).model,
    "inner widths": lambda net: secateur.prune(net, {"input_ids": TOKENS}, ratio=0.5, only="*mlp*").model,
    "a layer": lambda net: secateur.remove_layers(net, {"input_ids": TOKENS}, count=1, whole=True).model,
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("kind", "tied"), [("Llama", False), ("Llama", True), ("Qwen3", False)])
def test_a_reader_of_its_own_computes_the_same(kind: str, tied: bool, cut: str, tmp_path: Path) -> None:
    dense = network(kind, tie_word_embeddings=tied)
    small = CUTS[cut](dense)
    small.save_pretrained(tmp_path)
    reader = Reader(tmp_path)
    with torch.no_grad():
        want = small(input_ids=TOKENS).logits
        assert (reader(TOKENS) - want).abs().max() < 4e-6 * want.abs().max().clamp_min(1)
    changed = (reader.width, reader.inner, reader.heads, reader.shared, len(reader.layers)) != (32, 48, 8, 4, 3)
    assert changed == (cut != "as it is")
