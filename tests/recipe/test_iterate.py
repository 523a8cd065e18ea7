"""Iteration: schedules against numbers by hand, how rounds are written out, what is said about mistakes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import secateur
from secateur.core.errors import SecateurError
from secateur.models import create
from secateur.recipe import Event, load_recipe, override, reopen, resume, run, shortcuts
from secateur.recipe.sameness import differences, numbers
from secateur.recipe.schedule import SCHEDULES, reached
from secateur.recipe.schema import Recipe

TEXT = """\
name: mine
model: {name: resnet_digits}
steps:
- adapt: {epochs: 1}
- iterate:
    rounds: 4
    schedule: linear
    steps:
    - prune:
        ratio: 0.8
        criterion: [{until: 2, name: l1}, {name: l2}]
    - finetune: {epochs: 1}
- measure
"""


def read(tmp_path: Path, text: str, *sets: str, **options: Any) -> Recipe:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return load_recipe(file, edit=lambda tree: override(shortcuts(tree, **options), sets), name="mine.yaml")


def settings(recipe: Recipe, kind: str, *keys: str) -> list[Any]:
    rows = [tuple(getattr(s.config, key) for key in keys) for s in recipe.steps if s.kind == kind]
    return [row[0] for row in rows] if len(keys) == 1 else rows


# By hand, for a final share of 0.75 in three rounds (what is left at the end is 1/4 = 0.63³).
@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("linear", [0.25, 0.5, 0.75]),
        ("geometric", [1 - 0.6299605, 1 - 0.3968503, 0.75]),
        ("cubic", [0.75 * 19 / 27, 0.75 * 26 / 27, 0.75]),
    ],
)
def test_schedules(schedule: str, shares: list[float]) -> None:
    assert [reached(schedule, 0.75, i, 3) for i in (1, 2, 3)] == pytest.approx(shares, abs=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("final", [0.0, 0.1, 0.9, 0.999])
def test_every_schedule_rises_to_exactly_what_was_asked(schedule: str, final: float) -> None:
    shares = [0.0, *(reached(schedule, final, i, 7) for i in range(1, 8))]
    assert all(a <= b for a, b in pairwise(shares))
    assert shares[-1] == final
    assert final == 0 or shares[1] > 0
    assert reached(schedule, final, 1, 1) == final


def test_geometric_takes_an_equal_share_of_what_is_left() -> None:
    left = [1.0, *(1 - reached("geometric", 0.9, i, 5) for i in range(1, 6))]
    assert {round(b / a, 12) for a, b in pairwise(left)} == {round(0.1**0.2, 12)}


def test_rounds_are_written_out_as_steps(tmp_path: Path) -> None:
    recipe = read(tmp_path, TEXT)
    kinds = [step.kind for step in recipe.steps]
    assert kinds == ["adapt", *["prune", "finetune"] * 4, "measure"]
    assert settings(recipe, "prune", "ratio") == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert settings(recipe, "prune", "criterion", "of") == [("l1", "dense")] * 2 + [("l2", "dense")] * 2
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "again.yaml") == recipe, "what a run keeps reads back equal"


def test_shares_that_are_kept_fall_to_what_was_asked(tmp_path: Path) -> None:
    recipe = read(tmp_path, TEXT.replace("ratio: 0.8", "macs: 0.2").replace("linear", "geometric"))
    assert settings(recipe, "prune", "macs") == pytest.approx([0.2**0.25, 0.2**0.5, 0.2**0.75, 0.2])
    assert settings(recipe, "prune", "macs")[-1] == 0.2
    assert settings(recipe, "prune", "ratio") == [None] * 4


def test_options_reach_inside(tmp_path: Path) -> None:
    recipe = read(tmp_path, TEXT, "steps.iterate.rounds=3", "steps.finetune.lr=0.3", ratio=0.6, epochs=2)
    assert settings(recipe, "prune", "ratio") == pytest.approx([0.2, 0.4, 0.6])
    assert settings(recipe, "finetune", "lr", "epochs") == [(0.3, 2)] * 3
    recipe = read(tmp_path, TEXT.replace("ratio", "params"), ratio=0.5)
    assert settings(recipe, "prune", "ratio", "params")[-1] == (0.5, None)
    recipe = read(tmp_path, TEXT, "steps.1.iterate.steps.0.prune.scope=global")
    assert settings(recipe, "prune", "scope") == ["global"] * 4


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rounds: 4", "rounds: 0", ("mine.yaml, line 6: steps.iterate.rounds", "greater than or equal to 1", "got 0")),
        ("rounds: 4", "round: 4", ("line 6", "steps.iterate.round is not a setting", "Did you mean rounds")),
        ("    rounds: 4\n", "", ("line 5", "one of rounds (how often) and over (layers or blocks); got none")),
        ("rounds: 4", "rounds: 4\n    over: layers", ("line 5", "got both")),
        ("rounds: 4", "over: layer", ("line 6", "layers, blocks", "'layer'")),
        ("rounds: 4", "rounds: 4\n    order: reverse", ("line 5", "order: reverse wants over")),
        ("schedule: linear", "schedule: cubick", ("line 7", "linear, geometric, cubic", "Did you mean cubic?")),
        ("ratio: 0.8", "ratio: 1.8", ("line 10: steps.prune.ratio", "less than 1", "got 1.8")),
        ("ratio: 0.8", "macs: 40000", ("line 10", "steps.prune.macs is a share", "got 40000")),
        ("ratio: 0.8", "ration: 0.8", ("line 10", "Did you mean ratio")),
        ("name: l1", "name: l9", ("line 11", "no criterion named 'l9'")),
        ("until: 2", "until: 4", ("line 11", "above 0 and below 4", "got 4")),
        ("until: 2", "until: two", ("line 11", "got 'two'")),
        ("{name: l2}", "{name: l2, until: 3}", ("line 11", "has no until", "got 3")),
        ("{until: 2, name: l1}", "l1", ("line 11", "{until: 3, name: l2}", "got 'l1'")),
        ("[{until: 2, name: l1}, {name: l2}]", "[]", ("line 11", "at least one criterion")),
        ("- finetune: {", "- finetun: {", ("line 12", "no step inside iterate named 'finetun'", "'finetune'")),
        ("- finetune: {epochs: 1}", "- iterate: {rounds: 2, steps: [measure]}", ("line 12", "inside iterate")),
        ("- finetune: {epochs: 1}", "- 7", ("line 12",)),
        ("    - prune:", "    - finetune\n    - prune:", ("line 9: finetune needs a prune",)),
        ("- iterate:", "- itrate:", ("line 5", "no step named 'itrate'", "'iterate'")),
    ],
)
def test_errors_name_the_line_and_what_is_allowed(tmp_path: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    assert old in TEXT
    with pytest.raises(SecateurError) as caught:
        read(tmp_path, TEXT.replace(old, new, 1))
    for word in words:
        assert word in str(caught.value)


def test_a_mistake_inside_is_told_once_not_once_a_round(tmp_path: Path) -> None:
    with pytest.raises(SecateurError) as caught:
        read(tmp_path, TEXT.replace("epochs: 1}\n- measure", "epochs: -1}\n- measure"))
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("steps.1.iterate.steps.5.prune.ratio=0.1", "2 steps, numbered from 0"),
        ("steps.1.iterate.steps.0.finetune.lr=0.1", "step 0 is prune"),
        ("steps.sparsifyy.ratio=0.1", "no step of this recipe named 'sparsifyy'"),
    ],
)
def test_options_that_speak_to_nothing(tmp_path: Path, setting: str, words: str) -> None:
    with pytest.raises(SecateurError, match=words):
        read(tmp_path, TEXT, setting)


# ------------------------------------------------------------------------------------------- over layers and blocks


def over(text: str) -> Recipe:
    from secateur.core.yamltree import parse
    from secateur.recipe.unroll import unroll

    tree = parse(f"name: a\nmodel: {{name: resnet_digits}}\nsteps:\n- iterate: {{{text}}}\n", "a.yaml")
    recipe = load_recipe("transfer-channel", edit=lambda _: tree)
    torch.manual_seed(0)
    return unroll(recipe, create("resnet_digits"), torch.randn(2, 1, 8, 8))


def test_over_layers_prunes_one_group_a_round() -> None:
    recipe = over(
        "over: layers, steps: [prune: {ratio: 0.25, criterion: [{until: 1, name: l1}, {name: l2}]}, finetune]"
    )
    layers = settings(recipe, "prune", "groups")
    assert [step.kind for step in recipe.steps] == ["prune", "finetune"] * len(layers)
    assert len(layers) == len(set(layers)) > 3
    assert settings(recipe, "prune", "criterion") == ["l1"] + ["l2"] * (len(layers) - 1)
    assert set(settings(recipe, "prune", "ratio")) == {0.25}
    reverse = over("over: layers, order: reverse, steps: [prune: {ratio: 0.25}]")
    assert settings(reverse, "prune", "groups") == layers[::-1]


def test_over_layers_follows_a_ratio_per_layer() -> None:
    recipe = over('over: layers, steps: [prune: {ratio: {"*.conv1": 0.25, layer1.0.conv1: 0.5}}]')
    found = {
        only[0]: settings(recipe, "prune", "ratio")[k] for k, only in enumerate(settings(recipe, "prune", "groups"))
    }
    assert found.pop("layer1.0.conv1") == 0.5
    assert set(found.values()) == {0.25}
    assert all(name.endswith(".conv1") for name in found)


def test_rounds_reach_a_ratio_per_layer() -> None:
    inner = "rounds: 2, schedule: linear, steps: [prune: {ratio: {conv1: 0.5, layer3.0.conv1: 0.25}}]"
    assert settings(over(inner), "prune", "ratio") == [
        {"conv1": 0.25, "layer3.0.conv1": 0.125},
        {"conv1": 0.5, "layer3.0.conv1": 0.25},
    ]


def test_layers_that_take_the_most_energy_come_first() -> None:
    from secateur.cost.energy import energy

    model, images = create("resnet_digits"), torch.randn(2, 1, 8, 8)
    takes = {layer.name: layer.total for layer in energy(model, images).layers}
    recipe = over("over: layers, order: energy, steps: [prune: {ratio: 0.25}]")
    plain = over("over: layers, steps: [prune: {ratio: 0.25}]")
    names = [only[0] for only in settings(recipe, "prune", "groups")]
    assert sorted(names) == sorted(only[0] for only in settings(plain, "prune", "groups"))
    alone = [name for name in names if name.endswith("conv1") and name != "conv1"]  # one producer each
    assert [takes[name] for name in alone] == sorted((takes[name] for name in alone), reverse=True)
    assert names[0] == "conv1", "the residual stream is made by most layers"


def test_over_blocks_takes_the_layers_of_a_block_together() -> None:
    recipe = over("over: blocks, steps: [prune: {ratio: 0.25, scope: block}, finetune: {epochs: 1}]")
    model = create("resnet_digits")
    pruned = secateur.prune(model, torch.randn(2, 1, 8, 8), ratio=0.25, scope="block")
    changed = [cut.group for cut in pruned.groups if cut.kept < len(cut.group)]
    blocks = [tuple(g.name for g in changed if g.block == block) for block in dict.fromkeys(g.block for g in changed)]
    assert settings(recipe, "prune", "groups") == blocks


@pytest.mark.parametrize("target", ["macs: 0.5", "params: 0.4"])
def test_over_layers_meets_a_target_when_all_rounds_are_done(target: str) -> None:
    recipe = over(f"over: layers, steps: [prune: {{{target}}}]")
    torch.manual_seed(0)
    model, images = create("resnet_digits"), torch.randn(2, 1, 8, 8)
    pruned = None
    for step in recipe.steps:
        options = step.config.model_dump(include={"criterion", "ratio", "groups", "scope", "of"})
        pruned = secateur.prune(pruned.model if pruned else model, images, **options)
    assert pruned is not None
    name, share = target.split(": ")
    dense = secateur.prune(model, images, ratio=0.0).before
    assert getattr(pruned.after, name) == pytest.approx(float(share) * getattr(dense, name), rel=0.01)


def test_over_layers_without_a_prune_step_or_anything_to_prune() -> None:
    with pytest.raises(SecateurError, match="wants a prune step inside"):
        over("over: layers, steps: [measure]")
    with pytest.raises(SecateurError, match="nothing to remove"):
        over("over: layers, steps: [prune: {ratio: 0.0}]")


# --------------------------------------------------------------------------------------------------------- runs

RUN = """\
name: mine
model: {name: vgg_digits}
data: {name: digits, limit: 64}
steps:
- adapt: {epochs: 1}
- iterate:
    rounds: 3
    steps:
    - prune: {ratio: 0.5, criterion: [{until: 1, name: taylor}, {name: l1}]}
    - finetune: {epochs: 1}
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("iterate")
    recipe = read(folder, RUN)
    run(recipe, folder / "out")
    return recipe, folder / "out"


