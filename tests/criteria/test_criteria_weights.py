"""Criteria of single weights that look at more than the weights: against slow references in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from secateur.cli.main import main
from secateur.core.errors import InputError, UnknownNameError
from secateur.criteria import CRITERIA
from secateur.criteria.weight_statistics import Weighing, collect_weights
from secateur.models import create
from secateur.sparsity import sparsify, weight_scores
from secateur.task import Task


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 3)).double()


def collected(name: str, model: nn.Module, data: object, loss: object = None) -> dict[str, Tensor]:
    names = [n for n, p in model.named_parameters() if p.ndim > 1]
    setting = Weighing(model, names, data, loss=loss)  # type: ignore[arg-type]
    return {n: values[0] for n, values in collect_weights(CRITERIA[name], setting).items()}


def hessian_diagonal(model: nn.Module, name: str, x: Tensor, y: Tensor) -> Tensor:
    """The exact one of the mean cross-entropy, entry by entry."""
    weight = model.get_parameter(name).detach()

    def loss(w: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, {name: w}, (x,)), y)

    size = weight.numel()
    full: Tensor = torch.autograd.functional.hessian(loss, weight)  # type: ignore[assignment]
    return full.reshape(size, size).diagonal().reshape(weight.shape)


def test_snip_is_the_derivative_of_the_loss_by_a_mask() -> None:
    """By central differences: the mask of one weight after the other is moved."""
    model, x, y = net().train(), torch.randn(7, 3).double(), torch.randint(3, (7,))
    gradient = collected("snip", model, [(x[:4], y[:4]), (x[4:], y[4:])])
    assert model.training
    model.eval()
    for name, found in gradient.items():
        weight = model.get_parameter(name).detach()
        for k in range(weight.numel()):
            losses = []
            for step in (1e-5, -1e-5):
                masked = weight.clone()
                masked.view(-1)[k] *= 1 + step
                losses.append(F.cross_entropy(functional_call(model, {name: masked}, (x,)), y))
            slope = float((losses[0] - losses[1]).detach()) / 2e-5
            score = CRITERIA["snip"].weights
            assert score is not None
            assert float(score(weight, torch.Generator(), found).view(-1)[k]) == pytest.approx(abs(slope), abs=1e-8)


def test_the_curvature_of_obd_is_the_hessian_where_labels_follow_the_network() -> None:
    """One input, with labels as often as the network thinks them likely: there the empirical Fisher is exact."""
    model, x, y = net().eval(), torch.randn(1, 3).double(), torch.tensor([0, 0, 1, 2])
    with torch.no_grad():
        model[4].bias += torch.tensor([0.5, 0.25, 0.25]).double().log() - model(x)[0]
    x = x.repeat(4, 1)
    curvature = collected("obd", model, (x, y))
    for name, found in curvature.items():
        torch.testing.assert_close(found, hessian_diagonal(model, name, x, y), rtol=1e-9, atol=1e-12)
        assert float(found.abs().max()) > 1e-4
    scores = CRITERIA["obd"].weights
    assert scores is not None
    weight = model[0].weight.detach()
    exact = hessian_diagonal(model, "0.weight", x, y) * weight**2 / 2
    torch.testing.assert_close(scores(weight, torch.Generator(), curvature["0.weight"]), exact)


def test_obd_squares_gradients_of_single_samples_whatever_the_batches() -> None:
    model, x, y = net().eval(), torch.randn(6, 3).double(), torch.randn(6, 3).double()
    expected = torch.zeros(4, 3).double()
    for k in range(6):
        model.zero_grad()
        F.mse_loss(model(x[k : k + 1]), y[k : k + 1]).backward()
        expected += model[0].weight.grad.square() / 6  # type: ignore[union-attr]
    for data in ([(x, y)], [(x[:1], y[:1]), (x[1:], y[1:])]):
        torch.testing.assert_close(collected("obd", model, data, F.mse_loss)["0.weight"], expected)
    task = Task(train=(x, y), loss=F.mse_loss)  # it brings its loss
    torch.testing.assert_close(collected("obd", model, task)["0.weight"], expected)


def test_change_keeps_what_moved_most() -> None:
    model = nn.Linear(3, 2)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    with torch.no_grad():
        model.weight += torch.tensor([[0.1, -0.5, 0.2], [0.0, 0.3, -0.05]])
    for given in (start, type(model)(3, 2)):
        if isinstance(given, nn.Module):
            given.load_state_dict(start)
        found = sparsify(model, ratio=0.5, criterion=weight_scores("change", model, start=given))
        assert found.masks["weight"].tolist() == [[False, True, True], [False, True, False]]


def test_snip_and_obd_choose_over_the_network() -> None:
    model, x, y = net().eval(), torch.randn(9, 3).double(), torch.randint(3, (9,))
    for name, score in (("snip", lambda w, g: (w * g).abs()), ("obd", lambda w, h: h * w * w / 2)):
        values = {n: score(model.get_parameter(n).detach(), v) for n, v in collected(name, model, (x, y)).items()}
        limit = torch.cat([v.flatten() for v in values.values()]).sort().values[12]
        found = sparsify(model, ratio=0.5, scope="global", criterion=name, data=(x, y))
        assert all(torch.equal(found.masks[n], v >= limit) for n, v in values.items())


def test_what_is_missing_or_does_not_fit_is_said() -> None:
    model, x = net(), torch.randn(4, 3).double()
    with pytest.raises(InputError, match="'obd' needs data"):
        sparsify(model, ratio=0.5, criterion="obd")
    with pytest.raises(InputError, match="cannot be told from the data"):
        sparsify(model, ratio=0.5, criterion="snip", data=[x])
    with pytest.raises(InputError, match="batch 1 has inputs alone"):
        sparsify(model, ratio=0.5, criterion="snip", data=[x], example_inputs=x)
    with pytest.raises(InputError, match="The loss is nan on batch 1"):
        weight_scores("snip", model, data=[(x, x)], loss=lambda out, y: out.sum() * float("nan"))
    with pytest.raises(InputError, match="needs the weights at the start"):
        sparsify(model, ratio=0.5, criterion="change")
    with pytest.raises(UnknownNameError, match=r"weight in start.*0\.weight"):
        weight_scores("change", model, start={"0.weigh": torch.zeros(4, 3)})
    with pytest.raises(InputError, match=r"'0\.weight' of shape \(4, 2\)"):
        weight_scores("change", model, start={"0.weight": torch.zeros(4, 2)})


def test_the_command_takes_data_and_a_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = tmp_path / "start.pt"
    torch.save(create("lenet300", inputs=64).state_dict(), start)
    for name, options in (("snip", ["--data", "digits", "--images", "8"]), ("change", ["--start", str(start)])):
        made = ["sparsify", "resnet_digits", "--ratio", "0.5", "--criterion", name, "--out", str(tmp_path / name)]
        with pytest.raises(SystemExit) as end:
            main([*made, *options])
        said = capsys.readouterr()
        if name == "snip":
            assert end.value.code == 0
            assert "50.0% of the weights" in " ".join(said.out.split())
        else:  # the weights of another network
            assert end.value.code == 2
            assert "weight in start" in said.err
    with pytest.raises(SystemExit):
        main(["sparsify", "resnet_digits", "--ratio", "0.5", "--criterion", "obd", "--out", str(tmp_path / "none")])
    assert "--data" in capsys.readouterr().err
