"""`secateur sensitivity`: the table, the file for `prune` and recipes, the page, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import secateur
from command_line import call
from secateur.models import create


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


SHORT = ("--data", "digits", "--images", 24, "--ratios", "0.25,50%")


def test_the_table_the_file_and_the_page_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "sensitivity", "resnet_digits", *SHORT, "--macs", "80%", "--out", "s.json",
                          "--page", "s.html", "--criterion", "l1")  # fmt: skip
    assert code == 0, err
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line}
    saved = secateur.Sensitivity.read("s.json")
    assert lines["Group"] == ["Group", "Units", "−25%", "−50%", "Ratio"]
    for curve in saved.curves:
        assert lines[curve.name][1:4] == [str(curve.units), *(f"{value:.1f}" for value in curve.values)]
    assert saved.metric.name == "top1"
    assert saved.samples == 24
    assert saved.target == {"macs": 0.8}
    assert "80% of the MACs" in out
    assert "secateur prune … --criterion l1 --ratio s.json" in out
    page = Path("s.html").read_text()
    assert "Sensitivity of resnet_digits" in page
    assert all(f">{curve.name}<" in page for curve in saved.curves)

    code, out, err = call(capsys, "prune", "resnet_digits", "--criterion", "l1", "--ratio", "s.json", "--out", "small")
    assert code == 0, err
    small = secateur.load("small", model=create("resnet_digits"))
    assert small.after.macs <= 0.808 * small.before.macs


def test_the_error_of_the_output_needs_no_labels(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "sensitivity", "resnet_digits", *SHORT, "--error", "--only", "layer1", "--repair")
    assert code == 0
    assert "Output error without units of one group" in out
    assert "on 24 samples, each cut repaired" in out
    assert "Ratio" not in out
    assert not list(Path().iterdir())


@pytest.mark.parametrize(("options", "words"), [
    ((), "give --data"), (("--ratios", "0.5,1"), "--ratios are shares"), (("--ratios", ""), "--ratios are shares"),
    (("--macs", "50%", "--params", "50%"), "one target; got --params and --macs|--macs and --params"),
    (("--out", "s.txt"), "--out is a .json file"), (("--page", "taken.html"), "exists already. Choose another --page"),
    (("--out", "none/s.json"), "There is no folder"), (("--macs", "much"), "--macs is what to keep"),
    (("--data", "digits", "--images", "0"), "--images is at least 1"), (("--data", "digit"), "digits"),
    (("--data", "digits", "--criterion", "l22"), "l2"),
    (("--data", "digits", "--task", "clasification"), "classification"),
    (("--data", "digits", "--images", "8", "--ratios", "0.1", "--macs", "10%", "--error"), "Measure larger ratios"),
])  # fmt: skip
def test_wrong_requests_exit_with_2(options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken.html").touch()
    code, _, err = call(capsys, "sensitivity", "resnet_digits", *options)
    assert code == 2
    assert any(part in err for part in words.split("|")), err
    assert "Traceback" not in err
    assert [path.name for path in Path().iterdir()] == ["taken.html"]


@pytest.mark.parametrize(("content", "words"), [
    (None, "There is no file ratios.json"), ("{", "is not JSON"), (json.dumps({"ratios": {"conv1": 0.5}}), "no curves"),
])  # fmt: skip
def test_a_cut_by_a_wrong_file_exits_with_2(
    content: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("ratios.json").write_text(content)
    code, _, err = call(capsys, "prune", "resnet_digits", "--ratio", "ratios.json", "--out", "small")
    assert code == 2
    assert words in err
    assert not Path("small").exists()
