"""How to train: the settings of :func:`secateur.train.fit`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["TrainConfig"]


class TrainConfig(BaseModel):
    """Settings of a training run; unknown names and impossible values are refused.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per optimiser step, over all processes together.
        lr: Highest learning rate.
        optimizer: ``sgd`` or ``adamw``.
        momentum: Of SGD; AdamW's first beta stays 0.9.
        nesterov: Of SGD.
        weight_decay: On all parameters.
        schedule: How the learning rate goes from ``lr`` to (nearly) zero, step by step.
        warmup: Share of the steps in which the rate rises; ``None`` means 0.3 for ``onecycle``, else 0.
        milestones: Of ``step``: shares of the run at which the rate is multiplied by ``gamma``.
        gamma: Of ``step``.
        restarts: Of ``warm_restarts``: cosine cycles of equal length.
        label_smoothing: In [0, 1).
        mixup: Strength α of mixup (see `secateur.train.mixup.Mixup`); 0 for none.
        average: Decay of averaged weights (see `secateur.train.averaging.Average`), or ``None``.
        gradient_clip: Largest gradient norm, or ``None``.
        precision: ``32``, or ``bf16`` for automatic mixed precision; where it is slower than ``32``, a warning says so.
        channels_last: Memory layout of images and convolution weights; faster on CPUs and tensor cores.
        compile: Train through ``torch.compile``. The first steps wait for the compiler (on a CPU a C++ one), so it can
            only pay for long trainings; whether it does depends on network and machine, so time an epoch of each.
        early_stop: Epochs without a better validation accuracy after which to stop, or ``None``.
        augment: Random crop and mirroring as the data set says.
        keep: Which weights the network ends with: of the ``last`` epoch, or of the ``best`` one by
            validation accuracy.
        accelerator: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``mps``.
        devices: Processes; more than one trains data-parallel.

    >>> TrainConfig(epochs=3).batch_size
    128
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=3, ge=0)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=0.05, gt=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["onecycle", "cosine", "step", "warm_restarts", "constant"] = "onecycle"
    warmup: float | None = Field(default=None, ge=0, lt=1)
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = Field(default=0.1, gt=0, le=1)
    restarts: int = Field(default=3, ge=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixup: float = Field(default=0.0, ge=0)
    average: float | None = Field(default=None, gt=0, lt=1)
    gradient_clip: float | None = Field(default=None, gt=0)
    precision: Literal["32", "bf16"] = "32"
    channels_last: bool = True
    compile: bool = False
    early_stop: int | None = Field(default=None, ge=1)
    augment: bool = True
    keep: Literal["last", "best"] = "last"
    accelerator: str = "auto"
    devices: int = Field(default=1, ge=1)
