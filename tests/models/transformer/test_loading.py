"""Networks by ``hf:NAME``: opened from folders without running code of their makers, and what is refused."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from secateur.core.errors import InputError, UnknownNameError, WeightsError
from secateur.models import create
from secateur.models.transformer import check_tokenizer, is_language_model, kind_named, kind_of, load_tokenizer
from transformer_cases import CORPUS, causal, masked

pytestmark = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_every_kind_comes_as_it_was_saved(tmp_path: Path) -> None:
    dense = causal(tmp_path / "causal")
    network = create(f"hf:{tmp_path / 'causal'}")
    reader = load_tokenizer(f"hf:{tmp_path / 'causal'}")
    inputs = reader(CORPUS[0], return_tensors="pt")
    assert torch.equal(network(**inputs).logits, dense(**inputs).logits)
    assert (kind_of(network), is_language_model(network), network.training) == ("causal", True, False)
    for head, kind in (("BertForMaskedLM", "masked"), ("BertForSequenceClassification", "classification"),
                       ("BertModel", "embedding")):  # fmt: skip
        masked(tmp_path / head, head)
        name = f"hf:{tmp_path / head}"
        assert kind_of(create(name)) == kind == kind_named(name)
        assert type(create(name)).__name__ == head


def test_sixteen_bits_stay_and_can_be_asked_for(tmp_path: Path) -> None:
    causal(tmp_path).to(torch.bfloat16).save_pretrained(tmp_path)
    assert create(f"hf:{tmp_path}").dtype is torch.bfloat16
    assert create(f"hf:{tmp_path}", dtype="float32").dtype is torch.float32


def test_a_head_for_other_classes_is_new(tmp_path: Path) -> None:
    masked(tmp_path, "BertForSequenceClassification")
    assert create(f"hf:{tmp_path}", classes=5).classifier.out_features == 5


def test_an_encoder_without_its_pooler_is_opened_without(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    masked(tmp_path, "BertModel")
    weights = {n: t for n, t in load_file(tmp_path / "model.safetensors").items() if "pooler" not in n}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert create(f"hf:{tmp_path}").pooler is None


def test_a_pickle_alone_is_refused(tmp_path: Path) -> None:
    network = causal(tmp_path)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    assert kind_of(create(f"hf:{tmp_path}")) == "causal"  # beside safetensors it does not matter
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin alone, a pickle.*Ask its author for safetensors"):
        create(f"hf:{tmp_path}")


def changed(folder: Path, **entries: object) -> str:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))
    return f"hf:{folder}"


def test_quantised_and_foreign_networks_are_refused_by_name(tmp_path: Path) -> None:
    causal(tmp_path / "a")
    with pytest.raises(InputError, match=r"is quantised \(gptq\).*GGUF alone"):
        create(changed(tmp_path / "a", quantization_config={"quant_method": "gptq", "bits": 4}))
    causal(tmp_path / "b")
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    (tmp_path / "b" / "own.py").write_text("raise SystemExit('run')")
    with pytest.raises(
        InputError, match=r"knows no networks of the kind 'own'.*code of its own \(auto_map\), which is n"
    ):
        create(changed(tmp_path / "b", model_type="own", auto_map=own))


def test_code_from_the_hub_is_not_asked_for(tmp_path: Path) -> None:
    causal(tmp_path)
    with pytest.raises(UnknownNameError, match="implementation of attention named 'own/kernel'"):
        create(f"hf:{tmp_path}", attn_implementation="own/kernel")
    with pytest.raises(InputError, match="asks for 'own/kernel', code from the Hub, which is never run"):
        create(changed(tmp_path, attn_implementation="own/kernel"))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    causal(tmp_path / "net")
    (tmp_path / "two").mkdir()
    for name in ("one.gguf", "other.gguf"):
        (tmp_path / "two" / name).write_bytes(b"GGUF")
    for name, words in (
        (f"hf:{tmp_path / 'nowhere' / 'x'}", "There is no folder or GGUF file"),
        (f"hf:{tmp_path / 'empty'}", "there is no config.json in it"),
        (f"hf:{tmp_path / 'two'}", r"2 GGUF files \(one.gguf, other.gguf\): say which"),
        ("hf:nobody/nothing", r"of hf:nobody/nothing cannot be read \(it is fetched from the Hub"),
    ):
        with pytest.raises(InputError, match=words):
            create(name)
    with pytest.raises(InputError, match="comes with its weights"):
        create(f"hf:{tmp_path / 'net'}", weights="w.safetensors")
    with pytest.raises(UnknownNameError, match="Did you mean 'dtype'"):
        create(f"hf:{tmp_path / 'net'}", dtypes="float32")
    with pytest.raises(UnknownNameError, match=r"kind of network named 'casual'.*'causal'"):
        create(f"hf:{tmp_path / 'net'}", kind="casual")
    with pytest.raises(WeightsError, match=r"holds no values for .* which would be random"):
        create(f"hf:{tmp_path / 'net'}", kind="classification")


@pytest.mark.skipif(find_spec("gguf") is not None, reason="gguf is installed")
def test_gguf_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    for name in (f"hf:{tmp_path}", f"hf:{tmp_path / 'x.gguf'}"):
        with pytest.raises(InputError, match=r"needs gguf.*pip install .secateur\[gguf\]"):
            create(name)


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(tmp_path: Path) -> None:
    network = causal(tmp_path, rows=40)
    with pytest.raises(InputError, match=r"does not fit the network: .* and the embedding has 40 rows"):
        check_tokenizer(load_tokenizer(f"hf:{tmp_path}"), network)
