"""Training with exact resume: every epoch starts from a checkpoint and from seeds of its own."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from secateur.core import arguments
from secateur.core.errors import InputError, SecateurWarning
from secateur.data.types import DataSet
from secateur.graph.calling import preserved_rng
from secateur.graph.copies import deep_copy
from secateur.task import Classification, Task, as_task
from secateur.train.adapters import Adapters, adapted
from secateur.train.averaging import Average
from secateur.train.common import choose_layout, device_of, in_mode
from secateur.train.config import TrainConfig
from secateur.train.extras import Extra
from secateur.train.history import History
from secateur.train.mixup import Mixup
from secateur.train.precision import fast_bf16
from secateur.train.run import OnEpoch, Run, TrainJob

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["fit"]


@arguments.checked
def fit(
    model: nn.Module,
    task: Task | DataSet,
    config: TrainConfig | None = None,
    *,
    folder: str | Path | None = None,
    seed: int = 0,
    name: str = "train",
    extras: Sequence[Extra] = (),
    on_epoch: OnEpoch | None = None,
    progress: bool | None = None,
    adapters: Adapters | None = None,
) -> History:
    """Trains ``model`` in place.

    With a ``folder``, the state after every epoch goes to ``folder/last.pt`` (and the best epoch's
    weights to ``folder/best.pt``), atomically. Called again with the same folder and settings, the
    training goes on from there and ends with bit for bit the weights and the history (apart from the
    seconds) of a run that was never interrupted, on the same machine with as many threads.
    The global random states of PyTorch, NumPy and Python are left as they were. A loader of one's own has to give the
    same batches for the same seed for that; one that does not is named in a warning.

    Args:
        model: The network; its device and modes are restored.
        task: What to train and validate on, with which loss; a data set of images stands for its classification.
        config: Settings; by default those of :class:`TrainConfig`.
        folder: For checkpoints; ``None`` keeps everything in memory.
        seed: Of order, augmentation and dropout, together with ``name`` and the epoch.
        name: Of this run; shown in progress and part of the seed.
        extras: What takes part besides the loss (penalties, masks, a teacher), in this order.
        on_epoch: Called with each finished epoch's record, just before its checkpoint is written (so an
            epoch can be reported again after a crash, and none is ever lost). With several processes
            that this function starts itself, the records come at the end.
        progress: Whether to draw a progress bar; by default if stderr is a terminal.
        adapters: Trains low-rank adapters beside the linear layers in the place of the weights, and adds them to the
            weights in the end; the network keeps its class, shapes and names. Extras then see a twin of the network,
            whose linear layers are called ``NAME.base_layer``.

    Raises:
        InputError: The network does not fit the task, the folder holds a run with other settings, or adapters are
            wanted and PEFT is not installed.
        TrainingError: The loss became NaN.
        VerificationError: With its adapters added to the weights the network computes something else.

    >>> from secateur.data import load
    >>> from secateur.models import create
    >>> fit(create("resnet_digits"), load("digits", limit=64), TrainConfig(epochs=1)).epochs[0].epoch
    1
    """
    config = config or TrainConfig()
    task = as_task(task)
    if adapters is not None:
        with adapted(model, adapters, task, (seed, name)) as (twin, named):
            return fit(twin, task, config, folder=folder, seed=seed, name=name, extras=[named, *extras],
                       on_epoch=on_epoch, progress=progress)  # fmt: skip
    extras = _with_built_in(extras, config, task)
    job = TrainJob(model, task, config, None if folder is None else Path(folder), seed, name, extras)
    if config.precision == "bf16" and not fast_bf16(config.accelerator):
        warnings.warn(
            "This device gains nothing from bf16, which is slower on it than float32: set precision to 32.",
            SecateurWarning,
            stacklevel=3,  # behind the check of the arguments
        )
    if job.config.devices > 1 and "LOCAL_RANK" not in os.environ:
        return _spawn(job, on_epoch, progress)
    fabric = _fabric(job.config, "auto")
    fabric.launch()
    return _train(fabric, job, on_epoch, progress)


def _with_built_in(extras: Sequence[Extra], config: TrainConfig, task: Task) -> tuple[Extra, ...]:
    """Adds what the settings ask for: blending first, averaging last (it sees weights with their masks)."""
    if config.mixup and not isinstance(task, Classification):
        raise InputError(f"mixup blends class labels; the task {task.name} has none. Set it to 0.")
    blend = (Mixup(config.mixup, len(task.data.classes)),) if isinstance(task, Classification) and config.mixup else ()
    average = (Average(config.average),) if config.average else ()
    return (*blend, *extras, *average)


def _fabric(config: TrainConfig, strategy: str) -> Fabric:
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise InputError('Training needs lightning-fabric: pip install "secateur[train]".') from error
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    logger.setLevel(logging.WARNING)  # it would announce mixed precision on every run
    try:
        return Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            strategy=strategy,
            precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        )
    finally:
        logger.setLevel(level)


def _spawn(job: TrainJob, on_epoch: OnEpoch | None, progress: bool | None) -> History:
    """Trains in processes of its own; the first one hands back the weights."""
    fabric = _fabric(job.config, "ddp_spawn")
    # Fabric looks through arguments for modules and stumbles over frozen dataclasses, hence the partial;
    # what workers return it passes through a pipe that a network does not fit into, hence the file.
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.pt"
        fabric.launch(partial(_worker, job=job, progress=progress, result=result))
        found = torch.load(result, map_location="cpu", weights_only=True)
    history = History.from_dict(found["history"])
    job.model.load_state_dict(found["model"])
    for record in history.epochs if on_epoch is not None else ():
        on_epoch(record)  # type: ignore[misc]
    return history


def _worker(fabric: Fabric, *, job: TrainJob, progress: bool | None, result: Path) -> None:
    # The arguments arrive in memory that all processes share, so the network has to be copied first.
    model = deep_copy(job.model)
    fabric.barrier()
    history = _train(fabric, replace(job, model=model), None, progress)
    if fabric.is_global_zero:
        torch.save({"history": history.to_dict(), "model": model.state_dict()}, result)
    fabric.barrier()
    torch.distributed.destroy_process_group()  # else its threads can abort a process that ends


def _train(fabric: Fabric, job: TrainJob, on_epoch: OnEpoch | None, progress: bool | None) -> History:
    """Trains on this process and leaves the network as it was found, but for its weights."""
    task = job.task
    if not task.has("train"):
        name = task.data.name if isinstance(task, Classification) else f"The task {task.name}"
        raise InputError(f"{name} has no {task.unit}s to train on.")
    model, home = job.model, device_of(job.model)
    devices = [torch.zeros((), device=fabric.device)] if fabric.device.type == "cuda" else []
    try:
        with preserved_rng(*devices), in_mode(model, training=True):
            layout = choose_layout(model, task, channels_last=job.config.channels_last)
            run = Run(fabric, job, layout)
            run.restore()
            run.epochs(on_epoch, progress)
            history = run.finish()
            for extra in job.extras:
                extra.finish(model)
            return history
    finally:
        model.to(device=home, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        model.zero_grad(set_to_none=True)
