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
from secateur.data.types import DataSet
from secateur.train import checkpoint
from secateur.train.common import in_mode
from secateur.train.config import TrainConfig
from secateur.train.evaluate import totals
from secateur.train.extras import Extra
from secateur.train.history import EpochRecord, History
from secateur.train.loop import Loop, plan_epoch, train_epoch
from secateur.train.progress import TrainProgress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["OnEpoch", "Run", "TrainJob"]

OnEpoch = Callable[[EpochRecord], None]


@dataclass(frozen=True)
class TrainJob:
    """What :func:`secateur.train.fit` was asked to do."""

    model: nn.Module
    data: DataSet
    config: TrainConfig
    folder: Path | None
    seed: int
    name: str
    extras: tuple[Extra, ...] = ()

    def settings(self) -> dict[str, Any]:
        """What has to be the same for a checkpoint to be continued."""
        config = self.config.model_dump(mode="json")
        images = {"train_images": len(self.data.train), "validation_images": len(self.data.validation)}
        extras = {"extras": [extra.settings() for extra in self.extras]} if self.extras else {}
        return {**config, **images, "seed": self.seed, "name": self.name, **extras}


class Run:
    """The moving parts of a run: optimiser, wrapped network, records, best weights."""

    def __init__(self, fabric: Fabric, job: TrainJob, layout: torch.memory_format) -> None:
        """Makes the optimiser and hands it and the network to Fabric."""
        self.fabric, self.job = fabric, job
        self.optimizer = _optimizer(job.model, job.config)
        wrapped = torch.compile(job.model) if job.config.compile else job.model
        model, optimizer = fabric.setup(wrapped, self.optimizer)  # type: ignore[arg-type]
        self.loop = Loop(fabric, model, optimizer, job.data, job.config, layout, job.extras)
        self.records: list[EpochRecord] = []
        self.best: dict[str, Tensor] | None = None  # only without a folder

    @property
    def history(self) -> History:
        """The epochs so far."""
        return History(tuple(self.records), len(self.records))

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
        self.records = [EpochRecord(**record) for record in found["records"]]

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
        job, fabric = self.job, self.fabric
        start = time.perf_counter()
        seeds = (job.seed, job.name, epoch)
        rank, processes = fabric.global_rank, fabric.world_size
        plan = plan_epoch(job.data, job.config, seeds, rank=rank, processes=processes)
        sums = train_epoch(self.loop, plan, epoch=epoch, progress=bar)
        noted = {key: value for extra in job.extras for key, value in extra.epoch(job.model, epoch).items()}
        self._swap()
        val_loss, val_top1 = self._validate()
        self._swap()
        return EpochRecord(
            epoch=epoch,
            train_loss=sums.loss / sums.images,
            train_top1=100 * sums.hits / sums.images,
            val_loss=val_loss,
            val_top1=val_top1,
            lr=sums.lr,
            seconds=time.perf_counter() - start,
            images_per_second=sums.images / sums.seconds,
            extra=noted,
        )

    def _swap(self) -> None:
        for extra in self.job.extras:
            extra.swap(self.job.model)

    def _validate(self) -> tuple[float | None, float | None]:
        """(loss, top-1 in percent) on the validation images, each process taking its share."""
        job, fabric = self.job, self.fabric
        count = len(job.data.validation)
        if not count:
            return None, None
        mine = torch.arange(fabric.global_rank, count, fabric.world_size)
        batches = job.data.validation.batches(500, order=mine)
        with in_mode(job.model, training=False), fabric.autocast():
            sums = totals(job.model, batches, data=job.data, device=fabric.device, layout=self.loop.layout)
        loss, top1, _, images = fabric.all_reduce(sums.to(fabric.device), reduce_op="sum").tolist()  # type: ignore[union-attr]
        return loss / images, 100 * top1 / images

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
        return History(tuple(self.records), best.epoch)


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
