"""Every public function answers every wrong argument with one sentence that names it."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import secateur
from hostile_values import WRONG
from onnx_cases import Case, file_of
from secateur import callbacks, cost, criteria, data, exports, loggers, models, recovery, sparsity, timing
from secateur.core import arguments
from secateur.core.errors import InputError, SecateurError
from secateur.train import TrainConfig
from tiny_networks import Mixture
from transformer_cases import causal, tokenizer

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))


class Residual(nn.Module):
    """The smallest network with channels and branches to prune."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 6)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return x


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def timed(name: str) -> timing.Timing:
    return timing.Timing(name, "pytorch", "forward", 1, 1, "eval", 1, (1.0, 2.0))


@cache
def language() -> tuple[Any, Any]:
    """A network of transformers with its tokenizer."""
    return causal(Path("language")), tokenizer("bytes")


NETWORK: dict[str, Any] = {"model": net, "example_inputs": lambda: X}

CASES: dict[str, tuple[Callable[..., Any], dict[str, Callable[[], Any]]]] = {
    "analyse": (secateur.analyse, NETWORK),
    "apply": (secateur.apply, NETWORK | {"plan": lambda: PLAN}),
    "check": (secateur.check, {"what": lambda: "l2"}),
    "use": (secateur.use, {"plugin": lambda: secateur}),
    "compress": (secateur.compress, {"model": net, "path": lambda: "net.sdc"}),
    "count": (secateur.count, NETWORK),
    "cut_shards": (secateur.cut_shards, {"pruned": lambda: PRUNED, "weights": lambda: "dense.safetensors",
                                         "out": lambda: f"cut-{next(NUMBERS)}"}),
    "cut_vocabulary": (secateur.cut_vocabulary, {"model": lambda: language()[0], "tokenizer": lambda: language()[1],
                                                 "texts": lambda: ["the cat"]}),
    "step": (secateur.step, {"kind": lambda: "mine"}),
    "runtime": (secateur.runtime, {"name": lambda: "mine"}),
    "criterion": (secateur.criterion, {"name": lambda: "mine", "paper": lambda: "none"}),
    "decompress": (secateur.decompress, {"path": lambda: "there.sdc"}),
    "export": (secateur.export, NETWORK | {"path": lambda: "net.pt2", "to": lambda: "pt2"}),
    "bundle": (secateur.bundle, {"model": lambda: models.create("vgg_digits").eval(), "data": lambda: DIGITS,
                                 "folder": lambda: f"bundle{next(NUMBERS)}", "images": lambda: 2}),
    "exports.write_c_array": (exports.write_c_array, {"file": lambda: "there.sdc"}),
    "load": (secateur.load, {"folder": lambda: "artifact", "model": net}),
    "from_pretrained": (secateur.from_pretrained, {"source": lambda: "artifact", "model": net}),
    "Pruned.save_pretrained": (lambda **given: PRUNED.save_pretrained(**given),
                               {"folder": lambda: "saved", "graph": lambda: False, "metadata": dict}),
    "Pruned.push_to_hub": (lambda **given: PRUNED.push_to_hub(**given),
                           {"repository": lambda: "me/net", "message": lambda: "m", "metadata": dict,
                            "graph": lambda: False, "private": lambda: None, "token": lambda: None}),
    "loggers.logger": (lambda **given: loggers.logger(**given), {"name": lambda: "mine"}),
    "loggers.log_epochs": (lambda **given: loggers.log_epochs(**given).__enter__(),
                           {"folder": lambda: "logged", "log": lambda: [], "name": lambda: "net", "settings": dict}),
    "callbacks.gradually": (callbacks.gradually,
                            {"after": lambda: [1], "schedule": lambda: "cubic", "ratio": lambda: 0.5}),
    "callbacks.cut_in_place": (lambda **given: callbacks.cut_in_place(given.pop("network"), **given),
                               {"network": net, "example_inputs": lambda: X, "optimizers": list, "aside": list,
                                "ratio": lambda: 0.5}),
    "prune": (secateur.prune, NETWORK | {"ratio": lambda: 0.5}),
    "prune_to": (secateur.prune_to, NETWORK | {"target": lambda: secateur.Target(metric=50), "data": lambda: TASK}),
    "purify": (secateur.purify, NETWORK),
    "recover": (recovery.recover, {"pruned": lambda: PRUNED, "calibration": lambda: X, "dense": net}),
    "closest": (recovery.closest, {"candidates": lambda: [PRUNED], "data": lambda: X, "dense": net}),
    "tune": (recovery.tune, {"pruned": lambda: PRUNED, "data": lambda: torch.cat([X] * 8), "dense": net}),
    "removable": (secateur.removable, NETWORK | {"model": Residual}),
    "remove_experts": (
        secateur.remove_experts,
        {"model": lambda: Mixture(inputs=5), "example_inputs": lambda: torch.ones(2, 5), "keep": lambda: 3},
    ),
    "remove_layers": (secateur.remove_layers, NETWORK | {"model": Residual, "count": lambda: 1}),
    "Pruned.save": (lambda **given: PRUNED.save(**given), {"folder": lambda: "saved"}),
    "Plan": (secateur.Plan, {"keep": dict, "dense_shapes": dict}),
    "Plan.from_dict": (secateur.Plan.from_dict, {"data": lambda: PLAN.to_dict()}),
    "Plan.from_json": (secateur.Plan.from_json, {"text": lambda: PLAN.to_json()}),
    "Target": (secateur.Target, {"macs": lambda: 0.5}),
    "inspect": (secateur.inspect, NETWORK),
    "sensitivity": (secateur.sensitivity, NETWORK | {"ratios": lambda: (0.5,)}),
    "Sensitivity.ratios": (lambda **given: CURVES.ratios(**({"macs": 0.9} | given if "round_to" in given else given)),
                           {"macs": lambda: 0.9}),
    "Sensitivity.save": (lambda **given: CURVES.save(**given), {"path": lambda: "curves.json"}),
    "Sensitivity.read": (secateur.Sensitivity.read, {"path": lambda: "curves.json"}),
    "evaluate": (secateur.evaluate, {"model": net, "task": lambda: TASK}),
    "fit": (secateur.fit, {"model": net, "task": lambda: TASK, "config": lambda: TrainConfig(epochs=0)}),
    "Metric": (secateur.Metric, {"better": lambda: "lower"}),
    "Task": (secateur.Task, {"train": lambda: [(X, X)]}),
    "sparsify": (sparsity.sparsify, {"model": net, "ratio": lambda: 0.5}),
    "sparsity.weight_scores": (sparsity.weight_scores, {"criterion": lambda: "magnitude", "model": net}),
    "sparsity.convert_sparse": (sparsity.convert_sparse, NETWORK | {"budget_s": lambda: 1e-3}),
    "sparsity.load_converted": (sparsity.load_converted, {"path": lambda: "nope.safetensors", "model": net}),
    "sparsity.masks_of": (sparsity.masks_of, {"model": net}),
    "sparsity.remove_zeros": (sparsity.remove_zeros, NETWORK),
    "sparsity.rewind": (sparsity.rewind, {"model": net, "early": lambda: net().state_dict()}),
    "sparsity.fresh": (sparsity.fresh, {"model": net, "seed": lambda: 0}),
    "sparsity.share_weights": (sparsity.share_weights, {"model": net}),
    "sparsity.LC": (sparsity.LC, {}),
    "sparsity.ADMM": (sparsity.ADMM, {"filters": lambda: 0.5}),
    "sparsity.energy_aware": (sparsity.energy_aware, NETWORK | {"ratio": lambda: 0.5, "data": lambda: [X]}),
    "sparsity.BatchNormL1": (sparsity.BatchNormL1, {}),
    "sparsity.GroupLasso": (sparsity.GroupLasso, {}),
    "sparsity.HoldMasks": (sparsity.HoldMasks, {"masks": dict}),
    "sparsity.HoldShared": (sparsity.HoldShared, {}),
    "data.load": (data.load, {"name_or_path": lambda: "digits", "limit": lambda: 20}),
    "data.scale_of": (data.scale_of, {"split": lambda: SPLIT}),
    "data.statistics": (data.statistics, {"split": lambda: SPLIT}),
    "data.Split": (data.Split, {"images": lambda: SPLIT.images, "labels": lambda: SPLIT.labels}),
    "models.TorchvisionDetector": (
        models.TorchvisionDetector,
        {"detector": lambda: models.create("torchvision:ssdlite320_mobilenet_v3_large").detector},
    ),
    "models.create": (models.create, {"name": lambda: "lenet5"}),
    "models.load_weights": (models.load_weights, {"model": net, "weights": lambda: net().state_dict()}),
    "models.normalisation": (models.normalisation, {"name": lambda: "resnet20"}),
    "models.read_header": (models.read_header, {"path": lambda: "yolo.weights"}),
    "models.write_darknet": (
        models.write_darknet, {"model": lambda: models.create("yolov3_tiny"), "cfg": lambda: "a.cfg"}
    ),
    "models.read_onnx": (models.read_onnx, {"path": lambda: file_of(Case("Relu", [(1, 4)]), Path())}),
    "models.read_weights": (models.read_weights, {"path": lambda: "artifact/model.safetensors"}),
    "models.replace_head": (models.replace_head, {"model": net, "classes": lambda: 3}),
    "cost.compression_ratio": (cost.compression_ratio, {"dense_params": lambda: 2, "pruned_params": lambda: 1}),
    "cost.mac_reduction": (cost.mac_reduction, {"dense_macs": lambda: 2, "pruned_macs": lambda: 1}),
    "cost.netscore": (cost.netscore, {"top1_percent": lambda: 2, "params": lambda: 1, "macs": lambda: 1}),
    "cost.nonzero_params": (cost.nonzero_params, {"model": net}),
    "cost.energy": (cost.energy, NETWORK),
    "timing.latency": (
        timing.latency,
        {"models": lambda: {"a": net()}, "inputs": lambda: X, "batches": lambda: (1,), "rounds": lambda: 1,
         "budget_s": lambda: 1e-3, "backward": lambda: False},
    ),
    "timing.Entrant": (timing.Entrant, {"name": lambda: "a", "network": net, "runtime": lambda: "pytorch"}),
    "timing.measurement": (
        timing.measurement,
        {"model": net, "inputs": lambda: X, "counts": lambda: PRUNED.before},
    ),
    "cost.peak_memory": (cost.peak_memory, {"model": net, "inputs": lambda: X}),
    "cost.size_on_disk": (cost.size_on_disk, {"target": net}),
    "timing.speedups": (timing.speedups, {"timings": lambda: [timed("dense"), timed("small")]}),
    "timing.spread": (timing.spread, {"samples": lambda: [1.0, 2.0]}),
    "criteria.needed_data": (criteria.needed_data, {"criterion": lambda: criteria.CRITERIA["l1"]}),
}  # fmt: skip