def test_rounds_end_where_they_should_and_each_cuts_what_the_last_one_trained(undisturbed: tuple[Recipe, Path]) -> None:
    done = reopen(undisturbed[1])
    plan = done.state.pruned.plan
    assert [part.provenance["criterion"] for part in plan.parts] == ["taylor", "l1", "l1"]
    widths = [len(p) for p in done.state.models["pruned"].parameters() if p.ndim == 4]
    assert widths == [8, 8, 16, 16, 32, 32]
    # The second cut, on the weights that the first fine-tuning left, by hand for the first layer.
    steps = undisturbed[1] / "steps"
    first, between = (load_file(steps / name / "model.safetensors") for name in ("01-adapt", "03-finetune"))
    kept = plan.parts[0].keep["features.0.weight"][0]
    assert between["features.0.weight"].shape[0] == len(kept) == first["features.0.weight"].shape[0] - 3
    scores = [
        sum(float(between[f"features.{name}"][c].abs().sum()) for name in ("0.weight", "0.bias", "1.weight", "1.bias"))
        + float(between["features.3.weight"][:, c].abs().sum())
        for c in range(len(kept))
    ]
    gone = sorted(range(len(scores)), key=lambda c: scores[c])[:2]  # 5.33 of 16 in all
    assert plan.parts[1].keep["features.0.weight"][0] == tuple(c for c in range(len(scores)) if c not in gone)


