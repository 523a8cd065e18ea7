"""States that hold for a while: evaluation mode, on networks that cannot all be switched, and no garbage collection."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating", "no_gc", "switch", "switchable"]


def switch(model: nn.Module, training: bool) -> bool:
    """Puts ``model`` into the mode and says whether it followed.

    What ``ExportedProgram.module()`` gives refuses ``train()`` and ``eval()``; it stays as it was exported.

    >>> net = nn.Dropout()
    >>> switch(net, False), net.training
    (True, False)
    """
    try:
        model.train(training)
    except NotImplementedError:
        return False
    return True


def switchable(model: nn.Module) -> bool:
    """Whether ``train()`` and ``eval()`` are followed; every module's mode stays as it is.

    >>> switchable(nn.Dropout())
    True
    """
    modes = {module: module.training for module in model.modules()}
    followed = switch(model, model.training)
    for module, mode in modes.items():
        module.training = mode
    return followed


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode inside the block; afterwards each module has the mode it had before.

    >>> net = nn.Sequential(nn.Dropout()).train()
    >>> with evaluating(net):
    ...     net[0].training
    False
    >>> net[0].training
    True
    """
    modes = {module: module.training for module in model.modules()}
    switched = switch(model, False)
    try:
        yield model
    finally:
        # The root's own train() comes first: a traced network may rewrite its graph in it.
        if switched and modes[model]:
            switch(model, True)
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def no_gc() -> Iterator[None]:
    """Without pauses of Python's garbage collector, which goes through all that the process holds each time.

    It would be charged to whoever is timed then, as with timeit; and where many small objects are made that stay, it
    finds nothing.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
