"""Sweeps: one recipe at several points from one dense network."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("jinja2")

from secateur.cli.main import main
from secateur.core.errors import InputError
from secateur.recipe.comparison import Comparison, at_ratios

TEXT = """\
name: mine
model: {name: vgg_digits}
data: {name: digits, limit: 64}
steps:
- adapt: {epochs: 1}
- iterate:
    rounds: 2
    steps:
    - prune: {macs: 0.5}
- report
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text(TEXT)
    return tmp_path / "mine.yaml"


def test_points_become_recipes(recipe: Path) -> None:
    found = at_ratios(recipe, [0.2, 0.6], sets=["seed=3"])
    assert list(found) == ["mine-ratio-0.2", "mine-ratio-0.6"]
    for value, made in zip((0.2, 0.6), found.values(), strict=True):
        shares = [s.config.ratio for s in made.steps if s.kind == "prune"]  # type: ignore[attr-defined]
        assert shares == pytest.approx([value / 2, value])
        assert made.seed == 3
        assert made.steps[1].config.macs is None  # type: ignore[attr-defined]
    kept = at_ratios(recipe, [0.3], key="macs")["mine-macs-0.3"]
    assert [s.config.macs for s in kept.steps if s.kind == "prune"] == pytest.approx([0.65, 0.3])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "no points"),
        ([0.2, 0.2], "0.2 is given twice"),
        ([1.0], r"removed, in \[0, 1\); got 1.0"),
        ([-0.1], "got -0.1"),
    ],
)
def test_points_that_cannot_be(recipe: Path, values: list[float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        at_ratios(recipe, values)


def test_a_recipe_that_removes_nothing_cannot_be_swept(tmp_path: Path) -> None:
    (tmp_path / "dull.yaml").write_text("name: dull\nmodel: {name: vgg_digits}\nsteps: [adapt]\n")
    with pytest.raises(InputError, match=r"--ratio has nothing to set: the recipe has no .*prune"):
        at_ratios(tmp_path / "dull.yaml", [0.5])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one of --ratios, --params and --macs, like --ratios 0.2,0.4; got none"),
        (["--ratios", "0.1", "--macs", "0.5"], "got --ratios and --macs"),
        (["--ratios", "0.1,much"], "like 0.2,0.4; got 'much'"),
        (["--ratios", ","], "no points"),
        (["--ratios", "0.1", "--jobs", "0"], "at least 1; got 0"),
    ],
)
def test_the_command_line_says_what_it_wants(
    recipe: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", str(recipe), *arguments, "--out", str(recipe.parent / "out")])
    assert stopped.value.code == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (recipe.parent / "out").exists()


def test_a_sweep_ends_in_a_table(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = recipe.parent / "out"
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", str(recipe), "--macs", "70%,0.4", "--out", str(out), "--quiet"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "1 · mine-macs-0.7" in said
    assert "Top-1" in said
    dense, *points = Comparison.read(out).rows
    assert dense.macs is not None
    assert [row.macs for row in points] == pytest.approx([0.7 * dense.macs, 0.4 * dense.macs], rel=0.01)
    assert (out / "comparison.html").is_file()
