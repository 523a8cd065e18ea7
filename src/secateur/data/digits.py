"""The 8×8 digits that come with scikit-learn: the embedded default."""

from __future__ import annotations

import torch

from secateur.core.errors import InputError
from secateur.data.raw import Raw, Request
from secateur.data.sampling import hold_out
from secateur.data.types import Split

__all__ = ["read_digits"]


def read_digits(request: Request) -> Raw:
    """1,797 images of 1×8×8 in ten classes; a fixed stratified fifth of them is the test set."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError('The digits need scikit-learn: pip install "secateur[train]".') from error
    found = load_digits()
    images = torch.from_numpy(found.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    everything = Split(images, torch.from_numpy(found.target).long())
    train, test = hold_out(everything.labels, 0.2, seed=0)
    classes = tuple(str(i) for i in range(10))
    return Raw("digits", classes, everything.subset(train), everything.subset(test), pad=1)
