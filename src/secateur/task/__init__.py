"""What a task is: data, loss and metrics; classification, detection and others."""

from __future__ import annotations

from secateur.task.base import SPLITS, Epoch, Task
from secateur.task.batch import Batch
from secateur.task.classification import Classification, as_task
from secateur.task.detection.task import Detection
from secateur.task.metadata import ModelMetadata
from secateur.task.meters import Meter
from secateur.task.multilabel import MultiLabel
from secateur.task.numbered import NumberedTask
from secateur.task.registry import TASKS, Request, TaskKind
from secateur.task.regression import Regression, Series
from secateur.task.segmentation.task import Segmentation
from secateur.task.text import (
    LanguageModelling,
    MaskedLanguageModelling,
    TextClassification,
    TextLines,
    TextSimilarity,
)
from secateur.task.trial import try_task

__all__ = [
    "SPLITS",
    "TASKS",
    "Batch",
    "Classification",
    "Detection",
    "Epoch",
    "LanguageModelling",
    "MaskedLanguageModelling",
    "Meter",
    "ModelMetadata",
    "MultiLabel",
    "NumberedTask",
    "Regression",
    "Request",
    "Segmentation",
    "Series",
    "Task",
    "TaskKind",
    "TextClassification",
    "TextLines",
    "TextSimilarity",
    "as_task",
    "try_task",
]
