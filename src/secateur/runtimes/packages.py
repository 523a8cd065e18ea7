"""Packages that runtimes need: which are missing, and the command that installs them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from secateur.core.errors import InputError

__all__ = ["install_command", "missing", "need", "version_of"]


def missing(packages: Sequence[str]) -> list[str]:
    """Returns those of ``packages`` (import names) that are not installed."""
    return [name for name in packages if not _found(name)]


def need(packages: Sequence[str], extra: str, what: str) -> None:
    """Checks that ``packages`` can be imported.

    Raises:
        InputError: One is missing; the message holds the install command.

    >>> need(["torch"], "onnx", "Arithmetic")
    >>> need(["no_such_package"], "onnx", "Running ONNX files")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    secateur.core.errors.InputError: Running ONNX files needs no_such_package: pip install torch==... "secateur[onnx]".
    """
    gone = missing(packages)
    if gone:
        raise InputError(f"{what} needs {', '.join(gone)}: {install_command(extra, gone)}.")


def install_command(extra: str, packages: Sequence[str]) -> str:
    """The command that installs an extra, or packages where there is none, and leaves the installed torch as it is."""
    wanted = f'"secateur[{extra}]"' if extra else " ".join(name.replace("_", "-") for name in packages)
    # The pinned torch keeps pip from replacing it with another build.
    return f"pip install torch=={version_of('torch').partition('+')[0]} {wanted}"


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the parent package of a dotted name
        return False


def version_of(package: str) -> str:
    """The version of an installed package, by its import name."""
    try:
        return version(package.replace("_", "-"))
    except PackageNotFoundError:
        return "(unknown version)"
