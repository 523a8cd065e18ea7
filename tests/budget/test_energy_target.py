"""Energy and file size as targets: exact for any choice of units, reached within one per cent, clear floors."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import secateur
from secateur import Target
from secateur.core.errors import BudgetError, InputError, UnknownNameError
from secateur.core.types import ExampleInputs
from secateur.cost import energy, size_on_disk
from secateur.cost.stored import safetensors_bytes
from secateur.cut.prune import fitting
from secateur.graph.flow import flow
from secateur.graph.trace import trace
from zoo import ZOO, conv, settle

CASES = ["residual", "zero_padded_shortcut", "squeeze_excitation", "grouped_convolutions", "attention_packed",
         "tied_weights", "unet", "matrix_products", "recurrent_head", "frozen_layers"]  # fmt: skip


def with_zeros(model: nn.Module) -> nn.Module:
    """A third of the weights, at random, is zero: the model of energy counts those that are not."""
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p[torch.rand(p.shape, generator=torch.Generator().manual_seed(p.numel())) < 1 / 3] = 0
    return model


def chain() -> tuple[nn.Module, torch.Tensor]:
    parts = [conv(3, 64), conv(64, 96), conv(96, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 4)]
    return settle(nn.Sequential(*parts)), torch.randn(2, 3, 8, 8)


def predicted(model: nn.Module, x: ExampleInputs, plan: secateur.Plan, measure: str) -> float:
    """What the search over plans takes for the cost of this one."""
    analysis, keep = fitting(flow(trace(model, x)), plan)
    return analysis.costs.measure(measure, keep)


@pytest.mark.parametrize("name", CASES)
def test_cost_of_a_choice_is_that_of_the_network_really_cut(name: str, tmp_path: Path) -> None:
    model, x = ZOO[name]()
    with_zeros(settle(model))
    pruned = secateur.prune(model, x, ratio=0.5)
    assert energy(pruned.model, x).total < energy(model, x).total
    assert predicted(model, x, pruned.plan, "energy") == pytest.approx(energy(pruned.model, x).total, rel=1e-12)
    pruned.save(tmp_path, graph=False)
    written = (tmp_path / "model.safetensors").stat().st_size
    assert predicted(model, x, pruned.plan, "size") == written == size_on_disk(pruned.model)


@pytest.mark.parametrize("share", [0.8, 0.5, 0.25])
def test_a_share_of_the_energy_is_reached(share: float) -> None:
    model, x = chain()
    pruned = secateur.prune(model, x, target=Target(energy=share), scope="global")
    assert energy(pruned.model, x).total / energy(model, x).total == pytest.approx(share, rel=0.01)
    assert pruned.plan.provenance["target"] == {"energy": share}
    before, after = (f"{energy(net, x).total:,.0f}" for net in (model, pruned.model))
    assert any(note.startswith(f"energy: {before} → {after} multiply-accumulates") for note in pruned.notes)


@pytest.mark.parametrize("share", [0.8, 0.5, 0.25])
def test_a_share_of_the_file_is_reached(share: float) -> None:
    model, x = chain()
    pruned = secateur.prune(model, x, target=Target(size=share))
    assert size_on_disk(pruned.model) / size_on_disk(model) == pytest.approx(share, rel=0.01)
    assert any(f"→ {size_on_disk(pruned.model):,} bytes" in note for note in pruned.notes)


def test_absolute_targets_are_multiply_accumulates_and_bytes() -> None:
    model, x = chain()
    wanted = 0.4 * energy(model, x).total
    pruned = secateur.prune(model, x, target=Target(energy=wanted))
    assert energy(pruned.model, x).total == pytest.approx(wanted, rel=0.01)
    assert size_on_disk(secateur.prune(model, x, target=Target(size=200_000)).model) == pytest.approx(2e5, rel=0.01)


@pytest.mark.parametrize("measure", ["energy", "size"])
def test_out_of_reach_names_the_floor(measure: str) -> None:
    model, x = chain()
    with pytest.raises(BudgetError, match=r"cannot be met.*are left") as caught:
        secateur.prune(model, x, target=Target(**{measure: 1e-5}))
    smallest = secateur.prune(model, x, ratio=0.999).model
    floor = size_on_disk(smallest) if measure == "size" else energy(smallest, x).total
    found = re.search(r"removed, ([\d,]+) are left", str(caught.value))
    assert found is not None
    assert float(found[1].replace(",", "")) == floor


def test_shares_of_the_dense_network_count_what_earlier_cuts_took() -> None:
    model, x = chain()
    first = secateur.prune(model, x, target=Target(energy=0.7))
    second = secateur.prune(first.model, x, target=Target(energy=0.5), of="dense")
    assert energy(second.model, x).total / energy(model, x).total == pytest.approx(0.5, rel=0.01)
    third = secateur.prune(second.model, x, target=Target(size=0.3), of="dense")
    assert size_on_disk(third.model) / size_on_disk(model) == pytest.approx(0.3, rel=0.01)


def test_selection_by_reconstruction_takes_them_too() -> None:
    model, x = chain()
    x = torch.randn(64, 3, 8, 8)
    plan = secateur.prune(model, x[:2], criterion="reconstruction", data=x, target=Target(energy=0.5)).plan
    assert energy(secateur.apply(model, plan, x).model, x).total / energy(model, x).total == pytest.approx(
        0.5, rel=0.01
    )


WORDS = "what is kept: a share"


@pytest.mark.parametrize(("value", "words"), [(0, WORDS), (-2, WORDS), (float("nan"), "finite")])
def test_what_is_no_amount_is_refused(value: float, words: str) -> None:
    with pytest.raises(InputError, match=rf"energy=….*{words}"):
        Target(energy=value)
    with pytest.raises(InputError, match="got params and size"):
        Target(params=0.5, size=0.5)


def test_measures_have_names() -> None:
    model, x = chain()
    analysis = secateur.analyse(model, x)
    with pytest.raises(UnknownNameError, match="'energy'"):
        analysis.costs.measure("enrgy", np.ones(analysis.groups.units, dtype=bool))


def test_bytes_of_a_file_are_worked_out_for_every_type(tmp_path: Path) -> None:
    from safetensors.torch import _TYPES, save_file

    types = sorted(_TYPES.values(), key=str)
    assert torch.complex64 in types
    tensors = {f"{'ä' * k}.{k}": torch.zeros(k, 37).to(dtype) for k, dtype in enumerate(types)}
    save_file(tensors, tmp_path / "all")
    shapes = {n: (t.dtype, tuple(t.shape)) for n, t in tensors.items()}
    assert safetensors_bytes(shapes) == (tmp_path / "all").stat().st_size
