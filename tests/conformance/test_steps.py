"""Every kind of step: stopped and gone on with it gives the same, and what the run ships is what it ends with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import transformer_cases
from secateur.recipe import Event, Recipe, RunResult, load_recipe, reopen, resume, run
from secateur.recipe.folder import RunFolder
from secateur.recipe.sameness import differences, numbers
from secateur.recipe.steps import STEPS

PRUNE: dict[str, Any] = {"prune": {"ratio": 0.5}}
SHORT = {"epochs": 1, "batch_size": 20}
TRIALS: dict[str, list[Any]] = {
    "adapt": [{"adapt": SHORT}],
    "admm": [{"admm": {"filters": 0.25, "columns": 0.5, "iterations": 3, **SHORT}}],
    "compress": [{"compress": {"bits": 4}}],
    "control": [{"control": SHORT}],
    "cut_vocabulary": [PRUNE, "cut_vocabulary"],
    "energy_aware": [{"energy_aware": {"ratio": 0.5, "images": 16}}],
    "export": [PRUNE, {"export": {"to": ["pt2"], "images": 8}}],
    "finetune": [PRUNE, {"finetune": SHORT}],
    "lc": [{"lc": {"ratio": 0.5, "iterations": 2, **SHORT}}],
    "measure": [PRUNE, {"measure": {"runtimes": [], "images": 0}}],
    "prune": [PRUNE],
    "purify": [{"sparsify": {"ratio": 0.9}}, {"purify": {"emptiness": 0.8}}],
    "recover": [PRUNE, {"recover": {"images": 16}}],
    "remove_experts": [{"remove_experts": {"keep": 3}}],
    "remove_layers": [{"remove_layers": {"count": 1}}],
    "remove_zeros": [{"remove_zeros": {"below": 0.05}}],
    "report": [PRUNE, {"measure": {"runtimes": [], "images": 0}}, "report"],
    "rewind": [{"adapt": SHORT}, PRUNE, {"rewind": {"epoch": 1}}],
    "scratch": [PRUNE, {"scratch": SHORT}],
    "score": ["score"],
    "tune": [PRUNE, {"tune": {"images": 16, "block_epochs": 1, "epochs": 1}}],
    "sparsify": [{"sparsify": {"ratio": 0.5}}],
}
"""The shortest recipe that has the step."""
NETWORKS = {"remove_experts": "tiny_networks:Mixture"}
"""Networks of the steps that need another than the rest."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_every_kind_is_tried() -> None:
    shipped = [kind for kind in STEPS if "secateur/recipe/steps" in STEPS.origin(kind).file]
    assert sorted(TRIALS) == shipped


def of_texts(folder: Path) -> dict[str, Any]:
    """A network of transformers and a text."""
    pytest.importorskip("transformers")
    transformer_cases.causal(folder / "dense")
    (folder / "text.txt").write_text("\n".join(transformer_cases.CORPUS[:2] * 4), encoding="utf-8")
    return {
        "name": "trial",
        "model": {"name": f"hf:{folder / 'dense'}"},
        "data": {"name": f"text:{folder / 'text.txt'}"},
        "task": {"name": "language-modelling", "length": 16},
    }


def opened(file: Path) -> Recipe:
    """The recipe, with the tests' own networks as if they were named from Python."""
    return replace(load_recipe(file), origin=None)


def through_stops(file: Path, out: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> RunResult:
    """Stopped when the step is done and nobody has noted it yet, and again when the next one begins."""
    finish = RunFolder.finish

    def stopped(self: RunFolder, step: str) -> None:
        if step == name:
            raise KeyboardInterrupt
        finish(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(opened(file), out, progress=False)

    def stop(event: Event) -> None:
        if event.what == "begin" and event.step > name:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resume(out, on_event=stop, progress=False)
    return resume(out, progress=False)


@pytest.mark.parametrize("kind", TRIALS)
def test_stopped_and_gone_on_with_it_is_the_same(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "report":
        pytest.importorskip("jinja2")
        pytest.importorskip("jinja2")
    about: dict[str, Any] = {
        "name": "trial",
        "model": {"name": NETWORKS.get(kind, "resnet_digits")},
        "data": {"limit": 40},
    }
    if kind == "cut_vocabulary":
        about = of_texts(tmp_path)
    file = tmp_path / "trial.yaml"
    file.write_text(yaml.safe_dump({**about, "steps": [*TRIALS[kind], {"score": {"label": "end"}}]}))
    name = f"{len(TRIALS[kind]):02d}-{kind}"
    whole = run(opened(file), tmp_path / "whole", progress=False)
    parts = through_stops(file, tmp_path / "parts", name, monkeypatch)
    assert not differences(numbers(whole.folder), numbers(parts.folder))
    for done in (parts, reopen(whole.folder)):
        assert list(done.state.models) == list(whole.state.models)
        for role, model in whole.state.models.items():
            same_weights(model.state_dict(), done.state.models[role].state_dict())
    if STEPS[kind].changes_network or STEPS[kind].cuts:
        assert "pruned" in whole.state.models
    if "pruned" in whole.state.models:  # what is shipped is what it ended with
        same_weights(load_file(parts.folder / "artifact/model.safetensors"), whole.state.models["pruned"].state_dict())


def same_weights(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert set(one) <= set(other)  # tied weights are written once
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
