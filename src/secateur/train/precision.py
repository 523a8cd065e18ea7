"""Whether a device computes in bf16 faster than in float32."""

from __future__ import annotations

import time
from functools import cache

import torch

__all__ = ["fast_bf16"]

_GAIN = 1.2
"""How many times as fast a product has to be: networks are more than products, and casts cost."""


def fast_bf16(accelerator: str = "auto") -> bool:
    """Whether mixed precision can pay on this machine.

    A GPU is asked. A processor is asked, for without instructions of its own bf16 is emulated, and then timed on one
    product of matrices: on Intel processors whose matrix unit (AMX) a virtual machine hides the instructions are there,
    and bf16 is half as fast as float32.

    Args:
        accelerator: As in `secateur.train.TrainConfig`.
    """
    if accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if accelerator in ("auto", "cpu"):
        supported = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-untyped-call]
        return bool(supported and _gain() >= _GAIN)
    return False


@cache
def _gain(size: int = 512, rounds: int = 7) -> float:
    """How many times as fast the processor multiplies matrices in bf16; once a process, some hundredths of a second."""
    single = torch.ones(size, size)
    half = single.bfloat16()
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(rounds):  # in turn, and the fastest of each, so that other work on the machine matters little
        for one in (single, half):
            begun = time.perf_counter()
            torch.mm(one, one)
            best[one.dtype] = min(best[one.dtype], time.perf_counter() - begun)
    return best[torch.float32] / best[torch.bfloat16]
