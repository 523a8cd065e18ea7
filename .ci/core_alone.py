"""What must work with the core's packages alone, and the sentence that every missing extra is answered with.

Run by .ci/package, in an environment of its own, with the folder of the sources as its argument.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

import secateur
from secateur import models
from secateur.core.errors import InputError
from secateur.jobs import Ray
from secateur.loggers import need_loggers
from secateur.report.figure import _png
from secateur.report.page import render
from secateur.runtimes import RUNTIMES
from secateur.task import TASKS, Request
from secateur.task.detection.average_precision import AveragePrecision
from secateur.task.multilabel import _metrics
from secateur.task.shown import png
from secateur.task.text.tokens import tokenizer_from
from secateur.train import Adapters

FIX = r"[^\n]+ (needs?|is not installed)[^\n]*: pip install [^\n]*\"secateur\[(?P<extra>\w+)\]\"\."
"""The sentence for a missing package: one line, which ends in the command that installs the extra."""


def network() -> nn.Module:
    """A small network that can be cut."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4)).eval()


def core(folder: Path, sources: Path) -> None:
    """Cuts, saves, loads and exports a network, and looks for the files that are no code."""
    assert sources not in Path(secateur.__file__).parents, "secateur is imported from the clone"
    own = {file.relative_to(sources) for file in sources.rglob("*") if file.is_file() and file.suffix != ".pyc"}
    there = {file.relative_to(Path(secateur.__file__).parent) for file in Path(secateur.__file__).parent.rglob("*")}
    assert not own - there, f"the wheel lacks {sorted(map(str, own - there))}"
    images = torch.randn(2, 3, 8, 8)
    small = secateur.prune(network(), images, ratio=0.5)
    assert small.verification is not None
    assert small.verification.proven
    small.save(folder / "artifact", graph=True)
    for again in (secateur.load(folder / "artifact"), secateur.load(folder / "artifact", network())):
        assert torch.equal(again(images), small(images))
    assert secateur.export(small, folder / "small.pt2").max_difference < 1e-6
    for words in ("--help", "run --help", "recipes", "runtimes", "criteria", "inspect resnet56", "inspect artifact"):
        done = command(words, folder)
        assert done.returncode == 0, f"secateur {words}: {done.stdout}{done.stderr}"
        assert done.stdout.strip(), words
    assert "thinet" in command("recipes", folder).stdout


def command(words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command line, as it was installed."""
    program = Path(sys.executable).with_name("secateur")
    return subprocess.run([str(program), *words.split()], cwd=folder, capture_output=True, text=True, check=False)


def calls(folder: Path) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """What needs an extra: its name, that of the extra, and the call."""
    images = torch.randn(2, 3, 8, 8)
    (folder / "net.onnx").write_bytes(b"\x08\x08\x12\x00")
    (folder / "net").write_bytes(b"")
    for name in RUNTIMES:
        runtime = RUNTIMES[name]
        if runtime.packages == ("torch",):
            continue
        file = folder / f"small{runtime.suffix}"
        yield f"write {name}", runtime.extra, lambda file=file: secateur.export(network(), images, file)
        if runtime.int8:
            yield (
                f"write {name} int8", runtime.extra,
                lambda file=file: secateur.export(network(), images, file, calibration=images),
            )  # fmt: skip
        yield f"open {name}", runtime.extra, lambda runtime=runtime: runtime.open(folder / "net")
        yield (
            f"latency in {name}", runtime.extra,
            lambda name=name: secateur.prune(network(), images, latency=0.5, runtime=name),
        )  # fmt: skip
    yield "read ONNX", "onnx", lambda: models.read_onnx(folder / "net.onnx")
    for library in ("torchvision", "timm"):
        yield library, "zoo", lambda library=library: models.create(f"{library}:resnet18")
    for name, kind in ((name, TASKS[name]) for name in TASKS):
        if kind.data in ("digits", "diabetes"):
            yield f"data of {name}", "train", lambda kind=kind: kind.open(Request(kind.data))
    yield "training", "train", lambda: secateur.fit(network(), task())
    yield "image in a report", "train", lambda: png(torch.zeros(3, 4, 4, dtype=torch.uint8))
    yield "PNG picture", "train", lambda: _png([], 10)
    if find_spec("jinja2") is None:  # PyTorch brings it
        yield "report", "report", lambda: render("report.html", {})
    yield "average precision", "detection", lambda: AveragePrecision(["dog"])
    yield "several labels", "detection", lambda: _metrics(3)
    yield "tokenizer", "text", lambda: tokenizer_from(str(folder))
    (folder / "hf").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / "hf" / name).write_text("{}", encoding="utf-8")
    yield "network of transformers", "text", lambda: models.create(f"hf:{folder / 'hf'}")
    (folder / "net.gguf").write_bytes(b"GGUF")
    yield "GGUF file", "gguf", lambda: models.create(f"hf:{folder / 'net.gguf'}")
    yield "adapters", "adapters", lambda: secateur.fit(network(), task(), adapters=Adapters())
    for name in ("tensorboard", "mlflow", "wandb"):
        yield f"logging to {name}", name, lambda name=name: need_loggers(name)
    yield "jobs on a cluster", "ray", lambda: Ray().begin().__enter__()
    yield "a search", "search", lambda: secateur.search(network(), task(), folder / "searched")
    yield "the Hub", "hub", lambda: secateur.prune(network(), images, ratio=0.5).push_to_hub("owner/name")
    for extra, name, inputs in (("lightning", "lightning", ()), ("trainer", "transformers", (images,))):
        made = import_module(f"secateur.callbacks.{name}").PruneCallback
        yield extra, extra, lambda made=made, inputs=inputs: made({1: {"ratio": 0.5}}, *inputs)


def task() -> secateur.Task:
    """Eight samples to learn."""
    pairs = [(torch.randn(3, 8, 8), torch.tensor(label % 4)) for label in range(8)]
    batches = [(torch.stack([image for image, _ in pairs]), torch.stack([label for _, label in pairs]))]
    return secateur.Task(train=batches, validation=batches, test=batches, loss=nn.functional.cross_entropy)


def refused(name: str, extra: str, call: Callable[[], object]) -> str:
    """What is wrong with the answer to a call that needs a missing package; empty if nothing is."""
    try:
        call()
    except InputError as error:
        found = re.fullmatch(FIX, str(error))
        if found is None or found["extra"] != extra:
            return f"{name}: wanted one sentence that installs {extra!r}, got: {error}"
        return ""
    except Exception as error:  # anything else is what this looks for
        return f"{name}: wanted an InputError, got {type(error).__name__}: {error}"
    return f"{name}: ran without its package"


def main() -> int:
    """Prints what went wrong; returns 1 if something did."""
    for package in ("onnx", "openvino", "PIL", "sklearn", "plotly", "torchvision", "transformers", "lightning_fabric"):
        assert find_spec(package) is None, f"{package} is installed here; this is for the core alone"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        core(folder, Path(sys.argv[1]).resolve())
        tried = list(calls(folder))
        wrong = [words for words in (refused(*one) for one in tried) if words]
        for words in ("run slimming --out out", "export resnet56 net56.onnx"):
            done = command(words, folder)
            lines = done.stderr.strip().splitlines()
            if done.returncode != 2 or "pip install" not in (lines or [""])[-1] or "Traceback" in done.stderr:
                wrong.append(f"secateur {words}: {done.returncode}, {done.stderr}")
    print("\n".join(wrong) or f"The core works alone; {len(tried)} calls name the extra that they need.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
