"""``ratio: sensitivity.json``: ratios by layer that a file holds, in recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import secateur
from secateur.budget.sensitivity import read_ratios
from secateur.core.errors import InputError
from secateur.models import create
from secateur.recipe import load_recipe, run
from secateur.recipe.schema import ratio_in_words

TEXT = """\
name: mine
model: {name: resnet_digits}
data: {name: digits, limit: 64}
steps:
- prune:
    ratio: FILE
"""

ROUNDS = """\
name: mine
model: {name: resnet_digits}
steps:
- iterate:
    rounds: 2
    steps:
    - prune:
        ratio: FILE
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of ratios in it."""
    monkeypatch.chdir(tmp_path)
    model = create("resnet_digits").eval()
    found = secateur.sensitivity(model, torch.randn(8, 1, 8, 8), ratios=(0.25, 0.5, 0.75))
    found.save("sensitivity.json", macs=0.6)
    found.save("curves.json")
    return tmp_path


def recipe(text: str, file: str) -> Path:
    Path("mine.yaml").write_text(text.replace("FILE", file))
    return Path("mine.yaml")


def test_the_ratios_of_the_file_are_taken_and_kept() -> None:
    loaded = load_recipe(recipe(TEXT, "sensitivity.json"))
    config = loaded.steps[0].config
    assert config.ratio == read_ratios("sensitivity.json")  # type: ignore[attr-defined]
    Path("sensitivity.json").unlink()
    Path("again.yaml").write_text(loaded.to_yaml())
    assert load_recipe("again.yaml") == loaded, "the run needs the file no more"


def test_a_run_cuts_by_them(here: Path) -> None:
    done = run(load_recipe(recipe(TEXT, "sensitivity.json")), here / "out")
    assert done.state.pruned is not None
    assert done.state.pruned.after.macs <= 0.606 * done.state.pruned.before.macs
    assert "by layer, of the units" in (here / "out/results.json").read_text()


def test_rounds_spread_them() -> None:
    rounds = [step.config.ratio for step in load_recipe(recipe(ROUNDS, "sensitivity.json")).steps]  # type: ignore[attr-defined]
    final = read_ratios("sensitivity.json")
    assert rounds[1] == final
    assert {name: 2 * share for name, share in rounds[0].items()} == pytest.approx(final)


@pytest.mark.parametrize("text", [TEXT, ROUNDS])
@pytest.mark.parametrize(("file", "words"), [
    ("sensitvity.json", "There is no file sensitvity.json. Did you mean sensitivity.json"),
    ("curves.json", "holds curves and no ratios"), ("broken.json", "is not JSON"), ("other.json", "no sensitivity"),
    ("much", "a file that `secateur sensitivity` wrote"),
])  # fmt: skip
def test_a_wrong_file_is_named_with_the_line(text: str, file: str, words: str) -> None:
    Path("broken.json").write_text("{")
    Path("other.json").write_text('{"ratios": {"conv1": 0.5}}')
    with pytest.raises(InputError) as caught:
        load_recipe(recipe(text, file))
    line = 1 + text[: text.index("ratio")].count("\n")
    assert f"mine.yaml, line {line}: steps.prune.ratio: " in str(caught.value)
    assert words in str(caught.value)


def test_many_ratios_are_said_in_short() -> None:
    assert ratio_in_words({f"layer{k}": k / 10 for k in range(9)}, "units") == "0% to 80%, by layer, of the units"
