"""The study of a search: where it is kept, and that it is of this search."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from secateur.core.errors import InputError, first_line

__all__ = ["NAME", "open_study", "optuna"]

NAME = "secateur"
_OF = "search"


def optuna() -> Any:
    """The library.

    Raises:
        InputError: It is not installed.
    """
    try:
        return importlib.import_module("optuna")
    except ImportError as error:
        raise InputError('A search needs optuna: pip install "secateur[search]".') from error


@contextlib.contextmanager
def _quiet(library: Any) -> Iterator[None]:
    before = library.logging.get_verbosity()
    library.logging.set_verbosity(library.logging.ERROR)
    try:
        yield
    finally:
        library.logging.set_verbosity(before)


def open_study(storage: str, of: Mapping[str, Any], directions: tuple[str, str], seed: int) -> Any:
    """Opens a study or makes it; what it is of is noted in it, and has to be the same.

    Args:
        storage: As Optuna takes it, like ``sqlite:///search.db``.
        of: What decides what a trial means.
        directions: ``minimize`` or ``maximize``, of both objectives.
        seed: Of what is proposed.

    Raises:
        InputError: The storage cannot be opened, or the study is of something else.
    """
    library = optuna()
    try:
        with _quiet(library):
            sampler = library.samplers.TPESampler(seed=seed)
            study = library.create_study(
                storage=storage, study_name=NAME, directions=directions, sampler=sampler, load_if_exists=True
            )
            known = study.user_attrs.get(_OF)
            if known is None and not study.trials:
                study.set_user_attr(_OF, dict(of))
                known = dict(of)
    except Exception as error:  # each kind of storage has its own
        raise InputError(
            f"The storage {storage!r:.300} cannot be opened: {first_line(error).rstrip('.')}. It is a database as "
            "SQLAlchemy names it, like sqlite:///search.db."
        ) from error
    if not isinstance(known, dict) or known != dict(of):
        other = [key for key in of if not isinstance(known, dict) or known.get(key) != of[key]]
        raise InputError(
            f"The study in {storage!r:.300} is of another search: of another {', another '.join(other) or 'kind'}. "
            "Give what it was begun with, or another --out or --storage."
        )
    return study
