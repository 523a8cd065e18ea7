"""After which epochs how much is cut: checked when a callback is made, not hours later."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from secateur.core import arguments
from secateur.core.errors import InputError, UnknownNameError
from secateur.cut.prune import prune
from secateur.recipe.schedule import SCHEDULES, reached

__all__ = ["checked_schedule", "gradually"]

AMOUNTS = ("ratio", "macs", "params", "energy", "size", "latency", "target", "std")
_FIXED = ("model", "example_inputs", "backend")
"""What the callbacks say themselves: in a loop, the network stays the object that it is."""


@arguments.checked
def gradually(after: Iterable[int], *, schedule: str = "cubic", **amount: float) -> dict[int, dict[str, Any]]:
    """Cuts that together reach one amount of the dense network, for a callback's ``at``.

    Args:
        after: The epochs after which there is a cut, counted from 1.
        schedule: How the amount is spread over them: ``linear``, ``geometric`` or ``cubic``, as in recipes.
        amount: One of ``ratio`` (the share of the units that is gone at the end), ``macs``, ``params``, ``energy`` and
            ``size`` (the share that is left at the end).

    Raises:
        InputError: None or several amounts, one that is no share, or a schedule that there is not.

    >>> gradually([1, 2, 4], schedule="linear", ratio=0.6)
    {1: {'ratio': 0.2, 'of': 'dense'}, 2: {'ratio': 0.4, 'of': 'dense'}, 4: {'ratio': 0.6, 'of': 'dense'}}
    """
    known = AMOUNTS[:5]
    if schedule not in SCHEDULES:
        raise UnknownNameError("schedule", schedule, SCHEDULES)
    if len(amount) != 1 or next(iter(amount)) not in known:
        raise InputError(f"gradually takes one of {', '.join(known)}; got {', '.join(amount) or 'none'}.")
    (name, final), epochs = next(iter(amount.items())), sorted(set(after))
    if not 0 < final < 1:
        raise InputError(f"gradually({name}=…) takes a share between 0 and 1; got {final}.")
    shares = {}
    for number, epoch in enumerate(epochs, start=1):
        gone = reached(schedule, final if name == "ratio" else 1 - final, number, len(epochs))
        share = final if number == len(epochs) else gone if name == "ratio" else 1 - gone
        shares[epoch] = {name: round(share, 12), "of": "dense"}
    return shares


def checked_schedule(at: Mapping[int, Mapping[str, Any]], options: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The arguments of :func:`secateur.prune` for every cut, by the epoch after which it is made.

    Raises:
        InputError: An epoch is no whole number from 1, or a cut has none or several amounts.
        UnknownNameError: An option that ``prune`` does not have.
    """
    if not isinstance(at, Mapping) or not at:
        raise InputError(f"at=… says what is cut after which epoch, like {{2: {{'macs': 0.7}}}}; got {at!r:.80}.")
    known = [name for name in inspect.signature(prune).parameters if name not in _FIXED]
    found = {}
    for epoch, own in sorted(at.items(), key=lambda item: str(item[0])):
        if type(epoch) is not int or epoch < 1:
            raise InputError(f"at=…: epochs are whole numbers from 1; got {epoch!r:.40}.")
        if not isinstance(own, Mapping):
            raise InputError(
                f"at={{{epoch}: …}} takes the arguments of secateur.prune, like {{'macs': 0.7}}; got {own!r:.60}."
            )
        both = {**options, **own}
        wrong = next((name for name in both if name not in known), None)
        if wrong is not None:
            raise UnknownNameError("argument of secateur.prune that a callback takes", str(wrong), known)
        amounts = [name for name in AMOUNTS if both.get(name) is not None]
        if len(amounts) != 1:
            raise InputError(
                f"The cut after epoch {epoch} wants one of {', '.join(AMOUNTS)}; got {' and '.join(amounts) or 'none'}."
            )
        found[epoch] = both
    return dict(sorted(found.items()))
