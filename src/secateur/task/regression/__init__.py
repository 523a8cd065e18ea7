"""Regression: numbers from rows of a table, and the next values of series."""

from __future__ import annotations

from secateur.task.regression.errors import MAE, R2, RMSE, Errors
from secateur.task.regression.series import Series
from secateur.task.regression.task import Regression

__all__ = ["MAE", "R2", "RMSE", "Errors", "Regression", "Series"]
