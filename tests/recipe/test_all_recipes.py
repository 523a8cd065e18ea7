"""Every built-in recipe, end to end at toy size on digits: what it leaves is what its text and its paper say."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

pytest.importorskip("jinja2")

from secateur.core.errors import InputError
from secateur.core.yamltree import YamlTree
from secateur.recipe import RunResult, builtin_recipes, load_recipe, override, run, shortcuts
from secateur.recipe.prepare import NOTHING, make_model
from secateur.recipe.schema import Recipe
from secateur.sparsity.masks import load_masks

TOY = (
    "data.limit=96",
    "steps.measure.runtimes=[]",
    "steps.compress.epochs=1",
    "steps.scratch.epochs=1",
)


OWN = {
    "network-trimming": ["steps.iterate.rounds=2"],
    "double-pruning": ["steps.iterate.rounds=2"],
    "prune-every-epoch": ["steps.iterate.rounds=3"],
    "structured-sparsity": ["steps.adapt.epochs=40", "steps.adapt.batch_size=32"],
    "yolo-layers-channels": ["data.limit=8"],
}


def toy(name: str) -> Recipe:
    """The recipe with a hundred images, an epoch per training and few rounds."""

    def edit(tree: YamlTree) -> YamlTree:
        tree = shortcuts(tree, epochs=1)
        for setting in (*TOY, *OWN.get(name, ())):
            with contextlib.suppress(InputError):  # a step that this recipe does not have
                tree = override(tree, [setting])
        return tree

    return load_recipe(name, edit=edit)


class Run:
    """A finished run, and what the expectations ask of it."""

    def __init__(self, result: RunResult) -> None:
        self.result, self.folder = result, result.folder
        self.dense: dict[str, Tensor] = dict(result.state.models["dense"].state_dict())
        self.pruned = result.state.models["pruned"]

    def parts(self) -> tuple[Any, ...]:
        """The plans of the cuts, each in the indices of the network before it."""
        plan = self.result.state.pruned.plan
        return plan.parts or (plan,)

    def widths(self) -> dict[str, int]:
        """Output channels of every convolution that is left."""
        weights = {name: p for name, p in self.pruned.named_parameters() if p.ndim == 4}
        return {name.removesuffix(".weight"): len(p) for name, p in weights.items()}

    def before(self, step: str) -> dict[str, Tensor]:
        """Weights of the pruned network that a training step left."""
        return load_file(self.folder / "steps" / step / "model.safetensors")

    def zeros(self) -> dict[str, float]:
        """Share of zeros in every weight of two or more dimensions."""
        weights = {n: p for n, p in self.pruned.named_parameters() if p.ndim > 1}
        return {name: float((p == 0).float().mean()) for name, p in weights.items()}


def lowest_gone(scores: Tensor, gone: int) -> tuple[int, ...]:
    """Indices that stay when the ``gone`` lowest scores go, ties in order."""
    out = set(sorted(range(len(scores)), key=lambda i: (float(scores[i]), i))[:gone])
    return tuple(i for i in range(len(scores)) if i not in out)


def inner(run: Run) -> list[str]:
    """Blocks of the residual network whose inner channels are a group of their own."""
    return [
        name.removesuffix(".conv1.weight") for name in run.dense if name.endswith(".conv1.weight") and "." in name[:-13]
    ]


def transfer_channel(run: Run) -> None:
    """Every block, and the whole, lost a tenth of its parameters within one channel, by the L2 norm of its channels."""
    (plan,) = run.parts()
    names = [name for name, _ in run.pruned.named_parameters()]
    left = {name: p.numel() for name, p in run.pruned.named_parameters()}
    largest = 0
    for block in inner(run):
        filters, after = run.dense[f"{block}.conv1.weight"], run.dense[f"{block}.conv2.weight"]
        scores = torch.stack([filters[c].square().sum() + after[:, c].square().sum() for c in range(len(filters))])
        scores += run.dense[f"{block}.bn1.weight"].square() + run.dense[f"{block}.bn1.bias"].square()
        kept = plan.keep[f"{block}.conv1.weight"][0]
        assert kept == lowest_gone(scores, len(filters) - len(kept)), block
        own = [name for name in names if name.startswith(f"{block}.")]
        channel = filters[0].numel() + after[:, 0].numel() + 2
        total = sum(run.dense[name].numel() for name in own)
        assert abs(total - sum(left[name] for name in own) - 0.1 * total) <= channel, block
        largest = max(largest, channel)
    whole = sum(run.dense[name].numel() for name in names)
    assert abs(whole - sum(left.values()) - 0.1 * whole) <= largest
    assert set(plan.keep) == {f"{b}.{n}" for b in inner(run) for n in BLOCK}, "the residual stream stays whole"
    assert run.result.results["verification"]["max_relative_error"] <= 1e-5
    assert (run.folder / "model.onnx").is_file()


BLOCK = ("conv1.weight", "conv2.weight", *(f"bn1.{n}" for n in ("weight", "bias", "running_mean", "running_var")))


def by_scale(run: Run, plan: Any, share: float) -> None:
    """Of the whole network so many channels went, in each block those with the smallest |γ|."""
    gone = 64 - len(plan.keep.get("linear.weight", {}).get(1, range(64)))  # of the residual stream
    total = 64
    for block in inner(run):
        scales = run.dense[f"{block}.bn1.weight"].abs()
        kept = plan.keep.get(f"{block}.conv1.weight", {}).get(0, tuple(range(len(scales))))
        assert kept == lowest_gone(scales, len(scales) - len(kept)), block
        gone, total = gone + len(scales) - len(kept), total + len(scales)
    assert gone == round(share * total)


def quickstart(run: Run) -> None:
    networks = {n["role"]: n["measurement"] for n in run.result.results["networks"]}
    assert networks["pruned"]["macs"] / networks["dense"]["macs"] == pytest.approx(0.25, abs=0.01)
    assert all(width % 8 == 0 for width in run.widths().values())
    labels = [point["label"] for point in run.result.results["points"]]
    assert labels == ["cut", "repaired"]
    stages = {stage["step"]: stage["quality"] for stage in run.result.results["stages"] if stage["role"] == "pruned"}
    assert stages["04-recover"]["loss"] < stages["02-prune"]["loss"], "computed back, without labels"


def half_the_time(run: Run) -> None:
    cut = run.result.state.pruned
    assert any("measured in onnxruntime" in note for note in cut.notes), "the time was measured, not counted"
    networks = {n["role"]: n["measurement"] for n in run.result.results["networks"]}
    assert networks["pruned"]["macs"] < 0.8 * networks["dense"]["macs"]
    assert [point["label"] for point in run.result.results["points"]] == ["cut", "repaired"]


def slimming(run: Run) -> None:
    (plan,) = run.parts()
    by_scale(run, plan, 0.5)
    assert min(run.widths().values()) >= 2, "no layer empties"
    assert "scales" in run.result.results, "the report shows how the scales moved"


def double_pruning(run: Run) -> None:
    by_scale(run, run.parts()[0], 0.25)
    total = sum(p.numel() for p in run.pruned.parameters() if p.ndim > 1)
    zero = sum(int((p == 0).sum()) for p in run.pruned.parameters() if p.ndim > 1)
    assert zero == pytest.approx(0.8 * total, abs=1)
    points = run.result.results["points"]
    assert [p["params"] >= p["nonzero_params"] for p in points] == [True] * len(points)
    left = [p["nonzero_params"] for p in points]
    assert left == sorted(left, reverse=True)
    assert len(points) == 5, "dense, two rounds of channels, two of weights"
    assert all(p["netscore"] is not None for p in points)


def weight_pruning(run: Run) -> None:
    """Nine of ten weights of every layer are zero, and those were the smallest when they went."""
    for name, share in run.zeros().items():
        size = run.dense[name].numel()
        assert share * size == pytest.approx(0.9 * size, abs=1), name
        last = run.before("06-finetune")[name].abs().flatten()
        kept = tuple(torch.nonzero(run.pruned.get_parameter(name).flatten() != 0).flatten().tolist())
        assert set(kept) <= set(lowest_gone(last, round(0.9 * size))), name


def deep_compression(run: Run) -> None:
    for name, share in run.zeros().items():
        assert share == pytest.approx(0.85, abs=1 / run.dense[name].numel() + 1e-6), name
        values = set(run.pruned.get_parameter(name).flatten().tolist())
        assert len(values) <= 2**5 + 1, "32 shared values and zero"
    dense_bytes = sum(4 * p.numel() for p in run.dense.values())
    assert (run.folder / "model.sdc").stat().st_size < dense_bytes / 8


def network_trimming(run: Run) -> None:
    """Neurons whose APoZ is above their layer's mean by more than one deviation went; those of round one by hand."""
    result, shares = run.result, dict[str, Tensor]()
    dense = result.state.models["dense"].eval()

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            shares[name] = (output != 0).double().mean((0, 2, 3))

        return hook

    hooks = [m.register_forward_hook(note(n)) for n, m in dense.named_modules() if isinstance(m, nn.ReLU)]
    with torch.no_grad():
        dense(result.task.sample(result.task.samples("train")))
    for handle in hooks:
        handle.remove()
    convolutions = [n for n, m in dense.named_modules() if isinstance(m, nn.Conv2d)]
    for convolution, share in zip(convolutions, shares.values(), strict=True):
        kept = run.parts()[0].keep[f"{convolution}.weight"][0]
        zeros = 1 - share
        assert kept == tuple(torch.nonzero(zeros <= zeros.mean() + zeros.std(correction=0)).flatten().tolist())
    rounds = [point["widths"] for point in run.result.results["points"] if point["widths"]]
    assert list(rounds[-1].values())[: len(convolutions)] == list(run.widths().values()), "widths, round by round"
    assert len(rounds) == 2
    assert [part.provenance["criterion"] for part in run.parts()] == ["apoz", "apoz"]


