"""Penalties, rewinding, training from scratch and scored points in recipes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.cost import netscore
from secateur.recipe import Recipe, load_recipe, reopen, resume, run
from secateur.recipe.prepare import make_model
from secateur.recipe.sameness import differences, numbers
from secateur.recipe.schema import DataConfig, ModelConfig
from secateur.sparsity.rewinding import Snapshot, sliced
from secateur.train import TrainConfig, fit

HEAD = """
name: trial
model: {name: "tiny_networks:Tiny"}
data: {name: digits, limit: 96}
steps:
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def recipe(folder: Path, *steps: str) -> Recipe:
    file = folder / "trial.yaml"
    file.write_text(HEAD + "".join(f"- {step}\n" for step in steps))
    return replace(load_recipe(file), origin=None)  # the tests' own networks, as if named from Python


CUT = "prune: {criterion: bn_scale, scope: global, ratio: 0.5, min_units: 2}"


def test_slimming_removes_the_smallest_scales_of_the_whole_network(tmp_path: Path) -> None:
    penalty = "{name: bn_l1, weight: 2, init: 0.5}"
    done = run(recipe(tmp_path, f"adapt: {{epochs: 2, lr: 0.02, penalty: {penalty}}}", CUT, "report"), tmp_path / "run")
    scales = done.results["scales"][0]
    assert (scales["label"], scales["step"]) == ("bn_l1", "01-adapt")
    assert [row["epoch"] for row in scales["rows"]] == [0, 1, 2]
    medians = [row["quantiles"][3] for row in scales["rows"]]
    assert medians == sorted(medians, reverse=True)
    assert "What the penalty moved" in (done.folder / "report.html").read_text()
    # by hand: mean |γ| of what is coupled, ranked over the whole network; two units stay in each group
    gamma = {n: p.detach().abs() for n, p in done.state.models["dense"].named_parameters()}
    groups = {
        "stem.weight": (gamma["bn.weight"] + gamma["block.4.weight"]) / 2,
        "block.0.weight": gamma["block.1.weight"],
        "wide.weight": gamma["bn2.weight"],
    }
    ranked = sorted((float(v), name, i) for name, values in groups.items() for i, v in enumerate(values))
    kept = {name: set(range(len(values))) for name, values in groups.items()}
    for _, name, unit in ranked:
        if sum(map(len, kept.values())) > 13 and len(kept[name]) > 2:
            kept[name].discard(unit)
    plan = done.state.pruned.plan.keep
    assert {name: set(plan[name][0]) if name in plan else set(range(len(groups[name]))) for name in kept} == kept


def test_a_run_with_penalties_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (
        "adapt: {epochs: 3, penalty: [{name: bn_l1, weight: 0.1}, {name: group_lasso, over: [units, depth]}]}",
        CUT,
        "rewind: {epoch: 2}",
    )
    run(recipe(tmp_path, *steps), tmp_path / "whole")
    from secateur.train import checkpoint

    class Crash(BaseException):
        pass

    real, count = checkpoint.write, [0]

    def write(path: Path, content: dict[str, Any]) -> None:
        count[0] += path.name == "last.pt"
        real(path, content)
        if count[0] == 2:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", write)
        with pytest.raises(Crash):
            run(recipe(tmp_path, *steps), tmp_path / "stopped")
    resume(tmp_path / "stopped")
    assert differences(numbers(tmp_path / "stopped"), numbers(tmp_path / "whole")) == []


