"""Folders of runs: every file damaged or forged, and recipes in them that name code."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from tests.recipe.test_damage import DAMAGE, begun

from secateur.recipe import reopen, resume

from . import MARK, Crafted, damaged, no_files
from .recipes import PLUGINS

COMMANDS = (
    ("inspect", "{}"),
    ("resume", "{}"),
    ("measure", "{}"),
    ("export", "{}", "out.onnx"),
    ("report", "{}"),
)
RECORDS = ("state.json", "environment.json", "steps/01-adapt/result.json")
WEIGHTS = "steps/01-adapt/model.safetensors"
MODELS: dict[str, dict[str, Any]] = {
    "os:system": {"command": f"touch {MARK}"},
    "subprocess:run": {"args": f"touch {MARK}", "shell": True},
    "builtins:eval": {"source": f"open('{MARK}', 'w')"},
    "pathlib:Path.touch": {"self": MARK},
    "antigravity:fly": {},
    "torch.hub:load": {"repo_or_dir": ".", "model": "x", "source": "local"},
    "evil:make": {},
    "..evil:make": {},
    "evil.deeper:make": {},
    "timm:resnet18": {"checkpoint_path": "evil.pth"},
    "steps/../evil:make": {},
}
STATES: dict[str, dict[str, Any]] = {
    "home": {"home": "{}"},
    "home is a list": {"home": ["x"]},
    "done leads out": {"done": ["../../x"]},
    "done is absolute": {"done": ["/etc"]},
    "done twice": {"done": ["01-adapt", "01-adapt"]},
    "done of others": {"done": ["02-prune"]},
    "done is a number": {"done": 3},
    "files lead out": {"files": {"01-adapt": {"../../../x": "0" * 64}}},
    "another format": {"format": 10**40},
    "seeds without end": {"format": [1] * 1000},
}


@functools.cache
def stopped() -> Path:
    return begun(Path(tempfile.mkdtemp(prefix="crafted-")))


def opens(path: Path) -> Any:
    return reopen(path)


def goes_on(path: Path) -> Any:
    return resume(path)


def copied(folder: Path) -> Path:
    evil = f"from pathlib import Path\nPath({MARK!r}).touch()\n"
    path = Path(shutil.copytree(stopped(), folder / "run"))
    for place in (path, path.parent):  # code that a forged folder would like to see imported
        (place / "evil.py").write_text(evil)
    return path


def replaced(name: str, make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def place(folder: Path) -> Path:
        path = copied(folder)
        there = path / name
        if there.is_dir():
            shutil.rmtree(there)
        elif there.exists():
            there.unlink()
        make(path)
        return path

    return place


def stated(values: dict[str, Any]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = copied(folder)
        state = json.loads((path / "state.json").read_text())
        filled = {k: str(path) if v == "{}" else v for k, v in values.items()}
        (path / "state.json").write_text(json.dumps({**state, **filled}))
        return path

    return make


def naming(model: str, options: dict[str, Any]) -> Callable[[Path], Path]:
    """A run whose recipe names code of a network."""
    return forged(lambda recipe, _: recipe["model"].update(name=model, options=options))


def using(plugin: str) -> Callable[[Path], Path]:
    """A run whose recipe names a plug-in."""
    return forged(lambda recipe, path: recipe.update(use=[plugin.replace("{}", str(path))]))


def forged(change: Callable[[dict[str, Any], Path], Any]) -> Callable[[Path], Path]:
    """A run with another recipe, a digest that fits it and a working directory where the code lies."""

    def make(folder: Path) -> Path:
        path = copied(folder)
        recipe = yaml.safe_load((path / "recipe.yaml").read_text())
        change(recipe, path)
        text = yaml.safe_dump(recipe)
        (path / "recipe.yaml").write_text(text)
        state = json.loads((path / "state.json").read_text())
        digest = hashlib.sha256(text.encode()).hexdigest()
        (path / "state.json").write_text(json.dumps({**state, "recipe_sha256": digest, "home": str(path)}))
        return path

    return make


def crafted() -> Iterator[Crafted]:
    yield Crafted("a good one", copied, opens, (("inspect", "{}"), ("report", "{}")), fine=True)
    for model, options in MODELS.items():
        yield Crafted(f"its recipe names {model}", naming(model, options), opens, COMMANDS[:-1])
        # A report is made of what was noted: it builds no network, and so may name any.
        yield Crafted(f"its recipe names {model}, reported", naming(model, options), str, COMMANDS[-1:], fine=True)
        yield Crafted(f"its recipe names {model}, resumed", naming(model, options), goes_on)
    for plugin in PLUGINS:
        yield Crafted(f"its recipe uses {plugin[:40]!r}", using(plugin), opens, COMMANDS)
        yield Crafted(f"its recipe uses {plugin[:40]!r}, resumed", using(plugin), goes_on)
    for name, values in STATES.items():
        fine = name == "home"  # it is not believed, and does no harm
        yield Crafted(f"state: {name}", stated(values), opens, COMMANDS[:1] if fine else COMMANDS, fine)
    for file in RECORDS:
        for name, (change, _) in DAMAGE.items():
            yield Crafted(f"{file}: {name}", damaged(copied, file, change), opens, (COMMANDS[0], COMMANDS[1]))
        for name, make in no_files(Path(file).name).items():
            yield Crafted(f"{file}: {name}", replaced(file, _below(file, make)), opens, (COMMANDS[0],))
    for name, change in {
        "cut": lambda p: p.write_bytes(p.read_bytes()[:100]),
        "another": lambda p: p.write_bytes(p.read_bytes()[:-4] + b"\0\0\0\1"),
        "gone": lambda p: p.unlink(),
    }.items():
        yield Crafted(f"{WEIGHTS}: {name}", damaged(copied, WEIGHTS, change), opens, COMMANDS[:2])
    for name, make in no_files("recipe.yaml").items():
        yield Crafted(f"recipe.yaml: {name}", replaced("recipe.yaml", make), opens, COMMANDS[:2])


def _below(file: str, make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    return lambda path: make((path / file).parent)
