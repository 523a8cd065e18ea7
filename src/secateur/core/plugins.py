"""Plug-ins: modules of the user's that register criteria, operators, steps, recipes and the like on import.

They come by three ways: an installed package names its module as an entry point of the group ``secateur.plugins``; a
command names one with ``--use`` and a script with :func:`use`; a recipe under ``use``. An installed one is looked for
when a name is missing or names are listed, so that whoever asks for nothing waits for nothing; if it is broken, that is
a warning, for it has nothing to do with most of what is done. One that is asked for by name and broken is an error.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from secateur.core.errors import (
    InputError,
    PluginError,
    SecateurError,
    SecateurWarning,
    UnknownNameError,
    first_line,
)
from secateur.core.registry import Registry, is_shipped

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "GROUP",
    "PluginWarning",
    "carried",
    "file_of",
    "from_folder",
    "installed_modules",
    "is_file",
    "load_installed",
    "top_folder",
    "use",
    "used",
]

GROUP = "secateur.plugins"
_CARRIED = "SECATEUR_USE"


class PluginWarning(SecateurWarning):
    """An installed plug-in is broken, and was left out."""


_used: dict[tuple[str, str], ModuleType] = {}
"""What was asked for in this process: the words it was asked for with, and the folder that they start from."""
_state = {"looked": False}


def use(plugin: str | os.PathLike[str] | ModuleType, *, folder: Path | None = None) -> ModuleType:
    """Imports a plug-in, for this process and those that it starts (the jobs of a comparison, and those that time).

    Args:
        plugin: The name of a module or of an installed plug-in, a path to a ``.py`` file, or a module.
        folder: Where names and paths start from; by default the working directory, which is looked in first.

    Returns:
        The module. One that is there already is not imported again.

    Raises:
        UnknownNameError: There is no such module.
        PluginError: It does not import, or registers a name that is taken; the message names the line.

    >>> import secateur
    >>> secateur.use("my_modul")
    Traceback (most recent call last):
    secateur.core.errors.UnknownNameError: There is no plug-in or module named 'my_modul'. ...
    """
    if not isinstance(plugin, str | os.PathLike | ModuleType) or not isinstance(folder, Path | None):
        wrong, name = (folder, "folder") if isinstance(plugin, str | os.PathLike | ModuleType) else (plugin, "plugin")
        wants = "a Path" if name == "folder" else "the name of a module, a path to a .py file, or a module"
        raise InputError(f"use({name}=…): {name} is {wants}; got {type(wrong).__name__}.")
    folder = (folder or Path.cwd()).absolute()
    if isinstance(plugin, ModuleType):
        module, words, folder = plugin, plugin.__name__, top_folder(plugin)
    else:
        words = os.fsdecode(plugin)
        module = _used.get((words, str(folder))) or _found(words, folder)
    _used[words, str(folder)] = module
    return module


def used() -> tuple[str, ...]:
    """The words that plug-ins were asked for with in this process, in order."""
    return tuple(dict.fromkeys(words for words, _ in _used))


def carried() -> dict[str, str]:
    """What a process that is started has to have in its environment, to use the same plug-ins."""
    known = [list(key) for key in _used if key[0] != "__main__"]
    return {_CARRIED: json.dumps(known)} if known else {}


def load_installed() -> None:
    """Imports the plug-ins of installed packages, and those that the parent process uses; only the first call does.

    Raises:
        PluginError: One that the parent process uses is broken.
    """
    if _state["looked"]:
        return
    _state["looked"] = True
    for words, folder in json.loads(os.environ.get(_CARRIED, "[]")):
        use(words, folder=Path(folder))
    for entry in _entries():
        try:
            _imported(entry.module, f"The installed plug-in {entry.name!r}")
        except SecateurError as error:
            warnings.warn(f"{error} It was left out.", PluginWarning, stacklevel=2)


def installed_modules() -> dict[str, str]:
    """The modules of installed plug-ins, by the plug-ins' names."""
    return {entry.name: entry.module for entry in _entries()}


def _entries() -> tuple[EntryPoint, ...]:
    from importlib.metadata import entry_points  # it takes a while

    return tuple(entry_points(group=GROUP))