def test_rewinding_returns_to_the_beginning_or_to_an_epoch(tmp_path: Path) -> None:
    made = recipe(tmp_path, "adapt: {epochs: 2}", CUT, "finetune: {epochs: 1}", "rewind")
    start = run(made, tmp_path / "start")
    plan = start.state.pruned.plan
    for model in (start.state.models["pruned"], reopen(tmp_path / "start").state.models["pruned"]):
        wanted = sliced(make_model(made, start.task).state_dict(), plan, model)
        assert all(torch.equal(t, wanted[n]) for n, t in model.state_dict().items())
    # the same training by hand, looked at after its first epoch
    seen: dict[str, Tensor] = {}
    look = Snapshot({1: lambda model: seen.update({n: t.clone() for n, t in model.state_dict().items()})})
    fit(make_model(made, start.task), start.task, TrainConfig(epochs=2), seed=0, name="01-adapt", extras=[look])
    one = run(recipe(tmp_path, "adapt: {epochs: 2}", CUT, "rewind: {epoch: 1}"), tmp_path / "one").state
    wanted = sliced(seen, one.pruned.plan, one.models["pruned"])
    assert all(torch.equal(t, wanted[n]) for n, t in one.models["pruned"].state_dict().items())


def test_masks_hold_through_rewinding_and_from_scratch(tmp_path: Path) -> None:
    steps = ("adapt: {epochs: 1}", "sparsify: {ratio: 0.5}", "rewind", "finetune: {epochs: 1}", "scratch: {epochs: 1}")
    done = run(recipe(tmp_path, *steps, "score"), tmp_path / "run")
    assert done.state.masks
    for role in ("pruned", "scratch"):
        weights = dict(done.state.models[role].named_parameters())
        assert all(not weights[name][~mask].any() for name, mask in done.state.masks.items()), role
        assert all(weights[name][mask].any() for name, mask in done.state.masks.items()), role


def test_scratch_takes_the_same_epochs_or_the_same_work(tmp_path: Path) -> None:
    steps = ("adapt: {epochs: 2}", "prune: {ratio: 0.5}", "finetune: {epochs: 1}")
    done = run(recipe(tmp_path, *steps, "scratch", "scratch: {budget: macs}", "measure: {runtimes: []}"),
               tmp_path / "run")  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    epochs = Counter(line["step"] for line in lines if "epoch" in line)
    measured = {n["role"]: n["measurement"] for n in done.results["networks"]}
    assert epochs["04-scratch"] == 3
    assert epochs["05-scratch"] == round(3 * measured["dense"]["macs"] / measured["pruned"]["macs"]) > 3
    assert measured["scratch"]["macs"] == measured["pruned"]["macs"]
    assert measured["scratch"]["quality"]["top1"] != measured["pruned"]["quality"]["top1"]
    again = reopen(tmp_path / "run").state.models["scratch"]
    assert torch.equal(again.stem.weight, done.state.models["scratch"].stem.weight)


def test_every_point_is_scored(tmp_path: Path) -> None:
    sparser = "iterate: {rounds: 2, steps: [{sparsify: {ratio: 0.8, scope: global}}, {score: {}}]}"
    done = run(recipe(tmp_path, "adapt: {epochs: 1}", "score", CUT, "score", sparser, "report"), tmp_path / "run")
    points = done.results["points"]
    assert [p["label"] for p in points] == [
        "dense",
        "channels −50 %",
        "channels −50 %, weights −40 %",
        "channels −50 %, weights −80 %",
    ]
    assert points[1]["params"] == points[1]["nonzero_params"] < points[0]["params"]
    assert points[3]["params"] == points[1]["params"] > points[2]["nonzero_params"] > points[3]["nonzero_params"]
    assert points[3]["macs"] == points[1]["macs"], "zeros inside a layer are multiplied like other weights"
    model = done.state.models["pruned"]
    assert points[3]["nonzero_params"] == sum(int((p != 0).sum()) for p in model.parameters())
    for point in points:
        wanted = netscore(point["value"], point["nonzero_params"], point["macs"])
        assert point["netscore"] == wanted
    assert "Step by step" in (done.folder / "report.html").read_text()


