"""What recipe files may say, and what is said about those that say something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secateur.core.errors import DataError, InputError, SecateurError, UnknownNameError
from secateur.recipe import builtin_recipes, load_recipe, override, shortcuts
from secateur.recipe.schema import Recipe
from secateur.recipe.steps import STEPS

TEXT = """\
name: mine
model:
  name: resnet_digits
data:
  name: digits
steps:
- adapt:
    epochs: 3
- prune:
    ratio: 0.1
- measure
"""


def read(tmp_path: Path, text: str, *sets: str, **options: Any) -> Recipe:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return load_recipe(file, edit=lambda tree: override(shortcuts(tree, **options), sets), name="mine.yaml")


def message(tmp_path: Path, text: str, *sets: str, **options: Any) -> str:
    with pytest.raises(SecateurError) as caught:
        read(tmp_path, text, *sets, **options)
    return str(caught.value)


def test_defaults_are_filled_in_and_the_resolved_recipe_reads_back_equal(tmp_path: Path) -> None:
    recipe = read(tmp_path, TEXT)
    assert [step.kind for step in recipe.steps] == ["adapt", "prune", "measure"]
    assert recipe.seed == 0
    assert recipe.data.validation == 0.05
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "again.yaml") == recipe


def test_every_builtin_recipe_is_valid_and_described() -> None:
    entries = builtin_recipes()
    assert "transfer-channel" in [entry.name for entry in entries]
    assert all(entry.description.endswith(".") for entry in entries)


def test_every_builtin_recipe_reads_back_equal_when_its_defaults_are_written_out(tmp_path: Path) -> None:
    for entry in builtin_recipes():
        recipe = load_recipe(entry.name)
        (tmp_path / "resolved.yaml").write_text(recipe.to_yaml())
        assert load_recipe(tmp_path / "resolved.yaml") == recipe


def test_transfer_channel_is_the_seed_text() -> None:
    recipe = load_recipe("transfer-channel")
    kinds = [step.kind for step in recipe.steps]
    assert kinds == ["adapt", "control", "prune", "finetune", "measure", "export", "report"]
    steps = {step.kind: step.config for step in recipe.steps}
    assert steps["prune"].ratio == 0.1  # type: ignore[attr-defined]
    assert steps["prune"].scope == "block"  # type: ignore[attr-defined]
    # The control is only honest if it is trained exactly as the pruned network is.
    control, finetune = steps["control"].model_dump(), steps["finetune"].model_dump()
    assert {key: finetune[key] for key in control} == control
    assert all(not value for key, value in finetune.items() if key not in control), "and with no teacher"


def test_overrides_reach_every_part(tmp_path: Path) -> None:
    sets = ("steps.prune.ratio=0.5", "seed=9", "model.head.hidden=32", "steps.measure.batches=[1, 8]")
    recipe = read(tmp_path, TEXT, *sets)
    data = recipe.to_dict()
    assert data["steps"][1]["prune"]["ratio"] == 0.5
    assert data["seed"] == 9
    assert data["model"]["head"]["hidden"] == 32
    assert data["steps"][2]["measure"]["batches"] == [1, 8]


def test_overrides_name_one_of_several_steps_by_position(tmp_path: Path) -> None:
    text = TEXT + "- prune: {ratio: 0.2}\n"
    both = read(tmp_path, text, "steps.prune.ratio=0.5").to_dict()["steps"]
    assert [both[1]["prune"]["ratio"], both[3]["prune"]["ratio"]] == [0.5, 0.5]
    one = read(tmp_path, text, "steps.3.prune.ratio=0.5").to_dict()["steps"]
    assert [one[1]["prune"]["ratio"], one[3]["prune"]["ratio"]] == [0.1, 0.5]


def test_shortcuts(tmp_path: Path) -> None:
    text = TEXT.replace("name: resnet_digits", "name: resnet_digits\n  weights: old.safetensors")
    text = text.replace("ratio: 0.1", "macs: 0.5").replace("name: digits", "name: digits\n  mean: [0.3]")
    data = read(tmp_path, text, model="resnet20", data="x", ratio=0.3, epochs=7, seed=5).to_dict()
    assert data["model"]["name"] == "resnet20"
    assert data["model"]["weights"] is None, "the file's weights belong to the file's network"
    assert (data["data"]["name"], data["data"]["mean"]) == ("x", None)
    assert data["steps"][0]["adapt"]["epochs"] == 7
    assert (data["steps"][1]["prune"]["ratio"], data["steps"][1]["prune"]["macs"]) == (0.3, None)
    assert data["seed"] == 5


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epochs: 3", "epoch: 3", ("mine.yaml, line 8: steps.adapt.epoch", "Did you mean epochs")),
        ("epochs: 3", "epochs: many", ("line 8", "integer", "'many'")),
        ("epochs: 3", "schedule: onecicle", ("line 8", "onecycle, cosine, step", "Did you mean onecycle?")),
        ("ratio: 0.1", "ratio: 1.0", ("line 10: steps.prune.ratio", "less than 1", "got 1.0")),
        ("ratio: 0.1", "ratio: -0.1", ("line 10", "greater than or equal to 0")),
        ("ratio: 0.1", "ratio: .nan", ("line 10", "finite")),
        ("ratio: 0.1", "ratio: {conv1: 1.5}", ("line 10: steps.prune.ratio.conv1 should be less than 1; got 1.5.",)),
        ("ratio: 0.1", "ratio: {}", ("line 10: steps.prune.ratio should not be empty; got {}.",)),
        ("ratio: 0.1", "ratio: [1]", ("steps.prune.ratio should be a valid number, or should be a mapping; got [1].",)),
        ("ratio: 0.1", "ratio: {conv1: 0.5}\n    scope: global", ("A ratio per layer is local",)),
        ("ratio: 0.1", "ratio: 0.1\n    macs: 0.5", ("line 9", "one of ratio, std, params, macs")),
        (
            "ratio: 0.1",
            "criterion: l2",
            ("line 9", "one of ratio, std, params, macs, energy, size, latency, latency_ms; got none"),
        ),
        ("ratio: 0.1", "ratio: 0.1\n    criterion: l3", ("line 11", "no criterion named 'l3'", "'l2'")),
        ("- measure", "- mesure", ("line 11", "no step named 'mesure'", "'measure'")),
        ("- measure", "- {measure: , prune: }", ("line 11", "one name with its settings")),
        (
            "- prune:",
            "- finetune:\n    epochs: 1\n- prune:",
            ("line 9", "finetune needs a prune, remove_experts", "step before it"),
        ),
        ("data:", "dta:", ("line 4: dta is not a setting", "Did you mean data")),
        ("name: mine", "name: ../mine", ("line 1: name", "letters, digits")),
        (
            "name: resnet_digits",
            "nam: resnet_digits",
            ("model.name is missing", "model.nam is not a setting"),
        ),
        ("name: mine", "name: mine\nname: yours", ("line 2", "'name' is given twice")),
        ("ratio: 0.1", "ratio: [0.1", ("line", "cannot be read")),
        ("ratio: 0.1", "ratio: &a 0.1\n- prune:\n    ratio: *a", ("line 12", "anchors")),
        ("ratio: 0.1", "ratio: !!python/object:os.system 1", ("line 10", "constructor")),
    ],
)
def test_errors_name_the_line_and_what_is_allowed(tmp_path: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    assert old in TEXT
    text = message(tmp_path, TEXT.replace(old, new, 1))
    for word in words:
        assert word in text


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = message(tmp_path, TEXT.replace("epochs", "epoch").replace("ratio", "ration"))
    assert "adapt.epoch" in text
    assert "prune.ration" in text


@pytest.mark.parametrize("text", ["", "- 1\n", "just words", "[" * 600 + "]" * 600, "\0"])
def test_what_is_no_recipe_is_an_input_error(tmp_path: Path, text: str) -> None:
    assert "mine.yaml" in message(tmp_path, text)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("steps.prune.ratio", ("key=value", "steps.prune.ratio")),
        ("steps.prun.ratio=0.3", ("no step of this recipe named 'prun'", "'prune'")),
        ("steps.prune.ration=0.3", ("--set steps.prune.ration is not a setting", "ratio")),
        ("steps.7.prune.ratio=0.3", ("has 3 steps",)),
        ("steps.0.prune.ratio=0.3", ("step 0 is adapt",)),
        ("steps.prune=0.3", ("which setting of the step",)),
        ("modle.name=x", ("--set modle.name", "Did you mean model")),
        ("model.head.hiden=3", ("--set model.head.hiden is not a setting", "hidden")),
        ("name.first=x", ("name is a single value",)),
        ("seed=[", ("not a YAML value",)),
        ("seed=-1", ("--set seed should be greater",)),
        ("steps.adapt.epochs=many", ("--set steps.adapt.epochs should be a valid integer", "or should be auto; got")),
    ],
)
def test_errors_in_overrides_name_the_option(tmp_path: Path, assignment: str, words: tuple[str, ...]) -> None:
    text = message(tmp_path, TEXT, assignment)
    for word in words:
        assert word in text


def test_an_option_that_speaks_to_several_steps_is_complained_about_once(tmp_path: Path) -> None:
    text = message(tmp_path, TEXT + "- control:\n", epochs=-2)
    assert text == "--epochs should be greater than or equal to 0, or should be auto; got -2."


def test_a_shortcut_without_its_step_is_an_error(tmp_path: Path) -> None:
    text = TEXT.replace("- prune:\n    ratio: 0.1\n", "")
    said = message(tmp_path, text, ratio=0.3)
    assert said.startswith("--ratio has nothing to set: the recipe has no ")
    assert " prune " in said


def test_unknown_recipe_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="transfer-channel"):
        load_recipe("transfer-chanel")


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no recipe file .*nothing\.yaml"):
        load_recipe(tmp_path / "nothing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a text file"):
        load_recipe(tmp_path / "binary.yaml")
    (tmp_path / "large.yaml").write_text("#" * 2_000_000)
    with pytest.raises(DataError, match="too large"):
        load_recipe(tmp_path / "large.yaml")


def test_a_new_kind_of_step_needs_no_edit_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur.recipe.steps import Context, State, Step, StepResult
    from secateur.recipe.steps.shipping import ReportSettings

    class Nothing(Step[ReportSettings]):
        summary = "do nothing"
        config = ReportSettings

        def run(self, context: Context, state: State, config: ReportSettings) -> tuple[State, StepResult]:
            return state, StepResult()

    monkeypatch.setitem(STEPS._items, "nothing", Nothing())
    assert read(tmp_path, TEXT + "- nothing\n").steps[-1].kind == "nothing"


def test_input_error_is_what_bad_settings_raise(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read(tmp_path, TEXT, "seed=x")
