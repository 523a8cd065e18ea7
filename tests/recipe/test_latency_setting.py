"""A latency in recipes and commands: what may be said, and what is said about the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import secateur
from latency_cases import arithmetic  # noqa: F401 (a fixture)
from secateur import Target
from secateur.cli.commands import pruning
from secateur.core.errors import InputError, SecateurError
from secateur.recipe import load_recipe, run
from secateur.recipe.steps.pruning import PruneSettings, target_of
from secateur.runtimes import RUNTIMES

STEPS = "name: mine\nmodel: {{name: resnet_digits}}\ndata: {{name: digits}}\nsteps:\n- {0}\n"


def recipe(tmp_path: Path, step: str) -> Any:
    file = tmp_path / "mine.yaml"
    file.write_text(STEPS.format(step))
    return load_recipe(file)


def test_a_latency_is_a_setting_of_prune(tmp_path: Path) -> None:
    step = "prune: {latency: 0.5, runtime: onnxruntime, threads: 2}"
    (entry,) = recipe(tmp_path, step).steps
    assert isinstance(entry.config, PruneSettings)
    assert entry.config.target == Target(latency=0.5, runtime="onnxruntime", threads=2)
    assert str(entry.config) == "down to 50% of the time in onnxruntime, the widths that keep the most l2"
    again = tmp_path / "again.yaml"
    again.write_text(recipe(tmp_path, step).to_yaml())
    assert load_recipe(again).steps[0].config == entry.config


def test_a_latency_goes_with_reconstruction_too(tmp_path: Path) -> None:
    (entry,) = recipe(tmp_path, "prune: {criterion: reconstruction, latency_ms: 2, runtime: openvino, batch: 4}").steps
    assert target_of(entry.config) == Target(latency_ms=2, runtime="openvino", batch=4)
    assert str(entry.config) == "down to 2 ms in openvino, those first that the layers behind can best make good"


def test_other_targets_stay_local_and_of_any_width(tmp_path: Path) -> None:
    (entry,) = recipe(tmp_path, "prune: {macs: 0.5}").steps
    assert (entry.config.scope, entry.config.round_to) == (None, None)
    assert str(entry.config) == "down to 50% of the macs, units of every group, lowest l2 first"


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("prune: {latency: 0.5}", "wants a runtime"),
        ("prune: {latency: 0.5, runtime: onnxruntim}", "Did you mean 'onnxruntime'"),
        ("prune: {latency: 2, runtime: onnxruntime}", "less than or equal to 1"),
        ("prune: {latency: 0.5, macs: 0.5, runtime: onnxruntime}", "macs and latency"),
        ("prune: {ratio: 0.5, latency: 0.5, runtime: onnxruntime}", "ratio and latency"),
        ("prune: {latency: 0.5, runtime: onnxruntime, threads: 0}", "greater than or equal to 1"),
        ("prune: {ratio: 0.5, round_to: automatic}", "round_to"),
    ],
)
def test_what_a_recipe_may_not_say(tmp_path: Path, step: str, words: str) -> None:
    with pytest.raises(SecateurError) as caught:
        recipe(tmp_path, step)
    assert words in str(caught.value)


def test_rounds_count_from_the_dense_network(tmp_path: Path) -> None:
    inner = "prune: {latency: 0.5, runtime: onnxruntime}"
    steps = recipe(tmp_path, f"iterate: {{rounds: 2, steps: [{{{inner}}}]}}").steps
    assert [(s.config.latency, s.config.of) for s in steps] == [(0.75, "dense"), (0.5, "dense")]


def test_a_step_cuts_to_a_latency(arithmetic: Any, tmp_path: Path) -> None:  # noqa: F811
    from secateur.recipe import run

    made = recipe(tmp_path, f"prune: {{latency: 0.6, runtime: {arithmetic()}, criterion: l1}}")
    state = run(made, tmp_path / "run")
    assert state is not None
    plan = (tmp_path / "run" / "artifact" / "plan.json").read_text()
    assert '"latency"' in plan
    assert '"score_kept"' in plan


# ------------------------------------------------------------------------------------------------------ commands


def test_options_become_a_target() -> None:
    where = {"runtime": "onnxruntime", "batch": 1, "threads": 1}
    assert pruning.target(None, latency="50%", where=where) == Target(latency=0.5, runtime="onnxruntime")
    assert pruning.target(None, latency="12ms", where=where) == Target(latency_ms=12, runtime="onnxruntime")
    assert pruning.target(0.5, latency=None, where={**where, "runtime": None}) is None


@pytest.mark.parametrize(
    ("ratio", "latency", "runtime", "words"),
    [
        (None, "2", "onnxruntime", "share up to 1"),
        (None, "-3ms", "onnxruntime", "milliseconds"),
        (None, "soon", "onnxruntime", "'soon'"),
        (None, "0.5", None, "wants a runtime"),
        (0.5, "0.5", "onnxruntime", "--ratio and --latency"),
        (0.5, None, "onnxruntime", "give --latency with it"),
        (None, None, None, "got none"),
    ],
)
def test_bad_options(ratio: float | None, latency: str | None, runtime: str | None, words: str) -> None:
    with pytest.raises(InputError) as caught:
        pruning.target(ratio, latency=latency, where={"runtime": runtime, "batch": 1, "threads": 1})
    assert words in str(caught.value)


def test_a_budget_that_counts_has_no_latency() -> None:
    from secateur.budget import choose
    from secateur.cut.analysis import analyse
    from zoo import ZOO

    with pytest.raises(InputError, match=r"secateur\.prune\(\) aims at one"):
        choose(analyse(*ZOO["plain"]()).costs, {}, target=Target(latency=0.5, runtime="onnxruntime"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ratio": 0.5}, "50% of the units of every group, lowest l2 first"),
        ({"ratio": 0.5, "criterion": "apoz"},
         "50% of the units of every group, most zeros behind the ReLU first (APoZ)"),
        ({"ratio": 0.5, "criterion": "random", "only": ["conv5_3", "fc6"]},
         "50% of the units of every group, at random, only in conv5_3, fc6"),
        ({"macs": 0.25, "criterion": "filter_similarity", "ignore": ["conv1"]},
         "down to 25% of the macs, units of every group, those first that are most alike (filter_similarity), "
         "but in conv1"),
        ({"macs": 0.25, "criterion": "reconstruction"},
         "down to 25% of the macs, units of the whole network, those first that the layers behind can best make good"),
    ],
)  # fmt: skip
def test_what_was_cut_is_named_rightly(settings: dict[str, object], words: str) -> None:
    assert str(PruneSettings(**settings)) == words


def test_a_recipe_is_read_where_its_runtime_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def gone(self: object, what: str = "", **_: object) -> None:
        raise InputError(f"{what} needs onnxruntime: pip install it.")

    monkeypatch.setattr(type(RUNTIMES["onnxruntime"]), "need", gone)
    recipe = load_recipe("half-the-time")  # `secateur recipes` lists it with the core alone
    with pytest.raises(InputError, match="A latency in onnxruntime needs onnxruntime"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    with pytest.raises(InputError, match="A latency in onnxruntime needs onnxruntime"):
        secateur.prune(net, torch.randn(1, 4), latency=0.5, runtime="onnxruntime")