def test_a_network_that_guesses_is_told_of_while_it_runs(tmp_path: Path) -> None:
    forgotten = "prune: {criterion: random, ratio: 0.9, scope: global, min_units: 1}"
    said: list[str] = []
    done = run(recipe(tmp_path, "adapt: {epochs: 3}", forgotten, "score", "measure: {runtimes: []}", "report"),
               tmp_path / "run", on_event=lambda event: said.append(str(dict(event.summary))))  # fmt: skip
    (point,) = done.results["points"]
    assert point["at_chance"] is True
    assert any("no better than a guess" in line for line in said)
    told = [note for note in done.results["notes"] if "no better than a guess" in note]
    assert next(note.partition(":")[0] for note in told) == "channels −90 %"
    page = (done.folder / "report.html").read_text()
    assert "(a guess)" in page
    assert "its NetScore says nothing" in page


def test_what_a_group_lasso_pushed_to_zero_goes_and_nothing_changes(tmp_path: Path) -> None:
    penalty = "{name: group_lasso, over: [filters, channels], weight: 0.3}"
    adapt = f"adapt: {{epochs: 8, batch_size: 16, lr: 0.05, penalty: {penalty}}}"
    done = run(recipe(tmp_path, adapt, "remove_zeros"), tmp_path / "run")
    small, images = done.state.pruned, done.task.sample(8, split="test")
    assert small.after.params < small.before.params
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    accuracies = [line["test_top1"] for line in lines if "test_top1" in line]
    assert accuracies[0] == accuracies[1], "only what had no effect went"
    with torch.no_grad():
        again = reopen(tmp_path / "run").state.models["pruned"].eval()(images)
        assert torch.equal(again, small.model.eval()(images))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("adapt: {penalty: {name: bn_l2}}", "bn_l1"),
        ("adapt: {penalty: {name: bn_l1, weigth: 1}}", "weight"),
        ("adapt: {penalty: {name: bn_l1, weight: -1}}", "at least 0"),
        ("adapt: {penalty: {name: bn_l1, weight: much}}", "should be a number"),
        ("adapt: {penalty: {name: bn_l1, weight: [1]}}", "weight is a finite number"),
        ("adapt: {penalty: {weight: 1}}", "a penalty is written"),
        ("adapt: {penalty: 3}", "a penalty is written"),
        ("adapt: {penalty: {name: group_lasso, over: filtres}}", "filters"),
        ("rewind: {epoch: -1}", "greater than or equal to 0"),
        ("scratch", "needs a prune"),
        ("rewind", "needs a prune"),
    ],
)
def test_bad_settings_are_named_with_their_line(tmp_path: Path, step: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        recipe(tmp_path, step)
    assert "trial.yaml, line 6" in str(raised.value)


def test_penalties_are_written_out_with_their_defaults(tmp_path: Path) -> None:
    made = recipe(tmp_path, "adapt: {penalty: bn_l1}", "control: {penalty: {name: bn_l1, weight: 1e-5}}")
    written = made.to_dict()["steps"]
    assert written[0]["adapt"]["penalty"] == [{"name": "bn_l1", "weight": 1e-4, "scales": "all", "init": None}]
    assert written[1]["control"]["penalty"][0]["weight"] == 1e-5
    (tmp_path / "again.yaml").write_text(made.to_yaml())
    assert load_recipe(tmp_path / "again.yaml") == made


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (("adapt: {epochs: 1}", CUT, "rewind: {epoch: 2}"), "wants the weights after epoch 2"),
        ((CUT, "rewind: {epoch: 2}"), "no adapt step of this recipe keeps them"),
    ],
)
def test_rewinding_without_early_weights(tmp_path: Path, steps: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(recipe(tmp_path, *steps), tmp_path / "run")


def test_a_penalty_that_meets_nothing_stops_the_run(tmp_path: Path) -> None:
    made = recipe(tmp_path, "adapt: {penalty: bn_l1}")
    bare = Recipe(**{**vars(made), "model": ModelConfig(name="lenet5"), "data": DataConfig(image_size=28, limit=96)})
    with pytest.raises(InputError, match="bn_l1"):
        run(bare, tmp_path / "run")
