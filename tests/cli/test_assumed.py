"""What nobody said and the command line assumes is said: random weights, the shape of an input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import secateur
from secateur.cli.commands.networks import open_network
from secateur.cli.main import main
from secateur.models.random_weights import RANDOM, has_random_weights

Call = Callable[..., str]
FACTORY = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
"""


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            main([str(a) for a in arguments])
        said = capsys.readouterr()
        assert stopped.value.code == 0, said.err
        return said.out + said.err

    return run


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "assumed_nets.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return "assumed_nets:build"


def weights(tmp_path: Path) -> Path:
    from safetensors.torch import save_file

    save_file(secateur.models.create("resnet_digits").state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_random_weights_are_said_where_accuracy_is_at_stake(call: Call, tmp_path: Path) -> None:
    assert RANDOM in call("prune", "resnet_digits", "--ratio", "0.5", "--out", tmp_path / "a")
    said = call("export", "resnet_digits", tmp_path / "a.pt2")
    assert f"Note: resnet_digits: {RANDOM} (--weights takes trained ones)." in said
    assert RANDOM in call("layers", "resnet_digits", "--count", "1", "--out", tmp_path / "b")
    assert "random" not in call("inspect", "resnet_digits"), "a form has no accuracy"


def test_weights_that_were_given_are_not_called_random(call: Call, tmp_path: Path) -> None:
    file = weights(tmp_path)
    said = call("prune", "resnet_digits", "--weights", file, "--ratio", "0.5", "--out", tmp_path / "a")
    assert "random" not in said
    assert "random weights" not in call("export", "resnet_digits", tmp_path / "a.pt2", "--weights", file)


def test_the_shape_that_is_taken_is_said(call: Call, factory: str, tmp_path: Path) -> None:
    note = f"Note: what {factory} takes is not known, so an input of 3×224×224 was taken (--input-shape C,H,W)."
    assert note in call("inspect", factory)
    assert "is not known" not in call("inspect", factory, "--input-shape", "3,32,32")
    assert "is not known" not in call("inspect", "resnet_digits")
    assert "random" not in call(
        "prune", factory, "--input-shape", "3,8,8", "--ratio", "0.5", "--out", tmp_path / "a"
    ), "a factory may have loaded weights"


def test_timm_says_itself_what_its_networks_take() -> None:
    secateur.models.import_torchvision()  # timm imports it
    pytest.importorskip("timm")
    opened = open_network("timm:test_resnet.r160_in1k")
    assert opened.inputs.shape[1:] == (3, 160, 160)
    assert not opened.assumed


def test_python_says_it_in_the_notes() -> None:
    import torch

    network: Any = secateur.models.create("resnet_digits")
    images = torch.randn(2, 1, 8, 8)
    assert has_random_weights(network)
    assert RANDOM in secateur.prune(network, images, ratio=0.5).notes
    assert RANDOM in repr(secateur.prune(network, images, ratio=0.5))
    with torch.no_grad():
        network.conv1.weight.mul_(1.5)  # as a step of training does
    assert RANDOM not in secateur.prune(network, images, ratio=0.5).notes
