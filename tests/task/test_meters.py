"""What adds up metrics over a split."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur.data.boxes import Boxes
from secateur.task import Task
from secateur.task.detection import AveragePrecision, Detections
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
