"""Networks that were made without weights, and still have the random ones that they were made with."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn

from secateur.core.weights_print import weights_print

__all__ = ["RANDOM", "has_random_weights", "note_random"]

RANDOM = (
    "the weights are random, as the network was made without any: figures of accuracy mean nothing; sizes, times and "
    "the proof are right"
)
"""What has to be said of such a network."""

_MADE: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Digests of the weights that networks were made with, for as long as the networks live."""


def note_random(model: nn.Module) -> None:
    """Remembers that a network has just been made with random weights."""
    made = weights_print(model)
    if made is not None:
        _MADE[model] = made


def has_random_weights(model: nn.Module) -> bool:
    """Whether :func:`secateur.models.create` made the network without weights and nothing changed them since.

    Of networks that were made elsewhere, and of copies, nobody knows.

    >>> from secateur.models import create
    >>> network = create("lenet5")
    >>> has_random_weights(network), has_random_weights(nn.Linear(2, 2))
    (True, False)
    >>> _ = nn.init.zeros_(next(network.parameters()))
    >>> has_random_weights(network)
    False
    """
    return model in _MADE and weights_print(model) == _MADE[model]
