"""Networks by ``hf:NAME`` on the command line and in recipes, with calibration on plain text."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import secateur
from command_line import call
from secateur.core.errors import InputError
from transformer_cases import CORPUS, causal, masked, mixture

pytestmark = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


class Said:
    """What a command answered."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        self.code, out, err = call(capsys, *arguments)
        self.text = " ".join((out + err).split())


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(CORPUS * 12), encoding="utf-8")
    return path


def opened(folder: Path, kind: str) -> tuple[Any, Any]:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder) if (folder / "tokenizer.json").exists() else None
    return getattr(transformers, kind).from_pretrained(folder), tokenizer


@pytest.mark.parametrize("kind", ["LlamaForCausalLM", "BertForMaskedLM", "BertModel"])
def test_a_cut_by_text_is_opened_by_transformers_and_by_secateur(
    kind: str, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = causal if kind.startswith("Llama") else masked
    made(tmp_path / "dense", *([] if made is causal else [kind]))
    out = tmp_path / "small"
    only = "*.mlp.*" if made is causal else "*.intermediate.*"
    how = ["--ratio", "0.5", "--only", only, "--input-shape", "16", "--out", str(out)]
    how += ["--criterion", "wanda"] * (kind == "BertModel")  # of embeddings no loss is known: l2 is the default
    said = Said(capsys, "prune", f"hf:{tmp_path / 'dense'}", "--data", f"text:{text}", *how)
    assert said.code == 0, said.text
    assert "transformers opens it too" in said.text
    small, reader = opened(out, kind)
    assert small.config.intermediate_size == 16
    inputs = reader(CORPUS[0], return_tensors="pt", return_token_type_ids=False, padding="max_length", max_length=16,
                    truncation=True)  # fmt: skip
    again = secateur.load(out)
    ours, theirs = again.model(**inputs), small(**inputs)
    first = next(iter(ours.values())) if isinstance(ours, dict) else ours[0]
    assert torch.allclose(first, theirs[0], atol=1e-5)
    assert again.plan.provenance["criterion"] == "wanda"


def test_widths_of_their_own_are_said_loudly_and_uniform_ones_keep_the_configuration(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    causal(tmp_path / "dense")
    name, data = f"hf:{tmp_path / 'dense'}", f"text:{text}"
    how = ["--data", data, "--only", "*.mlp.*", "--macs", "0.9", "--input-shape", "16"]
    lost = Said(capsys, "prune", name, *how, "--scope", "global", "--out", str(tmp_path / "own"))
    assert lost.code == 0, lost.text
    assert "no configuration can say the widths" in lost.text
    assert not (tmp_path / "own" / "config.json").exists()
    kept = Said(capsys, "prune", name, *how, "--scope", "uniform", "--out", str(tmp_path / "even"))
    assert kept.code == 0, kept.text
    small, _ = opened(tmp_path / "even", "LlamaForCausalLM")
    assert small.config.intermediate_size < 32


def test_a_recipe_takes_the_task_and_the_tokenizer_of_the_network(tmp_path: Path, text: Path) -> None:
    causal(tmp_path / "dense")
    recipe = {
        "name": "language", "description": "d", "model": {"name": f"hf:{tmp_path / 'dense'}"},
        "task": {"name": "language-modelling", "length": 16}, "data": {"name": f"text:{text}"},
        "steps": [{"prune": {"ratio": 0.5, "only": ["*.mlp.*"], "calibration": 8}}],
    }  # fmt: skip
    (tmp_path / "language.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    secateur.run(tmp_path / "language.yaml", out=tmp_path / "run", progress=False)
    found = next((tmp_path / "run").rglob("plan.json")).parent
    small, _ = opened(found, "LlamaForCausalLM")
    assert small.config.intermediate_size == 16
    assert json.loads((found / "plan.json").read_text())["plan"]["provenance"]["criterion"] == "wanda"


def test_text_that_does_not_do_is_said(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    causal(tmp_path / "dense")
    name = f"hf:{tmp_path / 'dense'}"
    short = tmp_path / "short.txt"
    short.write_text("the cat sat on the mat", encoding="utf-8")
    for options, words in (
        (["--data", f"text:{short}"], "fewer than one window of 64"),
        (["--data", f"text:{tmp_path / 'none.txt'}"], "none.txt"),
        (["--input-shape", "3,8,8"], "number of tokens of one text"),
        (["--input-shape", "65"], "the network takes 64 at most"),
    ):
        said = Said(capsys, "prune", name, "--ratio", "0.5", "--out", str(tmp_path / "out"), *options)
        assert said.code == 2, said.text
        assert words in said.text
    said = Said(capsys, "prune", "lenet5", "--data", f"text:{text}", "--ratio", "0.5", "--out", str(tmp_path / "out"))
    assert "no network here brings a tokenizer" in said.text


def test_experts_are_listed_and_removed_by_a_text(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixture(tmp_path / "dense")
    name, data = f"hf:{tmp_path / 'dense'}", ("--data", f"text:{text}", "--input-shape", "16")
    listed = Said(capsys, "experts", name, *data)
    assert listed.code == 0, listed.text
    assert "model.layers.1.mlp" in listed.text
    out = tmp_path / "fewer"
    said = Said(capsys, "experts", name, *data, "--keep", "3", "--criterion", "output_change", "--out", str(out))
    assert said.code == 0, said.text
    small, reader = opened(out, "MixtralForCausalLM")
    assert small.config.num_local_experts == 3
    assert small.generate(**reader("the cat", return_tensors="pt"), max_new_tokens=2, do_sample=False).shape[0] == 1
    for wrong, words in (
        (("--keep", "3"), "say with --out"),
        (("--out", str(tmp_path / "b")), "Give one of --keep, --count and --ratio; got none"),
        (("--keep", "1", "--out", str(tmp_path / "b")), "so 2 have to stay"),
    ):
        refused = Said(capsys, "experts", name, *data, *wrong)
        assert refused.code == 2
        assert words in refused.text
    other = Said(capsys, "experts", "lenet5")
    assert other.code == 2
    assert "no mixture of experts" in other.text


RECIPE_OF_EXPERTS = """
name: trial
model: {{name: "hf:{model}"}}
data: {{name: "text:{text}"}}
task: {{name: language-modelling, length: 16}}
steps:
- remove_experts: {{keep: 3, samples: 8}}
- recover: {{images: 16}}
- finetune: {{epochs: 1, batch_size: 8, optimizer: adamw, lr: 0.001, adapters: {{rank: 2}}}}
- report
"""


def test_a_recipe_removes_experts_repairs_and_trains_adapters(tmp_path: Path, text: Path) -> None:
    from secateur.recipe import load_recipe, run

    mixture(tmp_path / "dense")
    file = tmp_path / "trial.yaml"
    file.write_text(RECIPE_OF_EXPERTS.format(model=tmp_path / "dense", text=text))
    done = run(load_recipe(file), tmp_path / "run", progress=False)
    assert done.state.models["pruned"].config.num_local_experts == 3
    said = json.loads((done.folder / "steps/01-remove_experts/result.json").read_text())["result"]["report"]["pruning"]
    assert said == "all but 3 experts of every mixture, by routing"
    loaded = secateur.load(tmp_path / "run/artifact", opened(tmp_path / "dense", "MixtralForCausalLM")[0]).model
    inputs = {"input_ids": torch.arange(9)[None]}
    assert torch.equal(loaded(**inputs).logits, done.state.models["pruned"].eval()(**inputs).logits)


RECIPE_OF_TOKENS = """
name: tokens
model: {{name: "hf:{model}"}}
data: {{name: "text:{text}"}}
task: {{name: language-modelling, length: 16}}
steps:
- prune: {{ratio: 0.5, only: ["*.mlp.*"]}}
- cut_vocabulary: {{texts: {texts}}}
- report
"""


def test_a_recipe_hands_over_a_smaller_vocabulary(tmp_path: Path) -> None:
    from secateur.recipe import load_recipe, run

    causal(tmp_path / "dense")
    few, text = tmp_path / "few.txt", tmp_path / "text.txt"
    text.write_text("\n".join(CORPUS[:2] * 6), encoding="utf-8")
    few.write_text("the cat sat", encoding="utf-8")
    sizes = {}
    for name, texts in (("all", "null"), ("few", f"text:{few}")):
        file = tmp_path / f"{name}.yaml"
        file.write_text(RECIPE_OF_TOKENS.format(model=tmp_path / "dense", text=text, texts=texts))
        done = run(load_recipe(file), tmp_path / name, progress=False)
        small, reader = opened(done.folder / "fewer-tokens", "LlamaForCausalLM")
        assert small.config.intermediate_size == done.state.models["pruned"].config.intermediate_size == 16
        assert small.config.vocab_size == len(reader)
        assert reader.decode(reader("the cat sat")["input_ids"], skip_special_tokens=True) == "the cat sat"
        assert any("the texts never use" in note for note in done.results["notes"])
        sizes[name] = len(reader)
    assert sizes["few"] < sizes["all"] < 300
    file.write_text(RECIPE_OF_TOKENS.format(model=tmp_path / "dense", text=text, texts="nowhere.txt"))
    with pytest.raises(InputError, match=r"cut_vocabulary.*nowhere\.txt"):
        run(load_recipe(file), tmp_path / "third", progress=False)
    assert not (tmp_path / "third").exists(), "told before it begins"


def test_a_recipe_without_a_tokenizer_is_told_before_it_begins(tmp_path: Path) -> None:
    from secateur.recipe import load_recipe, run

    file = tmp_path / "trial.yaml"
    file.write_text(
        "name: a\nmodel: {name: resnet_digits}\ndata: {limit: 40}\nsteps:\n- prune: {ratio: 0.5}\n- cut_vocabulary\n"
    )
    with pytest.raises(InputError, match="resnet_digits brings no tokenizer: name a network of transformers"):
        run(load_recipe(file), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_is_cut_to_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    causal(tmp_path / "dense")
    text = tmp_path / "two.txt"
    text.write_text("\n".join(CORPUS[:2]), encoding="utf-8")
    out = tmp_path / "fewer"
    said = Said(capsys, "vocabulary", f"hf:{tmp_path / 'dense'}", "--data", f"text:{text}", "--out", str(out))
    assert said.code == 0, said.text
    small, reader = opened(out, "LlamaForCausalLM")
    assert small.config.vocab_size == len(reader) < 300
    again = Said(capsys, "vocabulary", "lenet5", "--data", f"text:{text}", "--out", str(tmp_path / "b"))
    assert again.code == 2
    assert "brings no tokenizer" in again.text
