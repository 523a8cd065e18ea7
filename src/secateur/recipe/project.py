"""Whether a factory is code of the user's own project, found out by reading: nothing is imported.

Its module has to be the one that an import from the working directory gives, lie below that directory, and define the
factory itself or take it from another module of the project. A function of others that a module of the project merely
imports (``from torch import load``) is not the project's: a recipe could so call it with options of its own.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from secateur.core.errors import InputError
from secateur.core.reading import read_bytes

__all__ = ["in_project", "is_below", "module_in_project"]

_LARGEST = 2_000_000  # bytes; beyond that it is no module that somebody wrote
_NEVER = frozenset({"secateur", *sys.stdlib_module_names, *sys.builtin_module_names})
_SITE = frozenset({"site-packages", "dist-packages"})


def in_project(module: str, factory: str, here: Path) -> bool:
    """Whether ``module:factory`` is defined in a file below ``here``.

    Args:
        module: Dotted name.
        factory: Name of a function, class or other value on the module's top level.
        here: The working directory.
    """
    return _defines(module, factory, here.resolve(), frozenset())


def module_in_project(module: str, here: Path) -> bool:
    """Whether an import of ``module`` runs a file below ``here``."""
    return _file(module, here.resolve()) is not None


def _defines(module: str, name: str, here: Path, seen: frozenset[tuple[str, str]]) -> bool:
    file = _file(module, here) if (module, name) not in seen else None
    if file is None:
        return False
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for statement in _statements(_parsed(file)):
        if isinstance(statement, ast.ImportFrom):
            source = _absolute(statement, package)
            for alias in statement.names:
                inner = name if alias.name == "*" else alias.name
                taken = alias.name == "*" or (alias.asname or alias.name) == name
                if taken and _defines(source, inner, here, seen | {(module, name)}):
                    return True
        elif name in _bound(statement):
            return True
    return False


def _file(module: str, here: Path) -> Path | None:
    """The file below ``here`` that an import of ``module`` would run, if there is one.

    A folder without ``__init__.py`` counts only where no installed package has its name, for an import prefers that.
    """
    parts = module.split(".")
    if parts[0] in _NEVER or not all(part.isidentifier() for part in parts):
        return None
    importlib.invalidate_caches()
    places, file = [str(here), *sys.path], None
    for number, part in enumerate(parts, start=1):
        spec = PathFinder.find_spec(part, places)  # under its last name alone: parents are not imported
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or ())
        found = spec.origin if spec.has_location else next(iter(places), None)
        if found is None or not is_below(Path(found), here) or not _is_loaded_from(".".join(parts[:number]), found):
            return None
        file = Path(found)
    return file if file is not None and file.suffix == ".py" and file.is_file() else None


def is_below(path: Path, here: Path) -> bool:
    """Whether a file lies in the project that ``here`` is, and is not of a package that is installed there."""
    try:
        real = path.resolve()
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, links in a circle
        return False
    return real.is_relative_to(here) and not _SITE & set(real.parts)


def _is_loaded_from(module: str, found: str) -> bool:
    """Whether a module that is loaded already, which an import would give back, is the one that was found."""
    loaded = sys.modules.get(module)
    if loaded is None:
        return True
    place = getattr(loaded, "__file__", None) or next(iter(getattr(loaded, "__path__", ())), None)
    return place is not None and Path(place).resolve() == Path(found).resolve()


def _parsed(file: Path) -> list[ast.stmt]:
    """The statements of a module; none where it cannot be read."""
    try:
        return ast.parse(read_bytes(file, InputError, largest=_LARGEST)).body
    except (InputError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when a module is imported, those inside ``if``, ``try`` and the like included."""
    for statement in body:
        yield statement
        if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(statement, part, []))
            for handler in getattr(statement, "handlers", []):
                yield from _statements(handler.body)


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement gives a value of the module's own."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, ast.Assign):
        return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    if isinstance(statement, ast.AnnAssign) and statement.value is not None and isinstance(statement.target, ast.Name):
        return {statement.target.id}
    return set()


def _absolute(statement: ast.ImportFrom, package: str) -> str:
    """The module of ``from x import y``, with leading dots resolved."""
    if not statement.level:
        return statement.module or ""
    base = package.split(".")[: len(package.split(".")) - statement.level + 1]
    return ".".join([*base, *([statement.module] if statement.module else [])])