SAME = {"recovery.purify": "purify", "recovery.prune_to": "prune_to", "recovery.recover": "recover",
        "recovery.tune": "tune",
        "recovery.closest": "closest",
        "sparsity.compress": "compress", "sparsity.decompress": "decompress", "criteria.criterion": "criterion",
        "exports.export": "export", "exports.bundle": "bundle",
        "cost.count": "count", "sparsity.sparsify": "sparsify"}  # fmt: skip

RECORDS = {"BudgetError", "PlanError", "SecateurError", "TraceError", "VerificationError", "Counts", "Pruned",
           "Verification", "Compressed", "Converted", "ConvertedLayer", "LayerSparsity", "Penalty", "Sparse",
           "Sensitivity", "AnySplit", "DataEntry", "DataSet", "DarknetHeader", "StreamedSplit", "ModelEntry", "Energy",
           "Machine",
           "Measurement", "import_torchvision",
           "Speedup", "Spread", "Timing", "Criterion", "GroupView", "NotApplicable", "ExportCheck",
           "machine", "operator", "silent", "BundleCheck",
           "run", "resume", "compare", "sweep", "search", "TrainConfig"}  # fmt: skip
"""Errors, results and entries of registries: Secateur makes them, users read them (and a function of no
argument, and a decorator whose names the registry checks)."""

