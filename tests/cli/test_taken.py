"""No command writes over what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import secateur
from secateur.cli.main import main
from secateur.core.errors import InputError


@pytest.mark.parametrize(
    "arguments",
    [
        ("prune", "resnet_digits", "--ratio", "0.5", "--out", "{}"),
        ("prune", "resnet_digits", "--ratio", "0.5", "--out", "{}.onnx"),
        ("layers", "resnet_digits", "--count", "1", "--out", "{}"),
        ("recover", "resnet_digits", "--data", "digits", "--ratio", "0.5", "--out", "{}"),
        ("sparsify", "resnet_digits", "--ratio", "0.5", "--out", "{}"),
        ("sensitivity", "resnet_digits", "--data", "digits", "--out", "{}.json"),
        ("sensitivity", "resnet_digits", "--data", "digits", "--page", "{}.html"),
        ("export", "resnet_digits", "{}.onnx"),
        ("report", "nowhere", "--picture", "{}.svg"),
        ("run", "quickstart", "--out", "{}"),
        ("compare", "slimming", "thinet", "--out", "{}"),
        ("sweep", "slimming", "--ratios", "0.5", "--out", "{}"),
    ],
    ids=lambda arguments: f"{arguments[0]}-{arguments[-2]}-{arguments[-1]}",
)
def test_what_is_there_stays(arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    taken = place / "kept.txt" if arguments[-1] == "{}" else Path(arguments[-1].format(place))
    taken.write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main([part.format(place) for part in arguments])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "exists already. Choose another" in said or "is not empty. Choose another --out" in said
    assert taken.read_text() == "mine"
    assert [path for path in place.iterdir() if path != taken] == []


def test_an_artifact_takes_the_place_of_an_artifact_alone(tmp_path: Path) -> None:
    network = secateur.models.create("resnet_digits")
    small = secateur.prune(network, torch.randn(2, 1, 8, 8), ratio=0.5)
    (tmp_path / "model.safetensors").write_bytes(b"dense")
    with pytest.raises(InputError, match=r"model\.safetensors is there already and belongs to no artifact of Secateur"):
        small.save(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == b"dense"
    small.save(tmp_path / "new")
    small.save(tmp_path / "new")
