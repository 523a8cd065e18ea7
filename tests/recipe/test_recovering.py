"""Steps that choose, repair and purify: what they leave, and that a run goes on behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("jinja2")
pytest.importorskip("jinja2")

from secateur.core.errors import InputError
from secateur.recipe import load_recipe, reopen, run
from secateur.recipe.schema import Recipe

NETWORK: dict[str, Any] = {"model": {"name": "vgg_digits"}, "data": {"name": "digits", "limit": 96}}


def recipe(folder: Path, *steps: Any) -> Recipe:
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({"name": "own", "description": "A test.", **NETWORK, "steps": list(steps)}))
    return load_recipe(path)


def test_a_cut_by_reconstruction_and_recover_reach_the_target_and_are_restored(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    made = recipe(
        tmp_path,
        {"adapt": {"epochs": 1}},
        {"prune": {"criterion": "reconstruction", "macs": 0.5, "calibration": 64, "mirror": True}},
        {"recover": {"images": 64}},
    )
    result = run(made, tmp_path / "run", progress=False)
    numbers = result.results
    pruned = result.state.pruned
    assert pruned.after.macs == pytest.approx(0.5 * pruned.before.macs, rel=0.01)
    assert pruned.plan.provenance["criterion"] == "reconstruction"
    assert "best make good" in numbers["pruning"]
    back = reopen(tmp_path / "run").state.models["pruned"].state_dict()
    assert all(torch.equal(t, back[n]) for n, t in result.state.models["pruned"].state_dict().items())
    from secateur import load

    again = load(tmp_path / "run" / "artifact", model=result.state.models["dense"]).model.state_dict()
    assert all(torch.equal(t, again[n]) for n, t in back.items()), "the artifact is the repaired network"


def test_purify_keeps_the_scores_and_is_restored(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    made = recipe(tmp_path, {"adapt": {"epochs": 1}}, {"sparsify": {"ratio": 0.97, "scope": "global"}}, "purify")
    result = run(made, tmp_path / "run", progress=False)
    before, after = (
        reopen_result(tmp_path / "run", name)["evaluations"]["pruned"] for name in ("02-sparsify", "03-purify")
    )
    assert after["top1"] == before["top1"]
    assert after["loss"] == pytest.approx(before["loss"], rel=1e-4)
    assert result.state.pruned.after.params < result.state.pruned.before.params
    back = reopen(tmp_path / "run").state.models["pruned"].state_dict()
    assert all(torch.equal(t, back[n]) for n, t in result.state.models["pruned"].state_dict().items())


def reopen_result(folder: Path, step: str) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads((folder / "steps" / step / "result.json").read_text())["result"]
    return found


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([{"prune": {"ratio": 0.5}}, {"recover": {"method": "least_square"}}], "Did you mean 'least_squares'"),
        ([{"prune": {"ratio": 0.5}}, {"recover": {"method": "bias", "match_variance": True}}], "match_variance is for"),
        (["recover"], "recover needs a prune, remove_experts or remove_layers step"),
        ([{"prune": {"criterion": "magnitude", "ratio": 0.5}}], "'magnitude' scores weights"),
        ([{"prune": {"ratio": 0.5}}, {"recover": {"images": -1}}], "greater than or equal to 0"),
    ],
)
def test_wrong_settings_name_the_place(tmp_path: Path, steps: list[Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        recipe(tmp_path, *steps)