WORDS = {"name_or_path": "data set|file or folder|images", "folder": "artifact", "path": "file|writ|read|does not fit",
         "weights": "state dict|network|file", "model": "network|pruned|does not run|plan|layer", "name": "model",
         "early": "weights", "keep": "plan", "dense_shapes": "plan", "removed": "branch", "text": "plan",
         "data": "plan", "target": "size of", "example_inputs": "inputs|does not (run|fit)", "to": "format",
         "over": "family", "backend": "back end", "calibration": "data", "dense": "does not run",
         "normalise": "normalisation",
         "plugin": "plug-in", "what": "plug-in", "source": "folder|repository", "repository": "Hub",
         "revision": "commit", "log": "logger", "metadata": "card",
         "network": "network|pruned|does not run"}  # fmt: skip
"""What messages call an argument where they do not use its own name."""

TASK = secateur.Task(train=[(X, X)], test=[(X, X)], loss=lambda output, _: output.mean())
PRUNED = secateur.prune(net(), X, ratio=0.5)
PLAN = PRUNED.plan
CURVES = secateur.sensitivity(net(), X, ratios=(0.5,))
NUMBERS = itertools.count()
DIGITS = data.load("digits", limit=20)
SPLIT = data.Split(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1, 1]))


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an artifact and a compressed network in it, to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.HfApi", MagicMock)
    PRUNED.save("artifact")
    save_file(net().state_dict(), "dense.safetensors")
    secateur.compress(net(), "there.sdc")
    Path("yolo.weights").write_bytes(models.DarknetHeader().bytes)
    (tmp_path / "artifact/model.pt2").touch()
    return tmp_path


