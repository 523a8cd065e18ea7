"""What a task is: data, loss and metrics; classification, detection and others."""

from __future__ import annotations

from secateur.task.base import SPLITS, Epoch, Task
from secateur.task.batch import Batch
from secateur.task.classification import Classification, as_task
from secateur.task.meters import Meter
from secateur.task.trial import try_task

__all__ = ["SPLITS", "Batch", "Classification", "Epoch", "Meter", "Task", "as_task", "try_task"]
