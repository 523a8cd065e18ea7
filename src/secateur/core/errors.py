"""Errors that say what went wrong, where, what was got and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BudgetError",
    "DataError",
    "ExportError",
    "InputError",
    "PlanError",
    "PluginError",
    "SecateurError",
    "SecateurWarning",
    "TraceError",
    "UnknownNameError",
    "VerificationError",
    "WeightsError",
    "first_line",
    "nearest",
]


class SecateurError(Exception):
    """Base class of everything that Secateur raises on purpose.

    The command line prints the message alone (no traceback) and exits with status 2.
    """


class SecateurWarning(UserWarning):
    """Something went wrong that stops nothing; the command line prints the message alone, as a note."""


class InputError(SecateurError, ValueError):
    """An argument or option has a value that cannot be used."""


_SHORT = 200
"""A file's whole text given in place of a name is not repeated."""


_MANY = 30
"""Names of a list that are shown: a network has hundreds of modules."""


def _listed(known: list[str]) -> str:
    """All names, or the shortest with what begins like them left out."""
    if len(known) <= _MANY:
        return ", ".join(known)
    heads = sorted({name.partition(".")[0] for name in known})
    shown = heads if len(heads) <= _MANY else heads[:_MANY]
    return f"{', '.join(shown)} and {len(known) - len(shown)} more names"


class UnknownNameError(InputError):
    """A name was not found where it was looked up; the message offers the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "", *, argument: str = "") -> None:
        """Words the message: ``kind`` is what was looked up, ``known`` are the valid names."""
        known = sorted(known)
        close = nearest(name, known)
        others = f"Known: {_listed(known)}." if known else ""
        offer = f"Did you mean {' or '.join(map(repr, close))}?" if close else others
        where = f"{argument}=…: " if argument else ""
        shown = repr(name if len(name) <= _SHORT else f"{name[:_SHORT]}…")
        super().__init__(" ".join(filter(None, (f"{where}There is no {kind} named {shown}.", offer, hint))))


class PluginError(InputError):
    """A module that brings criteria, operators, steps and the like is broken; the message names its line."""


class TraceError(SecateurError):
    """The network could not be traced; the message names the line of the user's code."""


class PlanError(SecateurError, ValueError):
    """A plan does not fit the network that it is applied to."""


class BudgetError(SecateurError, ValueError):
    """A target or ratio cannot be met; the message says how far it can go."""


class VerificationError(SecateurError):
    """The pruned network does not compute what the masked dense network computes."""


class WeightsError(SecateurError, ValueError):
    """Weights do not fit, are damaged, hold NaN, or would have to be unpickled."""


class DataError(SecateurError, ValueError):
    """A data set is missing, damaged, unsafe or empty."""


class ExportError(SecateurError):
    """A network could not be exported, or the exported file failed its check."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its class where it says nothing.

    >>> first_line(EOFError()), first_line(ValueError("one\\ntwo"))
    ('EOFError', 'one')
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Returns the valid names that look most like ``name``.

    >>> nearest("resnet65", ["resnet56", "vgg16_bn"])
    ['resnet56']
    """
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
