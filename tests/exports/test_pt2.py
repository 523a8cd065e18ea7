"""A .pt2 archive can run code when it is opened: it is opened only if the caller trusts it."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur.core.errors import InputError, SecateurError, WeightsError
from secateur.exports import export
from secateur.runtimes import RUNTIMES
from secateur.runtimes.pytorch import read_program
from secateur.timing import latency
from secateur.timing.children import children
from secateur.timing.entrants import Entrant

X = torch.zeros(2, 1, 4, 4)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "net.pt2"
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)).eval()
    export(net, X, path, "pt2")
    return path


@pytest.fixture
def bomb(archive: Path, tmp_path: Path) -> Path:
    """An archive whose weights are a pickle that makes a file."""
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(archive, "w") as new:
        for name, data in members.items():
            if name.endswith("weights_config.json"):
                data = data.replace(b'"use_pickle": false', b'"use_pickle": true')
            new.writestr(name, pickle.dumps(Bomb(tmp_path / "ran")) if "/weight_" in name else data)
    return archive


def test_a_trusted_file_runs(archive: Path) -> None:
    assert read_program(archive, trust=True).module()(torch.zeros(5, 1, 4, 4)).shape == (5, 3)
    (timing,) = latency({"net.pt2": archive}, X, batches=(2,), backward=False, rounds=3, trust=True)
    assert timing.runtime == "pytorch"


WAYS: dict[str, Callable[[Path], object]] = {
    "read": lambda path: read_program(path, trust=False),
    "open": lambda path: RUNTIMES["pytorch"].open(path, 1),
    "latency": lambda path: latency({"net.pt2": path}, X, batches=(2,), rounds=3),
    "entrant": lambda path: latency([Entrant("net", path, "pytorch")], X, batches=(2,), rounds=3),
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_a_file_that_is_not_trusted_is_read(bomb: Path, way: str) -> None:
    with pytest.raises(InputError, match=r"net\.pt2.*can run any code.*trust=True"):
        WAYS[way](bomb)
    assert not (bomb.parent / "ran").exists()


def test_nor_in_a_process_of_its_own(bomb: Path) -> None:
    with pytest.raises(SecateurError, match="can run any code"), children([Entrant("a", bomb, "pytorch")], X):
        pass
    assert not (bomb.parent / "ran").exists()


def test_the_bomb_is_one(bomb: Path) -> None:
    """Or else the tests above would prove nothing."""
    with pytest.raises(WeightsError, match="cannot be read"):
        read_program(bomb, trust=True)
    assert (bomb.parent / "ran").exists()


def test_not_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "x.pt2"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(WeightsError, match="cannot be read"):
        read_program(path, trust=True)
