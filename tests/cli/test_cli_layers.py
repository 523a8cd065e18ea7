"""`secateur layers`: the list, the cut, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import secateur
from secateur.cli.main import main
from secateur.models import create


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["layers", *map(str, arguments)])
    said = capsys.readouterr()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, said.out, said.err


def test_branches_are_listed_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "resnet_digits")
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("layer")}
    assert code == 0
    assert list(lines) == ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer2.0", "layer3.0"]
    assert "73,984" in lines["layer3.1"]
    assert "not the identity" in lines["layer2.0"]
    assert "4 of 6 residual branches" in out
    code, out, _ = call(capsys, "resnet_digits", "--names", "layer1.1", "--out", tmp_path / "small")
    assert code == 0
    assert "Removed: layer1.1" in out
    loaded = secateur.load(tmp_path / "small", model=create("resnet_digits")).model
    assert isinstance(loaded.layer1[1], torch.nn.Identity)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--count", "2"], "--out"),
        (["--out", "x"], "one of --count, --ratio and --names; got none"),
        (["--out", "x", "--count", "1", "--ratio", "0.5"], "--count and --ratio"),
        (["--out", "x", "--names", "layer2.0"], "changes the values"),
        (["--out", "x", "--count", "9"], "at most 3"),
        (["--criterion", "apoz"], "criterion of residual branches"),
    ],
)
def test_wrong_requests_exit_with_2(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "resnet_digits", *options)
    assert code == 2
    assert words in err
    assert not (tmp_path / "x").exists()


def test_a_cfg_says_what_the_network_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\npad=1\nactivation=leaky\n"
    block = layer.format(2) + layer.format(4) + "[shortcut]\nfrom=-3\n"
    (tmp_path / "net.cfg").write_text(
        "[net]\nchannels=1\nheight=8\nwidth=8\n" + layer.format(4) + 2 * block + "[convolutional]\nfilters=3\n"
    )
    code, out, _ = call(capsys, tmp_path / "net.cfg")
    assert code == 0
    assert "2 of 2 residual branches" in out
    assert f"{2 * 9 * 8 * 8 * 8:,}" in out
