"""What adds up metrics over a split."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.core.errors import InputError
from secateur.core.metric import Metric
from secateur.data.boxes import Boxes
from secateur.models import import_torchvision
from secateur.task import Task
from secateur.task.detection import AveragePrecision, Detections
from secateur.task.meters import MetricMeter, named_metrics
from secateur.train import evaluate


class _Boxes(Task):
    """The network's output is read as corners of one box an image."""

    def predictions(self, output: Tensor) -> list[Detections]:
        return [Detections(box[None], torch.ones(1), torch.zeros(1, dtype=torch.int64)) for box in output]


def test_average_precision_is_a_metric_of_a_task_of_ones_own() -> None:
    corners = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 7.2], [0, 0, 10, 2]])
    there = [Boxes.of([((0, 0, 10, 10), 0)]) for _ in corners]
    precision = AveragePrecision(["cell"])
    task = _Boxes(test=[(corners[:2], there[:2]), (corners[2:], there[2:])],
                  metrics={"map50": precision, "map": precision})  # fmt: skip
    found = evaluate(nn.Identity(), task).metrics
    # All are equally sure, and of three images two are right up to an IoU of 0.7, one beyond: 67 and 34 of 101 recalls.
    assert found["map50"] == pytest.approx(67 / 101)
    assert found["map"] == pytest.approx((67 + 34) / 202)
    assert task.leading.better == "higher"


with_torchmetrics = pytest.mark.skipif(find_spec("torchmetrics") is None, reason="torchmetrics is not installed")


def worst(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs().max()


def test_functions_are_weighted_by_samples() -> None:
    metrics = named_metrics({"worst": Metric(worst, "lower"), "mean": Metric(F.l1_loss, "lower")})
    meter = MetricMeter(metrics, F.mse_loss)
    a, b = torch.randn(6, 1).double(), torch.randn(2, 1).double()
    meter.update(a, torch.zeros_like(a), 6)
    meter.update(b, torch.zeros_like(b), 2)
    found, every = meter.compute(), torch.cat([a, b])
    assert found["mean"] == pytest.approx(float(every.abs().mean()))
    assert found["worst"] == pytest.approx((6 * float(a.abs().max()) + 2 * float(b.abs().max())) / 8)
    assert found["loss"] == pytest.approx(float(every.square().mean()))


@with_torchmetrics
def test_torchmetrics_know_their_direction_and_form() -> None:
    import_torchvision()
    from torchmetrics import MeanAbsoluteError, SumMetric
    from torchmetrics.classification import MulticlassAccuracy

    mae, top1 = named_metrics({"mae": MeanAbsoluteError(), "top1": MulticlassAccuracy(num_classes=3)})
    assert (mae.better, mae.format, top1.better, top1.format) == ("lower", "number", "higher", "share")
    with pytest.raises(InputError, match="nothing says which way is better"):
        named_metrics({"total": SumMetric()})
    assert named_metrics({"total": Metric(SumMetric(), better="lower")})[0].better == "lower"


@with_torchmetrics
def test_the_users_metric_keeps_its_state() -> None:
    import_torchvision()
    from torchmetrics import MeanAbsoluteError

    theirs = MeanAbsoluteError()
    theirs.update(torch.ones(2), torch.zeros(2))
    meter = MetricMeter(named_metrics({"mae": theirs}), None)
    meter.update(torch.full((2,), 5.0), torch.zeros(2), 2)
    assert meter.compute() == {"mae": 5.0}
    assert float(theirs.compute()) == 1.0


@pytest.mark.parametrize("name", ["loss", "two words", "", "1st"])
def test_names_are_words(name: str) -> None:
    with pytest.raises(InputError, match="he name of a metric is a word"):
        named_metrics({name: Metric(worst, "lower")})


def test_what_is_no_metric() -> None:
    with pytest.raises(InputError, match="got str"):
        named_metrics({"mae": "mae"})
    with pytest.raises(InputError, match="which way is better"):
        named_metrics({"mae": worst})


@pytest.mark.parametrize(
    ("value", "said"),
    [(torch.zeros(2), r"tensor of shape \(2,\); wanted one number"), ("a", "gives str; wanted one number"),
     ({"map": 1.0}, "gives several numbers: map"), (None, "gives NoneType")],
)  # fmt: skip
def test_what_is_no_number(value: object, said: str) -> None:
    meter = MetricMeter(named_metrics({"odd": Metric(lambda o, t: value, "lower")}), None)
    with pytest.raises(InputError, match=said):
        meter.update(torch.zeros(3), torch.zeros(3), 3)


def test_a_metric_that_does_not_take_the_output_is_named() -> None:
    meter = MetricMeter(named_metrics({"worst": Metric(worst, "lower")}), None)
    with pytest.raises(
        InputError, match=r"The metric worst does not take what the network gives for an output of shape"
    ):
        meter.update(torch.zeros(3), torch.zeros(4), 3)
