"""Weights & Biases: one run of the account that is logged in; ``WANDB_MODE=offline`` keeps it in the run's folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.loggers.base import LoggedRun, Logger, logger

__all__ = ["WeightsAndBiases"]

_PROJECT = "secateur"


@logger("wandb")
class WeightsAndBiases(Logger):
    """Numbers are charts over epochs (and steps of the recipe), settings the configuration, the report an artifact.

    The project is ``WANDB_PROJECT``, by default ``secateur``. A run in ``WANDB_MODE=offline`` cannot be asked what it
    has: if the process is killed between sending a number and noting so, that number is there twice.
    """

    title = "Weights & Biases"
    summary = "a run of your account, or files with WANDB_MODE=offline"
    packages, extra = ("wandb",), "wandb"

    def start(self, run: LoggedRun) -> str:
        """Makes a run, or goes on with that of before: its identifier is known from the run's folder."""
        import wandb

        self._wandb = wandb
        self._line = run.sent
        settings = wandb.Settings(silent=True, console="off", init_timeout=60)
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=run.name,
            id=run.id or None,
            resume="allow" if run.id else None,
            config=dict(run.settings),
            dir=str(run.folder),
            reinit="create_new",
            settings=settings,
        )
        return str(self._run.id)

    def numbers(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Logs them as one line; the online service drops a line whose number it has already."""
        axis = f"{group}/{'step' if group == 'results' else 'epoch'}"
        self._run.define_metric(f"{group}/*", step_metric=axis)
        self._run.log({axis: step, **{f"{group}/{name}": value for name, value in values.items()}}, step=self._line)
        self._line += 1

    def finish(self, files: Sequence[Path] = (), *, complete: bool = True) -> None:
        """Hands over the files as one artifact and closes the run."""
        if files:
            name = re.sub(r"[^\w.-]", "-", f"{self._run.name}-report", flags=re.ASCII)
            artifact = self._wandb.Artifact(name, type="report")
            for file in files:
                artifact.add_file(str(file))
            self._run.log_artifact(artifact)
        self._run.finish(exit_code=0 if complete else 1)