def is_file(words: str) -> bool:
    """Whether a plug-in is named by its file.

    >>> is_file("mine.py"), is_file("criteria/mine.py"), is_file("my_package.mine")
    (True, True, False)
    """
    return words.endswith(".py") or "/" in words or os.sep in words


def file_of(words: str, folder: Path) -> Path:
    """The file that a plug-in is named by; whoever judges it and whoever imports it ask this one function.

    >>> file_of("mine.py", Path("/project")).as_posix(), file_of("/there/mine.py", Path("/project")).as_posix()
    ('/project/mine.py', '/there/mine.py')
    """
    try:
        return folder / Path(words).expanduser()
    except RuntimeError:  # ~somebody who is not there
        return folder / words


def _found(words: str, folder: Path) -> ModuleType:
    if is_file(words):
        return _from_file(file_of(words, folder))
    known = installed_modules()
    if words in known or words in known.values():  # it is trusted: nothing in the folder may take its place
        return _imported(known.get(words, words), f"The plug-in {words!r}")
    with from_folder(folder):
        if not all(part.isidentifier() for part in words.split(".")):
            raise _unknown(words, folder)
        try:
            return _imported(words, f"The plug-in {words!r}")
        except PluginError as error:
            missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
            if missing and (words == missing or words.startswith(missing + ".")):
                raise _unknown(words, folder) from error
            raise


def _unknown(words: str, folder: Path) -> UnknownNameError:
    near = sorted(p.stem for p in folder.glob("*.py"))
    hint = f"A plug-in is an installed one, a module that can be imported from {folder}, or a path to a .py file."
    return UnknownNameError("plug-in or module", words, [*installed_modules(), *near], hint)


@contextlib.contextmanager
def from_folder(folder: Path) -> Iterator[None]:
    """Lets imports in the block look in ``folder`` before anywhere else."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()  # a file that was written a moment ago is there
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _from_file(path: Path) -> ModuleType:
    """Imports a file under its own name, or under another where that is taken."""
    try:
        there = path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        there = False
    if not there:
        raise PluginError(f"There is no plug-in {str(path)!r:.300}: give the name of a module or a path to a .py file.")
    path = path.resolve()
    for module in tuple(sys.modules.values()):
        if getattr(module, "__file__", None) and Path(str(module.__file__)).resolve() == path:
            return module
    taken = not path.stem.isidentifier() or path.stem in sys.modules or path.stem in sys.stdlib_module_names
    name = f"secateur_plugin_{abs(hash(path))}" if taken else path.stem
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"The plug-in {path} is no Python file: its name has to end in .py.")
    module = module_from_spec(spec)
    with _blamed(f"The plug-in {path}"), from_folder(path.parent):
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


def _imported(name: str, title: str) -> ModuleType:
    with _blamed(title):
        return importlib.import_module(name)


@contextlib.contextmanager
def _blamed(title: str) -> Iterator[None]:
    """Says what an import raised in one sentence with the line, and takes back what a broken module registered."""
    before = {id(registry): registry.present for registry in Registry.everything}
    try:
        yield
    except (Exception, SystemExit) as error:
        live = {getattr(module, "__file__", None) for module in tuple(sys.modules.values())}
        for registry in Registry.everything:
            for name in set(registry.present) - set(before.get(id(registry), ())):
                file = registry.origin(name).file
                if not is_shipped(file) and file not in live:
                    registry.remove(name)
        said = first_line(error).rstrip(".")
        kind = "" if isinstance(error, SecateurError) or said == type(error).__name__ else f"{type(error).__name__}: "
        raise PluginError(f"{title} does not import: {kind}{said}{_place(error)}.") from error


def _place(error: BaseException) -> str:
    """The last line of the plug-in's own files that an error went through."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    frames = [f for f in frames if not is_shipped(f.filename)]
    first = next((f for f in frames if f.name == "<module>"), None)
    if first is None:
        return ""
    top = Path(first.filename)
    own = [f for f in frames if Path(f.filename).is_relative_to(top.parent if top.name == "__init__.py" else top)]
    return f" ({own[-1].filename}, line {own[-1].lineno})"


def top_folder(module: ModuleType) -> Path:
    """The folder that ``import`` finds a module from."""
    file = getattr(module, "__file__", None)
    if file is None:
        return Path.cwd()
    path = Path(file).absolute()
    levels = module.__name__.count(".") + (path.name == "__init__.py")
    return path.parents[levels]
