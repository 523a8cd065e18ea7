"""What lies in a run's artifact is what its last step left, whatever the steps do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import secateur
from secateur.core.errors import InputError
from secateur.recipe import load_recipe, resume, run
from secateur.recipe.schema import Recipe, Settings
from secateur.recipe.steps import STEPS, Context, State, Step, StepResult
from secateur.recipe.steps.weights import load_weights_into, save_weights


class Halve(Step[Settings]):
    """A step as a user may write it: it changes weights behind the cut, and no version counter tells."""

    summary = "halve all weights"
    config = Settings

    def run(self, context: Context, state: State, config: Settings) -> tuple[State, StepResult]:
        for parameter in state.cut.model.parameters():
            parameter.data.mul_(0.5)
        save_weights(state.cut.model, context.work / "model.safetensors")
        return state, StepResult()

    def restore(self, context: Context, state: State, config: Settings) -> State:
        load_weights_into(state.cut.model, context.work / "model.safetensors")
        return state


@pytest.fixture
def halve() -> Iterator[None]:
    torch.set_num_threads(1)
    STEPS.add("halve", Halve())
    yield
    del STEPS._items["halve"]


def recipe(folder: Path, *steps: str) -> Recipe:
    lines = "\n".join(f"- {step}" for step in steps)
    (folder / "own.yaml").write_text(
        f"name: own\nmodel: {{name: lenet300, options: {{inputs: 64}}}}\n"
        f"data: {{name: digits, limit: 96}}\nsteps:\n{lines}\n"
    )
    return load_recipe(folder / "own.yaml")


def artifact(folder: Path, dense: torch.nn.Module) -> dict[str, Tensor]:
    return secateur.load(folder / "artifact", dense).model.state_dict()


@pytest.mark.usefixtures("halve")
@pytest.mark.parametrize("last", ["halve", "recover: {images: 64}", "finetune: {epochs: 1}", "sparsify: {ratio: 0.5}",
                                  "rewind", "purify"])  # fmt: skip
def test_the_artifact_holds_the_weights_of_the_last_step(last: str, tmp_path: Path) -> None:
    done = run(recipe(tmp_path, "prune: {ratio: 0.5}", "halve", last), tmp_path / "run", progress=False)
    assert done.state.pruned is not None
    final, stored = done.state.pruned.model.state_dict(), artifact(tmp_path / "run", done.state.dense)
    assert final.keys() == stored.keys()
    assert all(torch.equal(t, stored[n]) for n, t in final.items())
    again = resume(tmp_path / "run").state.pruned
    assert again is not None
    assert all(torch.equal(t, stored[n]) for n, t in again.model.state_dict().items())


@pytest.mark.usefixtures("halve")
def test_a_step_that_needs_a_cut_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no step before it cuts"):
        run(recipe(tmp_path, "halve"), tmp_path / "run", progress=False)
