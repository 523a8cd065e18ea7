"""The survey's other methods on CIFAR-10 at real size, and its four categories beside each other at equal size.

    python benchmarks/survey.py [--only METHOD …] [--data ARCHIVE] [--work FOLDER]     goes on where it was stopped
    python benchmarks/survey.py --list                                               what there is
    python benchmarks/survey.py --limit 300                                          a trial: nothing is written

Every method is a built-in recipe on a dense network of benchmarks/dense.py, trained on with the recipe's own penalty
where it has one; the control is the same dense network trained on for as long. ThiNet, network trimming, double pruning
and LeNet have scripts of their own. "Equal size" removes half of the parameters of ResNet-56 by each category: channels
(batch-norm scales), neurons (APoZ), single weights (magnitude) and layers (residual branches by their scales), with as
much training. Energy is estimated (Yang et al. 2017). Writes results/survey.json and the tables of docs/survey.md.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dense import NETWORKS, from_dense, images, parser, trained
from records import into_docs, read, table, write
from torch import nn

from secateur.core.files import write_text
from secateur.train import TrainConfig, evaluate, fit
from secateur.train.precision import fast_bf16

NAME = "survey"
DOCS = Path(__file__).resolve().parents[1] / "docs/survey.md"
PENALTY, EPOCHS = 5, 5
"""Epochs with a penalty, and of fine-tuning."""


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        category: Of the survey's four.
        title: Of the method.
        network: A name of dense.NETWORKS.
        recipe: A built-in name, or the steps between adapting and measuring.
        settings: As of ``--set``.
        penalty: Whether the dense network is trained on with the penalty of the recipe's first step.
        source: What the source reports.
    """

    category: str
    title: str
    network: str
    recipe: str
    settings: tuple[str, ...] = ()
    penalty: bool = False
    source: str = "–"


STEPS = """
name: equal-size
description: Half of the parameters by one of the four categories.
seed: 0
model: {{name: given}}
steps:
- adapt: {{epochs: 0}}
- {step}
- finetune: {{lr: 0.02}}
- measure: {{runtimes: []}}
- report:
"""
ONE_SHOT = {"channel": "prune: {criterion: bn_scale, params: 0.5, scope: global, min_units: 2}",
            "neuron": "prune: {criterion: apoz, params: 0.5, scope: block, calibration: 1024}",
            "weight": "sparsify: {criterion: magnitude, ratio: 0.5, scope: global}",
            "layer": "remove_layers: {criterion: bn_scale, ratio: 0.5}"}  # fmt: skip

SLIMMING = ("steps.adapt.penalty.weight=0.001", "steps.prune.min_units=4")
METHODS: dict[str, Method] = {
    "slimming-vgg16": Method("channel", "Network Slimming, 70 % of the channels", "vgg16", "slimming",
                             (*SLIMMING, "steps.prune.ratio=0.7"), penalty=True,
                             source="VGG-19: 93.77 → 93.78 at 70 %, 20.04 M → 2.25 M (Liu et al.)"),
    "slimming-resnet56": Method("channel", "Network Slimming, 40 % of the channels", "resnet56", "slimming",
                                (*SLIMMING, "steps.prune.ratio=0.4"), penalty=True,
                                source="ResNet-164: 94.75 → 93.81 at 60 % (Liu et al.)"),
    "lasso-vgg16": Method("channel", "LASSO, layer by layer, half of the MACs", "vgg16", "lasso-channel",
                          source="VGG-16, ImageNet: top-5 89.9 at 4×, 88.1 at 5× (He et al.)"),
    "ssl-resnet20": Method("weight", "SSL: groups of weights, and fewer layers", "resnet20", "structured-sparsity",
                           penalty=True, source="ResNet-20 → 18 layers: 91.25 → 92.60 (Wen et al.)"),
    "energy-alexnet": Method("weight", "Energy-aware, 75 % of the weights", "alexnet", "energy-aware",
                             source="AlexNet, ImageNet: energy 3.7× less (Yang et al.)"),
    "energy-googlenet": Method("weight", "Energy-aware, 60 % of the weights", "googlenet", "energy-aware",
                               ("steps.energy_aware.ratio=0.6",),
                               source="GoogLeNet, ImageNet: energy 1.6× less (Yang et al.)"),
    "prm-resnet20": Method("weight", "P-RM: ADMM, purification, unused paths", "resnet20", "purify",
                           ("steps.admm.ignore=[conv1]",), source="ResNet-18, CIFAR-10: 60× (Ma et al.)"),
    "han-alexnet": Method("weight", "Han, three rounds to 89 % of the weights", "alexnet", "weight-pruning",
                          ("steps.control.epochs=0", "steps.sparsify.ratio=0.89"),
                          source="AlexNet, ImageNet: 9×, no loss (Han et al.)"),
    "layers-resnet56": Method("layer", "Layer pruning, half of the residual branches", "resnet56", "layer-pruning",
                              ("steps.adapt.penalty.weight=0.001", "steps.control.epochs=0"), penalty=True,
                              source="YOLOv3: 10 of 23 shortcuts, 0.84 → 0.81 mAP (survey)"),
    **{f"equal-{kind}": Method(kind, "Half of the parameters", "resnet56", kind) for kind in ONE_SHOT},
}  # fmt: skip


