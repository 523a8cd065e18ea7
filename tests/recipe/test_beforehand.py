"""A whole recipe is looked at before its first training, and what it assumes is said."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import secateur
from secateur.core.errors import InputError, SecateurError, SecateurWarning
from secateur.recipe import load_recipe, run
from secateur.recipe.steps import STEPS
from secateur.runtimes import RUNTIMES

HEAD = """
name: tried
model: {name: resnet_digits}
data: {name: digits, limit: 96}
steps:
"""


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*_: Any) -> None:
        raise AssertionError("something was trained before all was looked at")

    monkeypatch.setattr(type(STEPS["adapt"]), "run", trained)


def recipe(tmp_path: Path, *steps: str) -> Any:
    file = tmp_path / "tried.yaml"
    file.write_text(HEAD + "".join(f"- {step}\n" for step in steps))
    return load_recipe(file)


def refused(tmp_path: Path, *steps: str) -> str:
    with pytest.raises(SecateurError) as caught:
        run(recipe(tmp_path, *steps), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    return str(caught.value)


@pytest.mark.usefixtures("no_training")
def test_targets_out_of_reach_are_told_before_the_training(tmp_path: Path) -> None:
    said = refused(tmp_path, "adapt: {epochs: 1}", "prune: {macs: 0.0001}")
    assert "Step 2 (prune): The target of" in said
    assert "cannot be met" in said
    rounds = "iterate: {rounds: 3, steps: [{prune: {params: 0.001}}, {finetune: {epochs: 1}}]}"
    assert "Step 2.1 (prune of iterate): The target of" in refused(tmp_path, "adapt: {epochs: 1}", rounds)
    coarse = "prune: {ratio: 0.5, round_to: 512}"
    assert "round_to=512" in refused(tmp_path, "adapt: {epochs: 1}", coarse)


@pytest.mark.usefixtures("no_training")
def test_names_and_criteria_that_fit_nothing_are_told_before_the_training(tmp_path: Path) -> None:
    said = refused(tmp_path, "adapt", "prune: {ratio: 0.5, only: [layer9]}")
    assert "Step 2 (prune): only=…: There is no" in said
    assert "Step 2 (prune): " in refused(tmp_path, "adapt", "prune: {ratio: {layr1: 0.5}}")
    vgg = ["adapt", "remove_layers: {count: 1}"]
    file = tmp_path / "vgg.yaml"
    file.write_text(HEAD.replace("resnet_digits", "vgg_digits") + "".join(f"- {step}\n" for step in vgg))
    with pytest.raises(InputError, match=r"Step 2 \(remove_layers\): The network has no residual branch"):
        run(load_recipe(file), tmp_path / "out")
    assert "Step 2 (remove_layers)" in refused(tmp_path, "adapt", "remove_layers: {count: 99}")


@pytest.mark.usefixtures("no_training")
def test_steps_that_earlier_ones_do_not_serve_are_told_before_the_training(tmp_path: Path) -> None:
    taught = "finetune: {epochs: 1, distill: {teacher: control}}"
    said = refused(tmp_path, "adapt: {epochs: 1}", "prune: {ratio: 0.5}", taught)
    assert "Step 3 (finetune): finetune distils from the control network" in said
    said = refused(tmp_path, "adapt: {epochs: 1}", "prune: {ratio: 0.5}", "rewind: {epoch: 2}")
    assert "Step 3 (rewind): rewind wants the weights after epoch 2" in said


@pytest.mark.usefixtures("no_training")
def test_all_problems_come_in_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def need(self: Any, what: str, **_: Any) -> None:
        raise InputError(f"{what} needs a package that is not installed: pip install it.")

    monkeypatch.setattr(type(RUNTIMES["onnxruntime"]), "need", need)
    said = refused(
        tmp_path, "adapt", "prune: {macs: 0.0001}", "finetune: {distill: {teacher: control}}", "export: {to: [onnx]}"
    )
    lines = said.splitlines()
    assert len(lines) == 3
    assert "steps.export.to: onnx needs a package" in lines[0]
    assert lines[1].startswith("Step 2 (prune)")
    assert lines[2].startswith("Step 3 (finetune)")


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.usefixtures("no_training")
def test_a_disk_without_room_is_told_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 1000, 1000))
    said = refused(tmp_path, "adapt: {epochs: 1}", "prune: {ratio: 0.5}")
    assert "The checkpoints of the dense network alone will take 0.00 GB" in said
    assert "Free some space" in said


def test_what_training_leaves_is_not_less_than_was_foreseen(tmp_path: Path) -> None:
    from secateur.recipe.steps.base import Ahead

    made = recipe(tmp_path, "adapt: {epochs: 1}")
    found = run(made, tmp_path / "out")
    ahead = Ahead(found.state.dense, found.task, (), 0)
    foreseen = STEPS["adapt"].leaves(made.steps[0].config, ahead)
    left = sum(file.stat().st_size for file in (tmp_path / "out" / "steps").rglob("*") if file.is_file())
    assert 0.8 * left < foreseen <= left


def test_a_place_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"Cannot make the folder .*file is no folder"):
        run(recipe(tmp_path, "adapt"), tmp_path / "file" / "out")


def test_later_cuts_of_what_is_left_are_not_judged_by_the_dense_network(tmp_path: Path) -> None:
    steps = ["adapt: {epochs: 1}", "prune: {ratio: 0.5}", "prune: {macs: 0.3}"]
    assert run(recipe(tmp_path, *steps), tmp_path / "out").state.pruned is not None


def test_random_weights_of_a_run_are_said(tmp_path: Path) -> None:
    with pytest.warns(SecateurWarning, match="resnet_digits began with random weights.*prune, does not train it"):
        found = run(recipe(tmp_path, "prune: {ratio: 0.5}", "report"), tmp_path / "out")
    notes = found.results["notes"]
    assert [note for note in notes if "random weights" in note] == [notes[0]]
    assert "figures of accuracy mean nothing" in notes[0]
    assert "random weights" in (tmp_path / "out" / "report.html").read_text()


def test_weights_that_are_trained_first_or_given_are_no_matter(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    network = secateur.models.create("resnet_digits")
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    given = recipe(tmp_path, "prune: {ratio: 0.5}")
    given = type(given)(
        **{**vars(given), "model": given.model.model_copy(update={"weights": str(tmp_path / "w.safetensors")})}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", SecateurWarning)
        found = run(given, tmp_path / "b")
        trained = run(recipe(tmp_path, "adapt: {epochs: 1}", "prune: {ratio: 0.5}"), tmp_path / "a")
    assert not [note for note in (*found.results["notes"], *trained.results["notes"]) if "random" in note]


def test_networks_that_are_handed_over(tmp_path: Path) -> None:
    data = secateur.data.load("digits", limit=96)
    (tmp_path / "tried.yaml").write_text(HEAD + "- prune: {ratio: 0.5}\n- finetune: {epochs: 1}\n")
    network = secateur.models.create("resnet_digits")
    with pytest.warns(SecateurWarning, match="before the first training mean nothing"):
        secateur.run(tmp_path / "tried.yaml", tmp_path / "a", model=network, task=data)
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("error", SecateurWarning)
        secateur.run(tmp_path / "tried.yaml", tmp_path / "b", model=network, task=data)
        secateur.run(tmp_path / "tried.yaml", tmp_path / "c", model=own, task=data)
