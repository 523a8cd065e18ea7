"""The moving parts of a training run, and how they are saved and restored."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, WeightsError
from secateur.task import Task
from secateur.train import checkpoint
from secateur.train.common import in_mode
from secateur.train.config import TrainConfig
from secateur.train.evaluate import add_up
from secateur.train.extras import Extra
from secateur.train.history import EpochRecord, History
from secateur.train.loop import Loop, Sums, train_epoch
from secateur.train.progress import TrainProgress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["OnEpoch", "Run", "TrainJob"]

OnEpoch = Callable[[EpochRecord], None]


@dataclass(frozen=True)
class TrainJob:
    """What :func:`secateur.train.fit` was asked to do."""

    model: nn.Module
    task: Task
    config: TrainConfig
    folder: Path | None
    seed: int
    name: str
    extras: tuple[Extra, ...] = ()

    def settings(self) -> dict[str, Any]:
        """What has to be the same for a checkpoint to be continued."""
        config = self.config.model_dump(mode="json")
        extras = {"extras": [extra.settings() for extra in self.extras]} if self.extras else {}
        return {**config, **self.task.settings(), "seed": self.seed, "name": self.name, **extras}


class Run:
    """The moving parts of a run: optimiser, wrapped network, records, best weights."""

    def __init__(self, fabric: Fabric, job: TrainJob, layout: torch.memory_format) -> None:
        """Makes the optimiser and hands it and the network to Fabric."""
        self.fabric, self.job = fabric, job
        self.optimizer = _optimizer(job.model, job.config)
        wrapped = torch.compile(job.model) if job.config.compile else job.model
        model, optimizer = fabric.setup(wrapped, self.optimizer)  # type: ignore[arg-type]
        loss = job.task.training_loss(job.config.label_smoothing)
        self.loop = Loop(fabric, model, optimizer, job.task, job.config, layout, loss, job.extras)
        self.records: list[EpochRecord] = []
        self.best: dict[str, Tensor] | None = None  # only without a folder

    @property
    def history(self) -> History:
        """The epochs so far."""
        return self._history(len(self.records))

    def _history(self, kept: int) -> History:
        return History(tuple(self.records), kept, self.job.task.leading)

    def restore(self) -> None:
        """Continues from ``last.pt`` if it is there."""
        path = None if self.job.folder is None else self.job.folder / "last.pt"
        found = None if path is None else checkpoint.read(path)
        if found is None or path is None:
            return
        checkpoint.same_run(found["settings"], self.job.settings(), path)
        _load(self.job.model, found["model"], path)
        self.optimizer.load_state_dict(found["optimizer"])
        for extra, state in zip(self.job.extras, found.get("extras", ()), strict=False):
            extra.load_state_dict(state)
        self.records = [EpochRecord.from_dict(record) for record in found["records"]]

    def epochs(self, on_epoch: OnEpoch | None, progress: bool | None) -> None:
        """Trains the epochs that are still to do."""
        job, config = self.job, self.job.config
        steps = self.loop.steps
        done = len(self.records)
        for extra in job.extras:
            extra.start(job.model, steps, config.epochs)
        show = progress if self.fabric.is_global_zero else False
        with TrainProgress(job.name, config.epochs * steps, done * steps, show=show) as bar:
            while len(self.records) < config.epochs and not self._stalled():
                bar.describe(f"{job.name} {len(self.records) + 1}/{config.epochs}")
                record = self._epoch(len(self.records) + 1, bar)
                self.records.append(record)
                if self.fabric.is_global_zero:
                    if on_epoch is not None:
                        on_epoch(record)
                    self._save()

    def _epoch(self, epoch: int, bar: TrainProgress) -> EpochRecord:
        job = self.job
        start = time.perf_counter()
        sums = train_epoch(self.loop, (job.seed, job.name, epoch), epoch=epoch, progress=bar)
        noted = {key: value for extra in job.extras for key, value in extra.epoch(job.model, epoch).items()}
        self._swap()
        validation = self._validate()
        self._swap()
        return EpochRecord(
            epoch=epoch,
            train=self._means(sums),
            validation=validation,
            lr=sums.lr,
            seconds=time.perf_counter() - start,
            samples_per_second=sums.samples / sums.seconds,
            extra=noted,
        )

    def _swap(self) -> None:
        for extra in self.job.extras:
            extra.swap(self.job.model)

    def _means(self, sums: Sums) -> dict[str, float]:
        means, running = {"loss": sums.loss / sums.samples}, self.job.task.running
        return means if running is None else {**means, running.name: sums.running / sums.samples}

    def _validate(self) -> dict[str, float]:
        """Loss and metrics on the validation samples; where they are sums, each process takes its share."""
        job, fabric, task = self.job, self.fabric, self.job.task
        if not task.has("validation"):
            return {}
        share = (0, 1) if task.meter().sums is None else (fabric.global_rank, fabric.world_size)
        batches = task.evaluation("validation", share=share, device=fabric.device, layout=self.loop.layout)
        with in_mode(job.model, training=False), fabric.autocast():
            meter, _, _ = add_up(task, batches, lambda batch: task.forward(job.model, batch))
        if meter.sums is not None:
            meter.sums = fabric.all_reduce(meter.sums.to(fabric.device), reduce_op="sum").cpu()  # type: ignore[union-attr]
        return meter.compute()

    def _stalled(self) -> bool:
        """Whether early stopping ends the run here."""
        best, patience = self.history.best, self.job.config.early_stop
        return patience is not None and best is not None and len(self.records) - best.epoch >= patience

    def _save(self) -> None:
        """Writes the best weights first: a crash in between repeats the epoch and writes them again."""
        job, best = self.job, self.history.best
        if best is not None and best.epoch == len(self.records):
            self._swap()
            self._save_best()
            self._swap()
        if job.folder is None:
            return
        content = {
            "settings": job.settings(),
            "model": job.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "records": [record.to_dict() for record in self.records],
        }
        if job.extras:
            content["extras"] = [extra.state_dict() for extra in job.extras]
        checkpoint.write(job.folder / "last.pt", content)

    def _save_best(self) -> None:
        job, weights = self.job, self.job.model.state_dict()
        if job.folder is not None:
            checkpoint.write(job.folder / "best.pt", {"epoch": len(self.records), "model": weights})
        elif job.config.keep == "best":
            self.best = copy.deepcopy(weights)

    def finish(self) -> History:
        """Puts the wanted weights into the network."""
        job, best = self.job, self.history.best
        self.fabric.barrier()  # the first process may still be writing
        if job.config.keep != "best" or best is None or best.epoch == len(self.records):
            self._swap()
            return self.history
        weights = self.best
        if job.folder is not None:
            path = job.folder / "best.pt"
            found = checkpoint.read(path)
            if found is None or found["epoch"] != best.epoch:
                raise WeightsError(f"{path} does not hold epoch {best.epoch}; train anew in another folder.")
            weights = found["model"]
        if weights is not None:
            job.model.load_state_dict(weights)
        return self._history(best.epoch)


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    weights = [p for p in model.parameters() if p.requires_grad]
    if not weights:
        raise InputError("The network has no parameter that requires a gradient; there is nothing to train.")
    if config.optimizer == "adamw":
        return torch.optim.AdamW(weights, config.lr, weight_decay=config.weight_decay, foreach=True)
    return torch.optim.SGD(
        weights,
        config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        weight_decay=config.weight_decay,
        foreach=True,
    )


def _load(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != given:
        differing = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise WeightsError(
            f"{path} belongs to another network: {differing[0]} is {given.get(differing[0])} there and "
            f"{wanted.get(differing[0])} here ({len(differing)} differ). Use another folder."
        )
    model.load_state_dict(weights)
