"""Factories of networks: called with checked arguments, and whatever they raise said in one sentence."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from secateur.core.errors import InputError, SecateurError, UnknownNameError, first_line
from secateur.core.plugins import from_folder

__all__ = ["building", "call", "user_factory", "user_object"]


@contextlib.contextmanager
def building(name: str) -> Iterator[None]:
    """Turns what a factory raises into one sentence that names the line of the user's code, if it is that.

    Raises:
        InputError: The factory raised something.
    """
    try:
        yield
    except SecateurError:
        raise
    except Exception as error:
        kind = type(error).__name__
        said = first_line(error).rstrip(".")
        words = said if said == kind else f"{kind}: {said}"
        raise InputError(f"{name} cannot be built: {words}{_place(error)}.") from error


def _place(error: Exception) -> str:
    """The last line below the working directory that the error went through."""
    here = Path.cwd()
    if isinstance(error, SyntaxError):
        return ""  # it names its line itself
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(here) and "site-packages" not in path.parts and "secateur" not in path.parts:
            return f" ({path.relative_to(here)}, line {frame.lineno})"
    return ""


def call(factory: Callable[..., Any], name: str, arguments: dict[str, Any]) -> nn.Module:
    """Calls a factory, turning arguments it does not take into an error that lists those it does.

    Raises:
        InputError: It does not take the arguments, raises something, or returns no network.
    """
    try:
        signature = inspect.signature(factory)
        signature.bind(**arguments)
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        raise InputError(f"{name} cannot be built: {error}. It takes: {takes or 'nothing'}.") from error
    except ValueError:
        pass  # a built-in without a signature
    with building(name):
        model = factory(**arguments)
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} returned {type(model).__name__}, wanted a torch.nn.Module.")
    return model


def user_factory(module_name: str, attribute: str, classes: int | None, options: dict[str, Any]) -> nn.Module:
    """Calls ``attribute`` of the user's module; the current folder is searched first.

    Raises:
        UnknownNameError: There is no such module, or no such factory in it.
        InputError: It cannot be imported, is Python's own, or fails.
    """
    factory = _attribute(module_name, attribute)
    if classes is not None:
        options = {_classes_argument(factory, f"{module_name}:{attribute}"): classes, **options}
    return call(factory, f"{module_name}:{attribute}", options)


def user_object(module_name: str, attribute: str, options: dict[str, Any]) -> Any:
    """Calls ``attribute`` of the user's module, which makes something else than a network (a task, for instance).

    Raises:
        UnknownNameError: There is no such module, or nothing of that name in it.
        InputError: It cannot be imported, is Python's own, does not take the options, or fails.
    """
    name = f"{module_name}:{attribute}"
    factory = _attribute(module_name, attribute, ())
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        takes = ", ".join(inspect.signature(factory).parameters)
        raise InputError(f"{name} cannot be built: {error}. It takes: {takes or 'nothing'}.") from error
    with building(name):
        return factory(**options)


def _refuse_standard(module_name: str, name: str) -> None:
    """Python's own functions make no networks; a recipe that names one is up to something else."""
    if module_name.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
        raise InputError(f"{name} is part of Python's standard library and makes no network; it was not called.")


def _attribute(
    module_name: str, attribute: str, libraries: Sequence[str] = ("torchvision", "timm")
) -> Callable[..., Any]:
    _refuse_standard(module_name, f"{module_name}:{attribute}")
    module = _import(module_name, libraries)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        known = [n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_")]
        raise UnknownNameError(f"factory in {module_name}", attribute, known)
    inner = factory.func if isinstance(factory, partial) else factory
    _refuse_standard(str(getattr(inner, "__module__", "")), f"{module_name}:{attribute}")
    found: Callable[..., Any] = factory
    return found


def _classes_argument(factory: Callable[..., Any], name: str) -> str:
    parameters = inspect.signature(factory).parameters
    for argument in ("classes", "num_classes"):
        if argument in parameters:
            return argument
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return "num_classes"
    raise InputError(f"{name} takes no argument 'classes' or 'num_classes', so leave the classes out.")


def _what(libraries: Sequence[str]) -> str:
    return "library or Python module" if libraries else "Python module"


def _import(name: str, libraries: Sequence[str] = ("torchvision", "timm")) -> Any:
    """Imports a module, from the current folder before any other: that is where a recipe's code is looked for."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise UnknownNameError(_what(libraries), name, libraries)
    try:
        with from_folder(Path.cwd()), building(name):
            return importlib.import_module(name)
    except InputError as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing and (name == missing or name.startswith(missing + ".")):
            raise UnknownNameError(_what(libraries), name, libraries) from error
        raise
