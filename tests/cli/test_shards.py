"""`secateur prune --on-disk` and `secateur apply`: files cut tensor by tensor."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import secateur
from command_line import call
from transformer_cases import causal

pytestmark = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


def test_files_are_scored_and_cut_and_a_plan_cuts_them_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dense = causal(Path("dense"))
    code, out, err = call(
        capsys, "prune", "hf:dense", "--on-disk", "--ratio", "0.5", "--only", "*.mlp.*", "--input-shape", "12",
        "--out", "small",
    )  # fmt: skip
    assert code == 0, err
    assert "Not verified: nothing was computed" in err
    assert "Verified:" not in out
    assert "transformers opens it too" in out
    code, out, err = call(capsys, "apply", "small/cut.json", "--weights", "dense/*.safetensors", "--out", "again")
    assert code == 0, err
    assert Path("small/model.safetensors").read_bytes() == Path("again/model.safetensors").read_bytes()
    assert Path("again/tokenizer.json").exists()

    from transformers import AutoTokenizer, LlamaForCausalLM

    tokens = AutoTokenizer.from_pretrained("again")("the cat", return_tensors="pt")["input_ids"]
    memory = secateur.prune(dense, {"input_ids": tokens}, ratio=0.5, only="*.mlp.*")
    assert torch.equal(LlamaForCausalLM.from_pretrained("again")(tokens).logits, memory.model(tokens).logits)

    for words, arguments in {
        "There is no plan 'nowhere'": ("apply", "nowhere", "--weights", "dense", "--out", "x"),
        "There is no safetensors file": ("apply", "small", "--weights", "dense/a-*.safetensors", "--out", "x"),
        "The folder again is not empty": ("apply", "small", "--weights", "dense", "--out", "again"),
        "--out is a folder of safetensors files": ("apply", "small", "--weights", "dense", "--out", "x.onnx"),
        "The plan was made for": ("apply", "small", "--weights", "again", "--out", "x"),
        "--on-disk goes with hf:FOLDER": ("prune", "lenet5", "--on-disk", "--ratio", "0.5", "--out", "x"),
        "--data would run the network": ("prune", "hf:dense", "--on-disk", "--ratio", "0.5", "--data", "text:a.txt",
                                         "--out", "x"),
        "looks at more than weights": ("prune", "hf:dense", "--on-disk", "--ratio", "0.5", "--criterion", "taylor",
                                       "--out", "x"),
    }.items():  # fmt: skip
        code, _, err = call(capsys, *arguments)
        assert code == 2
        assert words in " ".join(err.split()), err
        assert not Path("x").exists()