def row(name: str, given: Any) -> dict[str, Any]:
    """Runs a method from its dense network, or goes on with it."""
    method, short = METHODS[name], 1 if given.limit else None
    model = trained(method.network, data=given.data, work=given.work, limit=given.limit, epochs=short)
    there = images(given.data, given.limit or NETWORKS[method.network].limit)
    control = copy.deepcopy(model)
    epochs = short or (EPOCHS + PENALTY * method.penalty)
    precision = "bf16" if fast_bf16() and not NETWORKS[method.network].depthwise else "32"
    folder = given.work / f"control-{method.network}-{epochs}"
    fit(control, there, TrainConfig(epochs=epochs, lr=0.02, precision=precision), folder=folder, name="control")
    folder, recipe, settings = given.work / f"survey-{name}", method.recipe, list(method.settings)
    if recipe in ONE_SHOT:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "given.yaml", STEPS.format(step=ONE_SHOT[recipe]))
        recipe = str(folder / "given.yaml")
    settings += [f"steps.finetune.epochs={short or EPOCHS}"]
    settings += [f"steps.adapt.epochs={short or PENALTY}", "steps.adapt.lr=0.02"] if method.penalty else []
    limit = given.limit or NETWORKS[method.network].limit
    run = from_dense(
        recipe, model, folder / "run", settings=settings, adapt=method.penalty, data=given.data, limit=limit
    )
    found = {n["role"]: n["measurement"] for n in run.results["networks"]}
    keys = ("params", "nonzero_params", "macs", "energy_mj")
    stages = [stage for stage in run.results["stages"] if stage["role"] == "pruned"]
    tuned = next((k for k, stage in enumerate(stages) if stage["step"].endswith("finetune")), len(stages))
    return {"method": name, "dense": top(model, given), "control": top(control, given),
            "cut": stages[tuned - 1]["quality"] if tuned else None, "pruned": found["pruned"]["quality"],
            "sizes": {role: {key: found[role].get(key) for key in keys} for role in ("dense", "pruned")},
            "images": len(there.train), "control_epochs": epochs,
            "minutes": round(run.results["duration_s"] / 60, 1)}  # fmt: skip


def top(model: nn.Module, given: Any) -> dict[str, float]:
    """Top-1 and top-5 of the test images."""
    there = images(given.data, given.limit)
    found = evaluate(model, there, there.test)
    return {"top1": found.top1, "top5": found.top5}


def page(rows: list[dict[str, Any]], equal: bool) -> str:
    """One line a method."""
    body = []
    for one in rows:
        method, dense, pruned = METHODS[one["method"]], one["sizes"]["dense"], one["sizes"]["pruned"]
        if one["method"].startswith("equal-") == equal:
            energy = dense["energy_mj"] / pruned["energy_mj"] if pruned["energy_mj"] else None
            body.append([
                method.category, method.title, method.network,
                *(f"{one[key]['top1']:.2f}/{one[key]['top5']:.2f}" for key in ("dense", "control")),
                f"{one['cut']['top1']:.2f}" if one["cut"] else "–",
                f"{one['pruned']['top1']:.2f}/{one['pruned']['top5']:.2f}",
                f"{dense['params'] / pruned['nonzero_params']:.2f}×", f"{dense['macs'] / pruned['macs']:.2f}×",
                f"{energy:.2f}×" if energy else "–", *([] if equal else [method.source]),
            ])  # fmt: skip
    head = ["Category", "Method", "Network", "Dense, top-1/top-5, %", "Trained on as long", "Before fine-tuning",
            "After", "Fewer parameters", "Fewer MACs", "Less energy"]  # fmt: skip
    return table(head if equal else [*head, "Source"], body)


def main() -> None:
    options = parser(__doc__, "source-systems")
    options.add_argument("--only", nargs="+", choices=list(METHODS), default=list(METHODS))
    options.add_argument("--list", action="store_true")
    given = options.parse_args()
    if given.list:
        return print("\n".join(f"{name:20} {one.network:10} {one.title}" for name, one in METHODS.items()))
    rows = [] if given.limit else read(NAME)
    for name in given.only:
        if name not in {one["method"] for one in rows}:
            rows.append(row(name, given))
            if given.limit is None:
                rows.sort(key=lambda one: list(METHODS).index(one["method"]))
                write(NAME, rows, seeds=1, penalty_epochs=PENALTY, finetune_epochs=EPOCHS)
                into_docs(DOCS, "methods", page(rows, False))
                into_docs(DOCS, "equal", page(rows, True))
    print(page(rows, False), page(rows, True), sep="\n\n")


if __name__ == "__main__":
    main()