@pytest.mark.parametrize("step", ["04-prune", "05-finetune", "06-prune"])
def test_a_run_that_stops_between_rounds_goes_on_with_the_same_numbers(
    undisturbed: tuple[Recipe, Path], tmp_path: Path, step: str
) -> None:
    recipe, expected = undisturbed

    class Stop(BaseException):
        pass

    def stop(event: Event) -> None:
        if event.what == "begin" and event.step == step:
            raise Stop

    with pytest.raises(Stop):
        run(recipe, tmp_path / "out", on_event=stop)
    events: list[Event] = []
    resume(tmp_path / "out", on_event=events.append)
    assert next(e.step for e in events if e.what == "begin") == step
    assert differences(numbers(tmp_path / "out"), numbers(expected)) == []


def test_the_folder_of_a_run_over_layers_names_them(tmp_path: Path) -> None:
    text = RUN.replace("rounds: 3", "over: layers").replace("{until: 1, name: taylor}, {name: l1}", "{name: l1}")
    made = read(tmp_path, text.replace("    - finetune: {epochs: 1}\n", ""))
    assert [step.kind for step in made.steps] == ["adapt", "iterate"]
    run(made, tmp_path / "out")
    written = load_recipe(tmp_path / "out" / "recipe.yaml")
    assert settings(written, "prune", "groups") == [(f"features.{i}",) for i in (0, 3, 7, 10, 14, 17)]
    assert settings(written, "prune", "criterion") == ["l1"] * 6
    events: list[Event] = []
    resume(tmp_path / "out", on_event=events.append)
    assert {event.what for event in events} == {"kept"}
