"""`secateur sparsify`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import secateur
from secateur.cli.main import main
from secateur.core.errors import InputError
from secateur.models import create
from secateur.sparsity import load_converted


def call(*arguments: object) -> int:
    try:
        main([str(a) for a in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_it_leaves_an_artifact_and_a_compressed_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sparse"
    assert call("sparsify", "lenet5", "--ratio", "conv2=0.5", "--ratio", "fc*=0.9", "--out", out, "--bits", 4) == 0
    said = capsys.readouterr().out
    assert "12,500" in said
    assert "40,000" in said
    assert f"{(out / 'model.sdc').stat().st_size:,} bytes on disk" in " ".join(said.split())
    assert " ".join(said.split()).count("Zeros count as size only") == 1
    loaded = secateur.load(out, model=create("lenet5")).model
    assert int(loaded.fc1.weight.count_nonzero()) == 40_000
    assert bool((loaded.conv1.weight != 0).all())
    small = secateur.decompress(out / "model.sdc", create("lenet5"))
    assert torch.equal(small.fc1.weight != 0, loaded.fc1.weight != 0)
    assert 2 < len(small.fc1.weight.unique()) <= 17


def test_it_measures_sparse_products(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fast"
    options = ("--ratio", "0.95", "--pattern", "block 4x1", "--only", "fc1", "--convert", "--out", out)
    assert call("sparsify", "lenet300", *options) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "in PyTorch, batch 1, 1 thread" in said
    assert "95.0%" in said
    if (out / "converted.safetensors").exists():  # which of them wins is the machine's business
        assert "converted to sparse products" in said
        dense = create("lenet300")
        x = torch.randn(3, 1, 28, 28)
        made = load_converted(out / "converted.safetensors", dense)
        torch.testing.assert_close(made(x), secateur.load(out, model=dense)(x), rtol=1e-4, atol=1e-4)
    else:
        assert "the network stays dense" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ratio", "1.5"], "[0, 1)"),
        (["--ratio", "much"], "--ratio wants"),
        (["--ratio", "0.5", "--ratio", "0.6"], "--ratio wants"),
        (["--ratio", "fc8=0.5"], "fc8"),
        (["--pattern", "2:4"], "conv1.weight"),
        (["--ratio", "0.5", "--bits", "12"], "--bits"),
        ([], "ratio, std"),
    ],
)
def test_bad_input_is_one_sentence(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("sparsify", "lenet5", *options, "--out", tmp_path / "out") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        main(["sparsify", "lenet5", "--ratio", "0.5", "--out", str(tmp_path), "--debug"])
