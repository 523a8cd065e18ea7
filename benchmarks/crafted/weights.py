"""Weights: PyTorch's files in both forms, safetensors, Darknet's descriptions and weights."""

from __future__ import annotations

import pickle
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tests.models.test_networks_darknet import GREEDY
from tests.models.test_pth import LIES, LYING_TENSORS, PICKLES, members, pickled, written

from secateur.models import create, load_weights, read_weights

from . import MARK, Crafted, holding, no_files

WITH = (
    ("prune", "lenet300", "--weights", "{}", "--ratio", "0.5", "--out", "out"),
    ("export", "lenet300", "net.onnx", "--weights", "{}"),
)
CFG = (("prune", "{}", "--ratio", "0.5", "--out", "out"), ("layers", "{}"))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(MARK),))


def good(folder: Path, *, old: bool = False) -> Path:
    torch.save(create("lenet300").state_dict(), folder / "w.pth", _use_new_zipfile_serialization=not old)
    return folder / "w.pth"


def parts() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"w": torch.arange(100.0)}, Path(folder) / "good.pth")
        return members(Path(folder) / "good.pth")


def old(content: bytes) -> bytes:
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    return b"".join(pickle.dumps(part, 2) for part in head) + content + pickle.dumps([], 2)


def evil(folder: Path, form: bool) -> Path:
    torch.save({"w": Evil()}, folder / "w.pth", _use_new_zipfile_serialization=form)
    return folder / "w.pth"


def crafted() -> Iterator[Crafted]:
    yield Crafted("good", good, read_weights, WITH, fine=True)
    yield Crafted("good, older form", lambda f: good(f, old=True), read_weights, WITH, fine=True)
    whole = parts()

    def zipped(content: Any, kind: int = zipfile.ZIP_STORED) -> Callable[[Path], Path]:
        return lambda folder: written(folder / "w.pth", content, kind)

    def pair(name: str, make: Callable[[Path], Path], fine: bool = False) -> Crafted:
        return Crafted(name, make, read_weights, WITH, fine)

    for name, (thing, words) in LIES.items():
        yield pair(f"a tensor {name}", zipped(whole | {"good/data.pkl": pickled({"w": thing})}), not words)
        yield pair(f"a tensor {name}, older form", holding("w.pth", old(pickled({"w": thing}))))
    for name, content in PICKLES.items():
        yield pair(f"a pickle: {name}", zipped(whole | {"good/data.pkl": content}))
        yield pair(f"a pickle: {name}, older form", holding("w.pth", old(content)))
    for held in (0, 4, 396, 404):
        yield pair(f"{held} bytes for 400", zipped(whole | {"good/data/0": bytes(held)}))
    yield pair("two pickles", zipped([*whole.items(), ("good/data.pkl", pickle.dumps({}))]))
    yield pair("compressed", zipped(whole, zipfile.ZIP_DEFLATED))
    yield pair("a bomb", zipped(whole | {"good/data/0": bytes(2**28)}, zipfile.ZIP_DEFLATED))
    yield pair("many members", zipped(whole | {f"good/data/x{i}": b"" for i in range(30_000)}), True)
    yield pair("a call", lambda f: evil(f, True))
    yield pair("a call, older form", lambda f: evil(f, False))
    yield pair("a bare pickle", holding("w.pth", pickle.dumps({"w": Evil()})))
    for name, content in LYING_TENSORS.items():
        yield pair(f"safetensors: {name}", holding("w.safetensors", content))
    for ending in ("pth", "safetensors"):
        for name, make in no_files(f"w.{ending}").items():
            yield pair(f"{ending}: {name}", make)
    for name, text in GREEDY.items():
        yield Crafted(f"a .cfg of {name}", holding("net.cfg", text), lambda p: create(str(p)), CFG)
    for name, make in no_files("net.cfg").items():
        yield Crafted(f"a .cfg: {name}", make, lambda p: create(str(p)), CFG)
    small = "[net]\nchannels=3\n[convolutional]\nfilters=4\n"
    for name, content in {
        "empty": b"",
        "short": b"\0" * 11,
        "of zeros": bytes(100),
        "of words": b"weights" * 9,
    }.items():
        yield Crafted(f".weights {name}", holding("net.weights", content), lambda p: create(cfg(p, small), weights=p))
    for name, make in no_files("net.weights").items():
        yield Crafted(f".weights: {name}", make, lambda p: create(cfg(p, small), weights=p))
    yield Crafted("NaN", nan, lambda p: load_weights(create("lenet300"), p), WITH)


def cfg(beside: Path, text: str) -> str:
    path = beside.with_name("small.cfg")
    path.write_text(text)
    return str(path)


def nan(folder: Path) -> Path:
    state = create("lenet300").state_dict()
    state["fc1.weight"] = state["fc1.weight"] * float("nan")
    torch.save(state, folder / "w.pth")
    return folder / "w.pth"