def saliency_then_similarity(run: Run) -> None:
    assert [part.provenance["criterion"] for part in run.parts()] == ["taylor"] * 2 + ["map_similarity"] * 2
    dense, pruned = (network["measurement"]["macs"] for network in run.result.results["networks"])
    assert pruned == pytest.approx(0.5 * dense, rel=0.01)
    assert all(len(part.keep) % len(BLOCK) == 0 and "linear.weight" not in part.keep for part in run.parts())


def energy_aware(run: Run) -> None:
    """Each layer lost 0.75 of its weights, in the order of the energy; the report has the energy before and after."""
    from secateur.cost.energy import energy

    for name, share in run.zeros().items():
        size = run.dense[name].numel()
        assert share * size == pytest.approx(int(0.75 * size + 0.5), abs=0.5), name
    dense = energy(run.result.state.models["dense"], torch.zeros(2, 1, 8, 8))
    takes = {layer.name: layer.total for layer in dense.layers}
    (order,) = [note for note in run.result.results["notes"] if "order of their energy" in note]
    names = order.partition(": ")[2].rstrip(".").split(", ")
    assert sorted(names) == sorted(name.removesuffix(".weight") for name in run.zeros())
    assert [takes[name] for name in names] == sorted(takes.values(), reverse=True)
    shown = {n["role"]: n["measurement"]["energy_mj"] for n in run.result.results["networks"]}
    assert shown["dense"] == pytest.approx(dense.estimated_mj)
    assert shown["pruned"] < 0.9 * shown["dense"]
    assert any(f"Energy of one sample by the model (nothing is measured): {dense.total:,.0f}" in note
               for note in run.result.results["notes"])  # fmt: skip
    restored, before = load_file(run.folder / "steps/02-energy_aware/model.safetensors"), run.dense
    kept = restored["linear.weight"] != 0
    assert not torch.allclose(restored["linear.weight"][kept], before["linear.weight"][kept], rtol=1e-3), "refitted"


