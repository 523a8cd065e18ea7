"""GGUF files become floating-point networks, and are pruned like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import transformer_cases
from secateur.cli.main import main
from secateur.core.errors import InputError
from secateur.models import create, import_torchvision
from secateur.models.transformer import load_tokenizer

pytest.importorskip("gguf")
pytest.importorskip("accelerate")
pytest.importorskip("transformers")


@pytest.fixture
def dense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A network, which lies as small.gguf in the folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64)).eval()  # fmt: skip
    transformer_cases.gguf(tmp_path / "small.gguf", model)
    return model


def test_a_file_is_opened_as_a_network_of_numbers(
    dense: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = create(f"hf:{tmp_path / 'small.gguf'}")
    assert "Loading weights" not in capfd.readouterr().err, "a bar of transformers"
    tokens = torch.randint(3, 300, (2, 12))
    with torch.no_grad():
        found, wanted = (net(input_ids=tokens).logits for net in (model, dense))
    assert type(model) is type(dense)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert (found - wanted).norm() < 0.02 * wanted.norm(), "8 bits a weight"
    reader = load_tokenizer(f"hf:{tmp_path}")
    assert reader.decode(reader("the cat")["input_ids"]) == "<s> the cat"


def test_it_is_pruned_from_the_command_line(dense: Any, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("\n".join(transformer_cases.CORPUS * 4))
    words = ["--data", f"text:{tmp_path / 'corpus.txt'}", "--ratio", "0.5", "--only", "*.mlp.*"]
    out = tmp_path / "lighter"
    with pytest.raises(SystemExit) as stop:
        main(["prune", f"hf:{tmp_path / 'small.gguf'}", *words, "--input-shape", "16", "--out", str(out)])
    assert stop.value.code == 0
    again = create(f"hf:{out}")
    assert again.config.intermediate_size == 48
    assert load_tokenizer(f"hf:{out}")("the cat")["input_ids"]


def test_what_is_damaged_is_said(dense: Any, tmp_path: Path) -> None:
    content = (tmp_path / "small.gguf").read_bytes()
    for damaged in (content[:4], content[:200], content[: len(content) // 2], content.replace(b"llama", b"nosuc", 1)):
        (tmp_path / "bad.gguf").write_bytes(damaged)
        with pytest.raises(InputError, match=r"of hf:.*bad\.gguf cannot be read"):
            create(f"hf:{tmp_path / 'bad.gguf'}")
