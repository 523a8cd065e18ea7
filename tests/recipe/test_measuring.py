"""The step `measure`: every runtime, asked for before the run begins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.cli.commands.measuring import choose
from secateur.core.errors import InputError
from secateur.cost import energy
from secateur.recipe import Recipe, run
from secateur.recipe.load import load_recipe
from secateur.recipe.steps.measuring import estimated
from secateur.runtimes import RUNTIMES, Runtime

TEXT = """\
name: mine
model: {name: vgg_digits}
data: {name: digits, limit: 64}
steps:
- measure: {runtimes: [RUNTIMES], processes: 0, rounds: 3, budget_s: 0.2, batches: [1, 2], images: 20}
"""


def recipe(tmp_path: Path, runtimes: str) -> Recipe:
    file = tmp_path / "mine.yaml"
    file.write_text(TEXT.replace("RUNTIMES", runtimes))
    return load_recipe(file)


class Imaginary(Runtime):
    name = "imaginary"
    packages = ("no_such_package",)
    extra = "dream"


@pytest.fixture
def with_imaginary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES._items, "imaginary", Imaginary())


@pytest.mark.usefixtures("with_imaginary")
def test_a_missing_runtime_stops_the_run_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"runtimes: imaginary needs no_such_package: pip install .*secateur\[dream\]"):
        run(recipe(tmp_path, "imaginary"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("with_imaginary")
def test_the_command_takes_what_is_installed_and_says_what_is_not() -> None:
    found = choose(())
    assert found[0] == "pytorch"
    assert "imaginary" not in found
    assert "compiled" not in found
    assert choose(("compiled", "pytorch", "compiled")) == ("pytorch", "compiled")
    with pytest.raises(InputError, match=r"The runtime .imaginary. needs no_such_package: pip install"):
        choose(("imaginary",))


def test_an_unknown_runtime_is_a_mistake_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mine.yaml.*line 5.*runtimes.*no runtime named 'onnxruntme'.*'onnxruntime'"):
        recipe(tmp_path, "onnxruntme")


def test_every_network_is_measured_and_scored_where_it_runs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = run(recipe(tmp_path, "pytorch, onnxruntime"), tmp_path / "run")
    lines = done.results["deployed"]
    assert [(line["network"], line["runtime"], line["precision"]) for line in lines] == [
        ("dense", "pytorch", "float32"),
        ("dense", "onnxruntime", "float32"),
    ]
    model: nn.Module = done.state.models["dense"]
    params = sum(p.numel() for p in model.parameters())
    for line in lines:
        assert line["params"] == params
        assert line["samples"] == 20
        assert line["ms"]["median"] > 0
    assert lines[0]["quality"]["top1"] == lines[1]["quality"]["top1"]
    assert lines[0]["quality"]["loss"] == pytest.approx(lines[1]["quality"]["loss"], rel=1e-4)
    assert {(t["runtime"], t["batch"]) for t in done.results["latency"]} >= {("onnxruntime", 1), ("onnxruntime", 2)}
    work = tmp_path / "run" / "steps" / "01-measure"
    assert [file.name for file in work.iterdir()] == ["result.json"]  # the timed files are gone


def test_energy_is_the_models_estimate_and_nothing_where_the_network_cannot_be_traced() -> None:
    class ByValue(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.one(x) if x.sum() > 0 else self.one(-x)

    net, x = nn.Linear(30, 20, bias=False), torch.ones(1, 30)
    whole = estimated(net, x)
    assert whole == energy(net, x).estimated_mj
    with torch.no_grad():
        net.weight[5:] = 0
    assert 0 < (estimated(net, x) or 0) < (whole or 0), "zeros are not multiplied"
    assert estimated(ByValue(), torch.ones(1, 3)) is None
