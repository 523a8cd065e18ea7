"""Loggers of runs: TensorBoard, MLflow, Weights & Biases, and those that plug-ins bring. One file a logger."""

from __future__ import annotations

from secateur.loggers import mlflow, tensorboard, wandb  # noqa: F401 (each adds itself)
from secateur.loggers.base import LOGGERS, LoggedRun, Logger, logger, need_loggers
from secateur.loggers.log import Log, LoggerWarning, log_epochs

__all__ = ["LOGGERS", "Log", "LoggedRun", "Logger", "LoggerWarning", "log_epochs", "logger", "need_loggers"]
