"""Recipes that remove single weights: the masks hold, a stopped run goes on the same, the file has its real size."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, UnknownNameError
from secateur.core.files import read_json
from secateur.models import create
from secateur.recipe import Event, load_recipe, override, reopen, resume, run
from secateur.recipe.prepare import make_model
from secateur.recipe.sameness import differences, numbers
from secateur.recipe.schema import Recipe
from secateur.recipe.steps.base import derive_seed
from secateur.sparsity import masks_of, weight_scores

LENET = ("model.name=lenet300", "model.options={inputs: 64}")
TOY = ("data.limit=96", "steps.finetune.epochs=1", "steps.adapt.epochs=1")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def recipe(name: str, *sets: str) -> Recipe:
    return load_recipe(name, edit=lambda tree: override(tree, (*TOY, *sets)))


def written(folder: Path, *steps: str) -> Recipe:
    """A recipe of the given steps on a small network."""
    lines = "\n".join(f"- {step}" for step in ("adapt: {epochs: 1}", *steps))
    (folder / "own.yaml").write_text(
        f"name: own\nmodel: {{name: lenet300, options: {{inputs: 64}}}}\n"
        f"data: {{name: digits, limit: 96}}\nsteps:\n{lines}\n"
    )
    return load_recipe(folder / "own.yaml")


def zeros(model: nn.Module, masks: dict[str, Tensor]) -> bool:
    """Whether the network is zero where the masks say, and nearly nowhere else."""
    weights = dict(model.named_parameters())
    for name, mask in masks.items():
        assert not weights[name][~mask].any(), name
        assert (weights[name][mask] != 0).float().mean() > 0.99, name
    return True


def test_weight_pruning_raises_the_share_and_holds_the_masks(tmp_path: Path) -> None:
    found = run(recipe("weight-pruning", *LENET, "steps.control.epochs=0"), tmp_path / "run")
    model = found.state.models["pruned"]
    total = 64 * 300 + 300 * 100 + 100 * 10
    assert zeros(model, dict(found.state.masks))
    assert sum(int(mask.sum()) for mask in found.state.masks.values()) == round(0.1 * total)
    steps = sorted((tmp_path / "run/steps").glob("*-sparsify"))
    summaries = [read_json(step / "result.json")["result"]["summary"] for step in steps]
    cubic = [0.9 * (1 - (1 - k / 3) ** 3) for k in (1, 2, 3)]
    assert [s["sparsity"] for s in summaries] == pytest.approx(cubic, abs=1e-4)
    assert summaries[-1]["params_left"] == round(0.1 * total) + 410
    assert summaries[-1]["layers"]["fc2.weight"] == [30_000, 3_000]
    assert "of every layer" in found.results["pruning"]
    assert any(f"{50_610 / 5_430:.1f}× fewer" in note for note in found.results["notes"])
    # The artifact is an ordinary network with zeros in it, and its masks are those zeros.
    loaded = secateur.load(tmp_path / "run/artifact", model=create("lenet300", inputs=64)).model
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    assert all(torch.equal(masks_of(loaded)[n], mask) for n, mask in found.state.masks.items())


def test_deep_compression_ends_in_a_file_of_its_real_size(tmp_path: Path) -> None:
    found = run(recipe("deep-compression", *LENET, "steps.compress.epochs=1"), tmp_path / "run")
    file = tmp_path / "run/model.sdc"
    summary = read_json(tmp_path / "run/steps/06-compress/result.json")["result"]["summary"]
    assert summary["compressed_bytes"] == file.stat().st_size
    assert summary["compression"] == summary["dense_bytes"] / file.stat().st_size > 12
    back = secateur.decompress(file, create("lenet300", inputs=64))
    model = found.state.models["pruned"]
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), model.parameters(), strict=True))
    assert zeros(model, dict(found.state.masks))
    assert all(len(p.unique()) <= 33 for p in model.parameters() if p.ndim > 1)
    assert any(f"{file.stat().st_size:,} bytes" in note for note in found.results["notes"])


DOUBLE = (
    "prune: {ratio: 0.25}",
    "sparsify: {ratio: 0.5, scope: global}",
    "finetune: {epochs: 1}",
    "prune: {ratio: 0.2}",
    "finetune: {epochs: 1}",
    "lc: {ratio: 0.8, iterations: 3, epochs: 2, mu: 0.01}",
    "compress: {bits: 3, epochs: 1}",
)


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("double")
    run(written(folder, *DOUBLE), folder / "run")
    return folder


def test_channels_then_weights_then_channels(double: Path) -> None:
    """Masks made between two cuts are cut by the second one, and hold."""
    state = reopen(double / "run").state
    first, second = state.models["pruned"].fc1.weight.shape
    assert (first, second) == (round(0.75 * 300 * 0.8), 64)
    assert zeros(state.models["pruned"], dict(state.masks))
    total = sum(mask.numel() for mask in state.masks.values())
    assert sum(int(mask.sum()) for mask in state.masks.values()) == int(0.2 * total + 0.5)
    loaded = secateur.load(double / "run/artifact", model=create("lenet300", inputs=64)).model
    pairs = zip(loaded.parameters(), state.models["pruned"].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def stopped(steps: Sequence[str], folder: Path, after: int) -> None:
    """Runs, and stops when so many steps have ended."""

    def stop(event: Event) -> None:
        if event.what == "end" and event.index == after:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        run(written(folder, *steps), folder / "run", on_event=stop)


@pytest.mark.parametrize("after", [3, 5, 7])
def test_a_stopped_run_goes_on_the_same(double: Path, tmp_path: Path, after: int) -> None:
    stopped(DOUBLE, tmp_path, after)
    resume(tmp_path / "run")
    assert differences(numbers(double / "run"), numbers(tmp_path / "run")) == []
    assert (tmp_path / "run/model.sdc").read_bytes() == (double / "run/model.sdc").read_bytes()


def test_an_iterate_spreads_the_share_over_its_rounds(tmp_path: Path) -> None:
    inner = "iterate: {rounds: 2, steps: [sparsify: {ratio: 0.8}, finetune: {epochs: 0}]}"
    made = written(tmp_path, inner)
    assert [step.config.ratio for step in made.steps if step.kind == "sparsify"] == [0.4, 0.8]  # type: ignore[attr-defined]


def test_a_share_per_layer_is_spread_too(tmp_path: Path) -> None:
    inner = "iterate: {rounds: 2, steps: [sparsify: {ratio: {fc1: 0.8, fc2: 0.4}}, finetune: {epochs: 0}]}"
    made = [step.config for step in written(tmp_path, inner).steps if step.kind == "sparsify"]
    assert [c.ratio for c in made] == [{"fc1": 0.4, "fc2": 0.2}, {"fc1": 0.8, "fc2": 0.4}]  # type: ignore[attr-defined]
    assert str(made[1]) == "80.0% (fc1) and 40.0% (fc2) of the weights, lowest magnitude first"


BAD = [
    ("sparsify: {}", "one of ratio, std and an n:m pattern; got none"),
    ("sparsify: {ratio: 0.5, std: 1}", "got ratio and std"),
    ("sparsify: {ratio: 1.0}", r"sparsify\.ratio"),
    ("sparsify: {ratio: 0.5, pattern: '5:4'}", "0 < n < m"),
    ("sparsify: {ratio: 0.5, criterion: lampe}", "'lamp'"),
    ("lc: {keep: best}", r"lc\.keep"),
    ("lc: {mu: 0}", r"lc\.mu"),
    ("lc: {mu: 0.1, final_mu: 1, growth: 2}", "give two of the three"),
    ("admm: {}", "the share of one of them"),
    ("admm: {filters: 1.0}", r"admm\.filters"),
    ("admm: {filters: 0.5, iterations: 2}", "as many iterations as stages"),
    ("energy_aware: {}", r"energy_aware\.ratio"),
    ("energy_aware: {ratio: 0.5, restore: 1}", r"energy_aware\.restore"),
    ("purify: {emptiness: 0}", r"purify\.emptiness"),
    ("compress: {bits: 9}", r"compress\.bits"),
]


@pytest.mark.parametrize(("step", "words"), BAD)
def test_bad_settings_are_named_before_anything_runs(tmp_path: Path, step: str, words: str) -> None:
    with pytest.raises((InputError, UnknownNameError), match=words):
        written(tmp_path, step)


@pytest.mark.parametrize(("name", "extra"), [("snip", {}), ("obd", {"calibration": 32}), ("change", {})])
def test_a_step_gives_its_criterion_what_it_needs(tmp_path: Path, name: str, extra: dict[str, int]) -> None:
    """The masks are those that the criterion chooses from Python, with the step's own samples or the run's start."""
    options = "".join(f", {key}: {value}" for key, value in extra.items())
    made = written(tmp_path, f"sparsify: {{ratio: 0.6, scope: global, criterion: {name}{options}}}")
    found = run(made, tmp_path / "run")
    dense, start = found.state.models["dense"], make_model(made, found.task)
    count = extra.get("calibration", 256)
    data = list(found.task.calibration(count, seed=derive_seed(made.seed, "images")))
    scores = weight_scores(name, dense, data=data, loss=found.task.loss, start=start)
    expected = secateur.sparsify(dense, ratio=0.6, scope="global", criterion=scores)
    assert all(torch.equal(mask, expected.masks[n]) for n, mask in found.state.masks.items())


def test_a_layer_that_would_lose_all_filters_is_said_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"filters: a share of 0\.99 is all 10 filters of 'fc3\.weight'"):
        run(written(tmp_path, "admm: {filters: 0.99, only: [fc3]}"), tmp_path / "run")
    assert not list((tmp_path / "run").glob("steps/*"))


def test_a_pattern_that_does_not_fit_names_the_layer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fc2\.weight.*300 inputs"):
        run(written(tmp_path, "sparsify: {pattern: '2:8', ignore: [fc1, fc3]}"), tmp_path / "run")
