"""Artifacts: graphs with hostile names, operators, arguments and sizes, and folders with a file that is no such."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tests.core.test_graph_file import ATTACKS, CODE, RECORDS, SHAPES, Shaped, forged
from tests.recipe.test_damage import DAMAGE
from tests.zoo import settle
from torch import Tensor, nn

import secateur

from . import MARK, Crafted, damaged, no_files

COMMANDS = (
    ("inspect", "{}"),
    ("prune", "{}", "--ratio", "0.5", "--out", "out"),
    ("export", "{}", "out.onnx"),
)
FILES = ("plan.json", "model.safetensors", "graph.json", "graph.safetensors")
BY_RECORD: dict[str, dict[str, Any]] = {
    "format 1": {"artifact_format": 1},
    "format 10^400": {"artifact_format": 10**400},
    "format None": {"artifact_format": None},
    "no plan": {"plan": None},
    "the plan is a list": {"plan": []},
    "back end is code": {"backend": CODE},
    "digests are none": {"sha256": {}},
    "digests are numbers": {"sha256": {"model.safetensors": 1}},
    "shared with nothing": {"shared": {"x": "y"}},
    "shared with code": {"shared": {CODE: CODE}},
    "shared is a list": {"shared": ["x"]},
    "inputs are none": {"inputs": None},
    "inputs of a dtype that is a function": {"inputs": {"shape": [1, 3, 8, 8], "dtype": "load"}},
    "inputs of a dtype that is a dunder": {"inputs": {"shape": [1, 3, 8, 8], "dtype": "__class__"}},
    "inputs of a negative size": {"inputs": {"shape": [-1, 3, 8, 8], "dtype": "float32"}},
    "inputs without end": {"inputs": {"shape": [10**30, 3, 8, 8], "dtype": "float32"}},
    "a sample of a terabyte": {"inputs": {"shape": [1, 10**9, 8, 8], "dtype": "float64"}},
    "inputs of no size": {"inputs": {"shape": [0, 0, 0, 0], "dtype": "float32"}},
    "inputs that are others": {"inputs": {"named": {"evil": {"shape": [1], "dtype": "float32"}}}},
}


PLANS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a tensor that is not there": lambda p: (p["keep"].update(no={"0": [0]}), p["dense_shapes"].update(no=[3])),
    "a method": lambda p: (p["keep"].update(forward={"0": [0]}), p["dense_shapes"].update(forward=[3])),
    "a part of a group": lambda p: p.update(keep=dict(list(p["keep"].items())[:1])),
    "other shapes": lambda p: p.update(dense_shapes={n: [9] * len(s) for n, s in p["dense_shapes"].items()}),
    "nothing": lambda p: p.update(keep={}, dense_shapes={}),
    "a module replaced by code": lambda p: p.update(format=2, removed=["x"], replaced={"stem": CODE}),
    "a module that is not there": lambda p: p.update(format=2, removed=["x"], replaced={"no.x": "identity"}),
    "parts without end": lambda p: p.update(parts=[dict(p)] * 3),
    "another format": lambda p: p.update(format=10**30),
}


@functools.cache
def shaped() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="crafted-"))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), Shaped()).eval()
    secateur.prune(model, torch.randn(2, 3, 5), ratio=0.4, backend="graph").save(folder)
    return folder


@functools.cache
def saved() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="crafted-"))
    torch.manual_seed(0)
    secateur.prune(settle(Scaled()), torch.randn(2, 3, 8, 8), ratio=0.5, backend="graph").save(folder)
    return folder


class Scaled(nn.Module):
    """A network with a constant that is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.out = nn.Linear(8, 4)
        self.register_buffer("scale", torch.full((8, 1, 1), 2.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.stem(x) * self.scale).relu().mean((2, 3)))


def opens(path: Path) -> Any:
    return secateur.load(path)


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(saved(), folder / "small"))


def fills(path: Path) -> Any:
    return secateur.load(path, model=Scaled())


def changed(
    change: Callable[[dict[str, Any]], Any], *, source: Path | None = None, **record: Any
) -> Callable[[Path], Path]:
    """A copy with another graph and another record; a function as ``plan`` changes the plan that is there."""

    def make(folder: Path) -> Path:
        (folder / "small").mkdir()
        made = dict(record)
        if callable(plan := made.get("plan")):
            made["plan"] = json.loads((saved() / "plan.json").read_text())["plan"]
            plan(made["plan"])
        return forged(source or saved(), folder / "small", change, **made)

    return make


def replaced(name: str, make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def place(folder: Path) -> Path:
        path = copied(folder)
        (path / name).unlink()
        make(path)
        return path

    return place


def crafted() -> Iterator[Crafted]:
    yield Crafted("a good one", copied, opens, COMMANDS[:2], fine=True)
    for name, (change, _) in ATTACKS.items():
        yield Crafted(f"graph: {name}", changed(_marked(change)), opens, COMMANDS)
    yield Crafted("a good one for a network that is given", copied, fills, fine=True)
    for name, (change, _) in SHAPES.items():
        yield Crafted(f"shapes: {name}", changed(change, source=shaped()), opens, COMMANDS)
    for name, record in (BY_RECORD | RECORDS).items():
        fine = name in ("a sample of a terabyte", "inputs of no size")  # a network all the same
        yield Crafted(f"record: {name}", changed(lambda g: None, **record), opens, COMMANDS, fine)
        fine = name == "inputs of no size"
        yield Crafted(f"record, network given: {name}", changed(lambda g: None, **record), fills, fine=fine)
    for name, change in PLANS.items():
        yield Crafted(f"plan, network given: {name}", changed(lambda g: None, plan=change), fills)
    for file in FILES:
        for name, (change, _) in (DAMAGE | {"cut": (_cut, "")}).items():
            if name != "a link":
                yield Crafted(f"{file}: {name}", damaged(copied, file, change), opens, COMMANDS, fine="link" in name)
        for name, make in no_files(file).items():
            yield Crafted(f"{file}: {name}", replaced(file, make), opens, COMMANDS)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def _marked(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """The attack, with the marker that is looked for."""

    def change_marked(graph: dict[str, Any]) -> Any:
        found = change(graph)
        return found.replace("MARK", MARK) if isinstance(found, str) else _put(graph if found is None else found)

    return change_marked


def _put(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {_put(k) if isinstance(k, str) else k: _put(v) for k, v in tree.items()}
    if isinstance(tree, list):
        return [_put(v) for v in tree]
    return tree.replace("MARK", MARK) if isinstance(tree, str) else tree
