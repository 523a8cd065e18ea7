"""What a new user meets in other tools, tried: the documented first cut of ResNet-18, and five mistakes.

    PYTHON benchmarks/peers.py            PYTHON: an environment with torch-pruning, nvidia-modelopt, nncf and secateur

Every trial runs on a fresh torchvision network with random weights and 64×64 images, on one thread, and says what came
back: sizes and shapes, or the error word for word. Seconds are of this machine, beside other work; they say orders of
magnitude. Writes results/peers.json; docs/peers.md reads them, and cites pages for what cannot be tried.
"""

from __future__ import annotations

import importlib.metadata
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from records import write
from torch import Tensor, nn

import secateur
from secateur.models import import_torchvision

X = torch.randn(2, 3, 64, 64)
TOOLS = {"secateur": "secateur", "torch-pruning": "torch-pruning", "modelopt": "nvidia-modelopt", "nncf": "nncf"}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return import_torchvision().models.get_model(name, weights=None).eval()  # type: ignore[no-any-return]


def by_secateur(model: nn.Module, ratio: Any, head: bool = True, layer: str | None = None) -> nn.Module:
    """The head stays by itself."""
    return secateur.prune(model, X, ratio=ratio, ignore=layer or ()).model


def by_torch_pruning(model: nn.Module, ratio: Any, head: bool = True, layer: str | None = None) -> nn.Module:
    """As its README has it; modules to leave alone are given as modules, so no name can be misspelt."""
    import torch_pruning as tp

    ignored = [model.fc] if head else []
    ignored += [model.get_submodule(layer)] if layer else []
    pruner = tp.pruner.BasePruner(
        model, X, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=ratio, ignored_layers=ignored
    )
    pruner.step()
    return model


def by_modelopt(model: nn.Module, ratio: Any, head: bool = True, layer: str | None = None) -> nn.Module:
    """FastNAS as its guide has it, with a score of a few batches and a short search; it takes FLOPs, not a ratio."""
    import modelopt.torch.prune as mtp

    wanted = model(X).detach()

    def score(candidate: nn.Module) -> float:
        with torch.no_grad():
            return -float(((candidate(X) - wanted) ** 2).mean())

    with tempfile.TemporaryDirectory() as folder:
        config = {
            "data_loader": [(X, torch.zeros(2))], "score_func": score, "checkpoint": str(Path(folder) / "search.pth"),
            "max_iter_data_loader": 1, "num_iters": 50,
        }  # fmt: skip
        keep = f"{100 * (1 - ratio):g}%"
        pruned, _ = mtp.prune(
            model=model, mode="fastnas", constraints={"flops": keep}, dummy_input=X[:1], config=config
        )
    return pruned  # type: ignore[no-any-return]


def by_nncf(model: nn.Module, ratio: Any, head: bool = True, layer: str | None = None) -> nn.Module:
    """Zeros inside of the weights: filters are removed by none of its modes any more."""
    import nncf

    ignored = nncf.IgnoredScope(names=[layer]) if layer else None
    mode = nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL
    masked = nncf.prune(model, mode=mode, ratio=ratio, examples_inputs=X, ignored_scope=ignored)
    return nncf.strip(masked, strip_format=nncf.StripFormat.IN_PLACE, example_input=X)  # type: ignore[no-any-return]


CUT: Mapping[str, Callable[..., nn.Module]] = {
    "secateur": by_secateur, "torch-pruning": by_torch_pruning, "modelopt": by_modelopt, "nncf": by_nncf,
}  # fmt: skip
TRIALS: dict[str, tuple[str, dict[str, Any]]] = {
    "ResNet-18, half": ("resnet18", {"ratio": 0.5}),
    "the head was not named": ("resnet18", {"ratio": 0.5, "head": False}),
    "ratio=1.5": ("resnet18", {"ratio": 1.5}),
    "ratio=-0.5": ("resnet18", {"ratio": -0.5}),
    "a layer's name misspelt (layer5)": ("resnet18", {"ratio": 0.5, "layer": "layer5"}),
    "ShuffleNetV2": ("shufflenet_v2_x1_0", {"ratio": 0.5}),
}


def tried(tool: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """One trial: what came back, or the error."""
    if tool == "modelopt" and options.get("layer"):
        return {"error": "not tried: FastNAS takes patterns in a configuration of its own"}
    model = network(name)
    before, start, said = _params(model), perf_counter(), io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small = CUT[tool](model, **options)
            shape = list(_output(small(X)).shape)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500], "seconds": round(perf_counter() - start, 1)}
    return {
        "parameters": [before, _params(small)], "zeros": sum(int((p == 0).sum()) for p in small.parameters()),
        "output": shape, "class kept": type(small).__name__ == type(network(name)).__name__,
        "the given network changed": _params(model) != before, "seconds": round(perf_counter() - start, 1),
    }  # fmt: skip


def _params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _output(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found[0]  # type: ignore[no-any-return]


def main() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    rows = []
    for tool, package in TOOLS.items():
        version = secateur.__version__ if tool == "secateur" else importlib.metadata.version(package)
        for trial, (name, options) in TRIALS.items():
            rows.append({"tool": tool, "version": version, "trial": trial, **tried(tool, name, options)})
            print(rows[-1], flush=True)
            write("peers", rows)


if __name__ == "__main__":
    main()