def parameters(function: Callable[..., Any], valid: Iterable[str]) -> list[str]:
    found = inspect.signature(function).parameters.values()
    plain = [p.name for p in found if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return plain or list(valid)


def named(parameter: str, message: str) -> bool:
    words = "|".join(filter(None, (re.escape(parameter), re.escape(parameter.replace("_", " ")), WORDS.get(parameter))))
    return re.search(words, message, re.IGNORECASE) is not None


@pytest.mark.parametrize("case", CASES)
def test_wrong_arguments_are_named_or_taken(case: str, there: Path) -> None:
    if case == "cut_vocabulary":
        pytest.importorskip("transformers")
    function, valid = CASES[case]
    faults = []
    names = ["folder", "graph"] if case == "Pruned.save" else parameters(function, valid)
    for parameter in names:
        for label, wrong in WRONG.items():
            given = {name: make() for name, make in valid.items()} | {parameter: wrong()}
            try:
                function(**given)
            except SecateurError as error:
                if not named(parameter, str(error)):
                    faults.append(f"{parameter}={label}: not named in {error}")
                if "\n" in str(error):
                    faults.append(f"{parameter}={label}: several lines: {error}")
            except Exception as error:
                faults.append(f"{parameter}={label}: {type(error).__name__}: {error}")
            finally:
                if hasattr(given[parameter], "close"):
                    given[parameter].close()
    assert not faults, "\n".join(faults)


def test_no_public_function_is_left_out() -> None:
    for where in ("", "sparsity", "recovery", "data", "models", "cost", "timing", "criteria", "exports"):
        module = importlib.import_module(f"secateur.{where}".rstrip("."))
        for name in module.__all__:
            path = f"{where}.{name}".lstrip(".")
            if callable(getattr(module, name)) and name not in RECORDS and not hasattr(getattr(module, name), "_items"):
                assert SAME.get(path, path) in CASES, path


def test_the_values_are_given_on_as_plain_numbers() -> None:
    pruned = secateur.prune(net(), X, ratio=np.float32(0.5), round_to=np.int64(2), seed=torch.tensor(3))  # type: ignore[arg-type]
    assert pruned.plan.provenance["ratio"] == 0.5
    assert [type(pruned.plan.provenance[key]) for key in ("ratio", "round_to", "seed")] == [float, int, int]


def test_iterators_are_asked_for_their_elements_once() -> None:
    asked = []

    def names() -> Iterator[str]:
        for name in ("0",):
            asked.append(name)
            yield name

    assert secateur.prune(net(), X, ratio=0.5, only=names()).after.params < 58
    assert asked == ["0"]
    with pytest.raises(
        InputError, match=r"prune\(ignore=…\): the elements of ignore are a string or a torch.nn.Module each; got 3"
    ):
        secateur.prune(net(), X, ratio=0.5, ignore=iter(["0", 3]))  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("small", r"secateur\.load"),
        (Path("net.onnx"), r"secateur\.models\.read_onnx"),
        (net().state_dict(), "load_state_dict"),
        ([net()], "Sequential"),
        (nn.Linear, r"an instance, Linear\(…\)"),
        (torch.export.export(net(), (X,)), r"program\.module\(\)"),
        (torch.jit.trace(net(), X), "original module"),
        (lambda x: x, "whose forward it is"),
    ],
)
def test_what_stands_for_a_network_is_told_what_to_do(wrong: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        secateur.prune(wrong, X, ratio=0.5)


def test_a_ratio_per_layer_where_there_is_one_and_a_misspelt_argument_are_answered() -> None:
    with pytest.raises(InputError, match=r"remove_layers\(ratio=…\): ratio is a .*number.*got \{'0': 0.25\} \(dict\)"):
        secateur.remove_layers(Residual(), X, ratio={"0": 0.25})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"prune\(ratio=…\): .* a dict from strings to finite numbers .*got"):
        secateur.prune(net(), X, ratio={"0": "half"})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="Did you mean 'granularity'"):
        secateur.prune(net(), X, ratio=0.5, granlarity="whole")  # type: ignore[call-arg]
    with pytest.raises(InputError, match=r"example_inputs is missing"):
        secateur.prune(net())  # type: ignore[call-arg]


def test_annotations_are_kept_for_whoever_reads_them() -> None:
    assert "ratio" in inspect.signature(secateur.prune).parameters
    assert secateur.prune.__module__ == "secateur.cut.prune"
    assert arguments.checked(net).__name__ == "net"
