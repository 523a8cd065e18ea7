"""`secateur recover`: cut and repair in one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import secateur
from secateur.cli.main import main


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["recover", *(str(a) for a in arguments)])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_an_artifact_is_left_that_loads(tmp_path: Path) -> None:
    out = tmp_path / "small"
    assert run("vgg_digits", "--data", "digits", "--images", 64, "--macs", "50%", "--out", out) == 0
    record = json.loads((out / "plan.json").read_text())
    assert record["macs"][1] == pytest.approx(0.5 * record["macs"][0], rel=0.01)
    assert record["plan"]["provenance"]["criterion"] == "reconstruction"
    model = secateur.load(out, model=secateur.models.create("vgg_digits")).model
    kept = record["plan"]["keep"]["classifier.weight"]["1"] if "classifier.weight" in record["plan"]["keep"] else None
    assert kept is None or model.classifier.in_features == len(kept)  # type: ignore[union-attr]


def test_a_criterion_may_choose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--ratio", 0.5, "--criterion", "l1", "--method", "bias", "--images", 16)
    assert run("vgg_digits", "--data", "digits", *options, "--out", tmp_path / "a") == 0
    assert "Verified" in capsys.readouterr().out
    assert json.loads((tmp_path / "a" / "plan.json").read_text())["plan"]["provenance"]["criterion"] == "l1"


def test_tuning_is_the_last_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--ratio", 0.5, "--criterion", "l1", "--images", 16, "--tune")
    assert run("vgg_digits", "--data", "digits", *options, "--out", tmp_path / "a") == 0
    assert "tuned with gradients, without labels" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "a" / "plan.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ratio", 0.5, "--data", "digits", "--tune-seconds", 5), "give --tune, too"),
        (("--ratio", 0.5, "--data", "digits", "--tune", "--tune-seconds", 0), "seconds is a number above 0"),
        (("--ratio", 0.5), "give --data"),
        (("--ratio", 0.5, "--data", "digits", "--method", "biass"), "Did you mean 'bias'"),
        (("--ratio", 0.5, "--data", "digits", "--method", "bias", "--match-variance", "yes"), "match_variance is for"),
        (("--ratio", 0.5, "--data", "digits", "--match-variance", "maybe"), "Did you mean 'yes'"),
        (("--ratio", 0.5, "--data", "digits", "--criterion", "l1,l3"), "no criterion named 'l3'"),
        (("--ratio", 0.5, "--data", "digits", "--images", 16, "--memory", 10), "memory_bytes=10 is too little"),
        (("--data", "digits", "--latency", 0.5), "wants a runtime"),
        (("--data", "digits"), "Give one of --ratio, --std, --params, --macs, --energy, --size and --latency"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[object, ...], words: str
) -> None:
    assert run("vgg_digits", *options, "--out", tmp_path / "a") == 2
    said = capsys.readouterr().err
    assert words in said
    assert not (tmp_path / "a").exists()