def layer_pruning(run: Run) -> None:
    """Half of the branches beside a plain skip went, those whose last batch norm has the smallest mean |γ|."""
    (plan,) = run.parts()
    plain = [block for block in inner(run) if block not in ("layer2.0", "layer3.0")]
    scales = {block: float(run.dense[f"{block}.bn2.weight"].abs().mean()) for block in plain}
    assert set(plan.removed) == set(sorted(scales, key=lambda block: scales[block])[: len(plain) // 2])
    for name in plan.removed:
        assert not any(weight.startswith(name) for weight in dict(run.pruned.named_parameters())), name


def structured_sparsity(run: Run) -> None:
    """Branches whose weights the penalty pushed below 1e-4 went whole; of the others, channels without weights."""
    branches, channels = run.parts()
    small = {name: p.abs() < 1e-4 for name, p in run.dense.items() if p.ndim == 4}
    plain = [block for block in inner(run) if block not in ("layer2.0", "layer3.0")]
    empty = [b for b in plain if small[f"{b}.conv1.weight"].all() or small[f"{b}.conv2.weight"].all()]
    assert set(branches.removed) <= set(empty)
    assert len(branches.removed) == min(len(empty), len(plain) - 1) > 0, "one stays, if all are empty"
    stream = channels.keep.get("layer3.0.conv2.weight", {}).get(0, tuple(range(64)))
    block = "layer3.1"  # its skip is plain and it has most to lose
    kept = channels.keep[f"{block}.conv1.weight"][0]
    into = small[f"{block}.conv1.weight"].all(3).all(2).all(1)
    out = small[f"{block}.conv2.weight"][list(stream)].all(3).all(2).all(0)
    assert 0 < len(kept) < 64
    assert all(bool(into[c] | out[c]) for c in range(64) if c not in kept), "what went had no weights"


def thinet(run: Run) -> None:
    """Half of all convolutions but the last stage's, by the greedy choice, and the same architecture from scratch."""
    greedy(run, [8, 8, 16, 16, 64, 64])


def thinet_tiny(run: Run) -> None:
    """Three quarters of every convolution, half of the last one."""
    greedy(run, [4, 4, 8, 8, 16, 32])


def greedy(run: Run, widths: list[int]) -> None:
    """One layer after the other; only the next one got factors, before its training."""
    convolutions = [f"features.{i}" for i in (0, 3, 7, 10, 14, 17)]
    cut = [name for name, width, dense in zip(convolutions, widths, (16, 16, 32, 32, 64, 64), strict=True)
           if width < dense]  # fmt: skip
    assert [part.provenance["criterion"] for part in run.parts()] == ["thinet"] * len(cut)
    assert [next(iter(part.keep)) for part in run.parts()] == [f"{name}.weight" for name in cut]
    assert list(run.widths().values()) == widths
    trained = run.before("04-finetune")
    fitted = run.before("06-recover")
    after = [f"features.{i}" for i in range(10, 20)]  # features.3 was cut, features.7 is next
    same = [n for n in fitted if n.rpartition(".")[0] in after]
    assert same
    assert all(torch.equal(fitted[n], trained[n]) for n in same)
    assert not torch.equal(fitted["features.7.weight"], trained["features.7.weight"][:, run.parts()[1].keep[
        "features.7.weight"][1]])  # fmt: skip
    by = {network["role"]: network["measurement"] for network in run.result.results["networks"]}
    assert by["scratch"]["params"] == by["pruned"]["params"] < by["dense"]["params"]
    scratch, pruned = (run.result.state.models[role].state_dict() for role in ("scratch", "pruned"))
    assert not any(torch.equal(scratch[name], pruned[name]) for name in scratch if name.endswith("weight"))


def lasso_channel(run: Run) -> None:
    """From shallow to deep, each layer by itself, and the layer behind it alone refitted."""
    assert [part.provenance["criterion"] for part in run.parts()] == ["lasso"] * len(inner(run))
    assert [next(iter(part.keep)) for part in run.parts()] == [f"{block}.conv1.weight" for block in inner(run)]
    first, then = run.before("03-recover"), run.before("05-recover")
    one, two = inner(run)[:2]
    assert not any(torch.equal(first[f"{one}.{n}.weight"], run.dense[f"{one}.{n}.weight"]) for n in ("conv2",))
    assert all(torch.equal(first[n], then[n]) for n in first if n.startswith(f"{one}."))
    assert all(torch.equal(first[n], run.dense[n]) for n in first if n.startswith(f"{two}."))
    dense, pruned = (network["measurement"]["macs"] for network in run.result.results["networks"])
    assert pruned == pytest.approx(0.5 * dense, rel=0.01)
    kept = {name for plan in run.parts() for name in plan.keep}
    assert all(name.split(".")[-2] in ("conv1", "bn1", "conv2") for name in kept), "streams stay whole"


def purify(run: Run) -> None:
    """Filters and columns of zeros, masks that hold, and a network without channels that lead nowhere."""
    trained, masked = (load_file(run.folder / f"steps/{s}/model.safetensors") for s in ("02-admm", "03-finetune"))
    for name in (n for n, p in trained.items() if p.ndim == 4 and n != "features.0.weight"):
        for weights in (trained, masked):
            matrix = weights[name].flatten(1) != 0
            rows, columns = matrix.shape
            assert int(matrix.any(1).sum()) == rows - rows // 4, name
            assert int(matrix.any(0).sum()) == columns - columns // 2, name
    history = json.loads((run.folder / "steps/02-admm/result.json").read_text())["result"]["epochs"]
    assert {"admm_rho", "admm_distance", "admm_moved"} <= set(history[-1]["extra"])
    assert sum(p.numel() for p in run.pruned.parameters()) < sum(
        p.numel() for n, p in run.dense.items() if "running" not in n
    )
    weights = [p for p in run.pruned.parameters() if p.ndim > 1]
    for before, after in itertools.pairwise(weights):
        assert after.shape[1] == before.shape[0]
        assert after.movedim(1, 0).flatten(1).any(1).all(), "every channel that is left is used"


def learning_compression(run: Run) -> None:
    """Nine of ten weights of the whole network are zero, as LC left them, with μ up to 1."""
    assert sum(share * run.dense[n].numel() for n, share in run.zeros().items()) == pytest.approx(
        0.9 * sum(run.dense[n].numel() for n in run.zeros()), abs=1
    )
    left = load_file(run.folder / "steps/02-lc/model.safetensors")
    assert all(torch.equal(left[n] != 0, run.pruned.get_parameter(n) != 0) for n in run.zeros())
    history = json.loads((run.folder / "steps/02-lc/result.json").read_text())["result"]["epochs"]
    assert history[-1]["extra"]["lc_mu"] == 1


def prune_every_epoch(run: Run) -> None:
    """After an epoch the weights went that had moved least since the run began; in the end the smallest."""
    start = make_model(run.result.recipe, run.result.task, NOTHING).state_dict()
    moved = {n: (p - start[n]).abs().flatten() for n, p in run.dense.items() if p.ndim > 1}
    masks = load_masks(run.folder / "steps/02-sparsify/masks.safetensors")
    every, kept = torch.cat([*moved.values()]), torch.cat([masks[n].flatten() for n in moved])
    assert float(every[kept].min()) >= float(every[~kept].max()) > 0
    steps = sorted(p.name for p in (run.folder / "steps").iterdir())
    shares = [
        json.loads((run.folder / "steps" / name / "result.json").read_text())["result"]["summary"]["sparsity"]
        for name in steps
        if name.endswith("-sparsify")
    ]
    assert shares == pytest.approx([0.7 / 3, 1.4 / 3, 0.7, 0.8], abs=1e-4)
    assert [s.partition("-")[2] for s in steps[:4]] == ["adapt", "sparsify", "finetune", "sparsify"]
    assert "smallest change" in "".join(str(step.config) for step in run.result.recipe.steps)


def yolo_layers_channels(run: Run) -> None:
    branches, channels = run.parts()[0], run.parts()[-1]
    assert len(branches.removed) == 6, "a quarter of Darknet-53's 23, rounded"
    assert channels.keep
    assert not channels.removed
    params = {role: sum(p.numel() for p in model.parameters()) for role, model in run.result.state.models.items()}
    assert params["pruned"] == pytest.approx(0.2 * params["dense"], rel=0.01)
    quality = {n["role"]: n["measurement"]["quality"] for n in run.result.results["networks"]}
    assert set(quality["pruned"]) == {"map50", "map", "loss"}


EXPECTED: dict[str, Callable[[Run], None]] = {
    "quickstart": quickstart,
    "half-the-time": half_the_time,
    "transfer-channel": transfer_channel,
    "slimming": slimming,
    "double-pruning": double_pruning,
    "weight-pruning": weight_pruning,
    "deep-compression": deep_compression,
    "network-trimming": network_trimming,
    "saliency-then-similarity": saliency_then_similarity,
    "energy-aware": energy_aware,
    "layer-pruning": layer_pruning,
    "thinet": thinet,
    "thinet-gap": thinet,
    "thinet-tiny": thinet_tiny,
    "yolo-layers-channels": yolo_layers_channels,
    "lasso-channel": lasso_channel,
    "purify": purify,
    "learning-compression": learning_compression,
    "prune-every-epoch": prune_every_epoch,
    "structured-sparsity": structured_sparsity,
}


def test_every_recipe_has_an_expectation() -> None:
    assert {entry.name for entry in builtin_recipes()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_recipe(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    if name == "yolo-layers-channels":
        pytest.importorskip("faster_coco_eval")
    result = run(toy(name), tmp_path / "run", progress=False)
    assert [n["role"] for n in result.results["networks"]][::2][0] == "dense"
    assert json.loads((tmp_path / "run" / "results.json").read_text())["recipe"] == name
    assert (tmp_path / "run" / "report.html").is_file()
    EXPECTED[name](Run(result))
