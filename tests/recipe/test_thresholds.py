"""Thresholds of network trimming in runs: what is said on the way, and how runs go on after a cut of nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from secateur.cli.commands.running import words_of
from secateur.core.errors import SecateurError
from secateur.recipe import Event, Recipe, load_recipe, resume, run
from secateur.recipe.comparison import at_budget

RUN = """\
name: mine
model: {name: vgg_digits}
data: {name: digits, limit: 64}
steps:
- prune: {criterion: apoz, std: 1, only: [features.17]}
- prune: {criterion: apoz, std: 50}
- finetune: {epochs: 1}
- prune: {criterion: apoz, std: -3, min_units: 4}
"""


def read(folder: Path, text: str = RUN) -> Recipe:
    (folder / "mine.yaml").write_text(text)
    return load_recipe(folder / "mine.yaml")


def widths(model: torch.nn.Module) -> list[int]:
    return [len(p) for p in model.parameters() if p.ndim == 4]


def test_a_cut_of_nothing_and_a_layer_that_is_held_are_said_while_the_run_goes_on(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    events: list[Event] = []
    done = run(read(tmp_path), tmp_path / "out", on_event=events.append)
    words = {e.step: str(e.summary.get("threshold", "")) for e in events if e.what == "end"}
    first, second, _, third = words.values()
    lines = [words_of(e.kind, e.summary) for e in events if e.what == "end"]
    assert lines[1].endswith("; nothing was removed: no unit is below the threshold")
    assert not first
    assert second.startswith("nothing was removed")
    assert "features.17" in third
    assert "min_units=4" in third
    assert widths(done.state.models["pruned"]) == [4] * 6
    assert any("nothing was removed" in note for note in done.results["notes"])


@pytest.mark.parametrize("step", ["02-prune", "03-finetune", "04-prune"])
def test_a_run_goes_on_after_a_cut_of_nothing(tmp_path: Path, step: str) -> None:
    class Stop(BaseException):
        pass

    def stop(event: Event) -> None:
        if event.what == "begin" and event.step == step:
            raise Stop

    recipe = read(tmp_path)
    expected = run(recipe, tmp_path / "whole")
    with pytest.raises(Stop):
        run(recipe, tmp_path / "out", on_event=stop)
    done = resume(tmp_path / "out")
    pair = [one.state.models["pruned"].state_dict() for one in (expected, done)]
    assert all(torch.equal(pair[0][name], pair[1][name]) for name in pair[0])
    assert [p.keep for p in done.state.cut.plan.parts] == [p.keep for p in expected.state.cut.plan.parts]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("std: 1, ratio: 0.5", "give one of ratio, std"),
        ("std: much", "std"),
        ("std: .inf", "std"),
        ("std: 1, scope: global", "std is a threshold of every group by itself"),
        ("ratio: 0.1, ratio_of: params", "scope='block'"),
        ("ratio: 0.1, ratio_of: parms, scope: block", "Did you mean params"),
    ],
)
def test_bad_settings_are_told_with_their_line(tmp_path: Path, settings: str, said: str) -> None:
    with pytest.raises(SecateurError, match=said) as raised:
        read(tmp_path, RUN.replace("std: 50", settings))
    assert "mine.yaml, line 6" in str(raised.value)


def test_a_budget_takes_the_place_of_a_share_of_the_parameters() -> None:
    (recipe,) = at_budget(["transfer-channel"], macs=0.5).values()
    (prune,) = (s.config for s in recipe.steps if s.kind == "prune")
    assert (prune.macs, prune.ratio, prune.ratio_of) == (0.5, None, "units")  # type: ignore[attr-defined]
    (recipe,) = at_budget(["transfer-channel"]).values()
    (prune,) = (s.config for s in recipe.steps if s.kind == "prune")
    assert (prune.ratio, prune.ratio_of) == (0.1, "params")  # type: ignore[attr-defined]
