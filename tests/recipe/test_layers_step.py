"""Whole layers in recipes: the step, its report, and a run that goes on behind it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import secateur
from secateur.core.errors import InputError
from secateur.recipe import Recipe, load_recipe, reopen, resume, run
from secateur.recipe.sameness import differences, numbers
from tiny_networks import Blocks

HEAD = """
name: trial
model: {name: "tiny_networks:Blocks"}
data: {name: digits, limit: 64}
steps:
- adapt: {epochs: 1}
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def recipe(folder: Path, *steps: str) -> Recipe:
    file = folder / "trial.yaml"
    file.write_text(HEAD + "".join(f"- {step}\n" for step in steps))
    return replace(load_recipe(file), origin=None)  # the tests' own networks, as if named from Python


def test_layers_and_channels_in_one_recipe(tmp_path: Path) -> None:
    steps = ("remove_layers: {count: 2}", "prune: {ratio: 0.5, scope: block}", "finetune: {epochs: 1}", "report")
    done = run(recipe(tmp_path, *steps), tmp_path / "run")
    pruned, dense = done.state.models["pruned"], done.state.models["dense"]
    ranked = [b.name for b in secateur.removable(dense, torch.zeros(1, 1, 8, 8)) if not b.reason]
    assert set(done.state.pruned.plan.removed) == set(ranked[:2])
    result = json.loads((done.folder / "steps/02-remove_layers/result.json").read_text())["result"]
    assert set(result["summary"]["removed"]) == set(ranked[:2])
    assert {p["layer"] for p in result["report"]["pinned"]} == {"wide.body"}
    assert f"2 of the residual branches, lowest score first: {', '.join(sorted(ranked[:2]))}" in json.dumps(result)
    blocks = {row["block"]: row["after"] for row in result["report"]["blocks"]}
    assert all(blocks[name] == 0 for name in ranked[:2])
    x = torch.randn(3, 1, 8, 8)
    loaded = secateur.load(tmp_path / "run/artifact", model=Blocks()).model
    torch.testing.assert_close(loaded(x), pruned.eval()(x))
    again = reopen(tmp_path / "run").state.models["pruned"].eval()
    assert torch.equal(again(x), pruned(x))


def test_a_run_goes_on_behind_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ("prune: {ratio: 0.5, scope: block}", "remove_layers: {names: [blocks.1]}", "finetune: {epochs: 1}")
    run(recipe(tmp_path, *steps), tmp_path / "whole")
    from secateur.recipe.steps.training import Finetune

    with monkeypatch.context() as patch:
        patch.setattr(Finetune, "run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(recipe(tmp_path, *steps), tmp_path / "stopped")
    resume(tmp_path / "stopped")
    assert differences(numbers(tmp_path / "stopped"), numbers(tmp_path / "whole")) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("{}", "give one of count, ratio, names; got none"),
        ("{count: 1, ratio: 0.5}", "got count and ratio"),
        ("{count: 0}", "count"),
        ("{count: 1, criterion: apoz}", "bn_scale"),
    ],
)
def test_wrong_settings_name_the_line(tmp_path: Path, settings: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        recipe(tmp_path, f"remove_layers: {settings}")
    assert "line 7" in str(caught.value)
