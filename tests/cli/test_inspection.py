"""`secateur inspect --html` from the command line: the page, the command it offers, and what is refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

pytest.importorskip("jinja2")

import secateur
from command_line import call
from secateur.models import create
from secateur.report.words import count

SHORT = ("--data", "digits", "--images", 24, "--ratios", "0.5", "--error")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def points(page: str, scope: int = 0) -> list[dict[str, Any]]:
    text = Path(page).read_text().partition('id="planned">')[2].partition("</script>")[0]
    found: list[dict[str, Any]] = json.loads(text)[scope]["points"]
    return found


def test_the_command_on_the_page_makes_the_cut(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "inspect", "lenet5", "--html", "page.html", "--ignore", "fc1")
    assert code == 0, err
    assert "Saved: page.html" in out
    assert "weights are random" in out
    point = points("page.html")[8]
    program, *words = shlex.split(point["command"])
    assert program == "secateur"
    assert "--ignore" in words
    code, _, err = call(capsys, *words)
    assert code == 0, err
    params = sum(p.numel() for p in secateur.load("small", create("lenet5")).model.parameters())
    assert point["figures"]["params"].split(" (")[0] == count(params)


def test_with_weights_there_are_plans_across_layers_and_curves(capsys: pytest.CaptureFixture[str]) -> None:
    save_file(create("resnet_digits").state_dict(), "w.safetensors")
    how = ("resnet_digits", "--weights", "w.safetensors")
    assert call(capsys, "sensitivity", *how, *SHORT, "--out", "s.json")[0] == 0
    code, out, err = call(capsys, "inspect", *how, "--html", "page.html", "--sensitivity", "s.json")
    assert code == 0, err
    assert "random" not in out
    assert "--scope global" in points("page.html", 1)[3]["command"]
    assert "--weights w.safetensors" in points("page.html")[3]["command"]
    assert 'data-figure="curves"' in Path("page.html").read_text()
    code, _, err = call(capsys, "inspect", "lenet5", "--html", "other.html", "--sensitivity", "s.json")
    assert code == 2
    assert "curves of another network" in err
    assert not Path("other.html").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--html", "there.html"], "exists already"),
        (["--html", "page.pdf"], ".html file"),
        (["--html", "nowhere/page.html"], "no folder"),
        (["--runtime", "onnxruntime", "--batch", "2"], "Give --html FILE.html with --runtime and --batch"),
        (["--html", "page.html", "--sensitivity", "curvs.json"], "curves.json"),
        (["--html", "page.html", "--sensitivity", "there.html"], "there.html"),
        (["--html", "page.html", "--criterion", "l22"], "l2"),
        (["--html", "page.html", "--round-to", "many"], "round_to"),
    ],
)
def test_bad_options_are_answered_in_one_sentence(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.html").write_text("kept")
    Path("curves.json").write_text("{}")
    code, _, err = call(capsys, "inspect", "lenet5", *options)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert Path("there.html").read_text() == "kept"
    assert sorted(path.name for path in Path().iterdir()) == ["curves.json", "there.html"]
