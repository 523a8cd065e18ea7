"""Who may name code: a recipe of one's own, a run that was started here, or what the user says to trust.

What the user types or passes is the user's own. A recipe in a file may name code that lies in the user's project: below
the working directory, as the recipe itself does. A run's folder may name code if it was started here by this user; that
is known from a record in the user's state folder (``$XDG_STATE_HOME/secateur``, else ``~/.local/state/secateur``), and
never from anything in the run. All else takes ``trust=True`` or ``--trust``. Nothing is imported to find this out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.core.errors import InputError, SecateurError, first_line
from secateur.core.plugins import file_of, installed_modules, is_file
from secateur.core.reading import read_json
from secateur.recipe.project import in_project, is_below, module_in_project
from secateur.recipe.schema import as_list

if TYPE_CHECKING:
    from secateur.core.yamltree import Place, YamlTree
    from secateur.recipe.schema import Recipe

__all__ = [
    "code_of",
    "digest_of",
    "home_of",
    "permit_folder",
    "permit_plugins",
    "permit_recipe",
    "places_of_code",
    "record",
]

_LIBRARIES = ("torchvision", "timm", "hf")
_OPENING = ("cache", "checkpoint", "pretrained", "weights")
"""What the options of these libraries' factories begin with that open files of other people, or fetch them."""


def places_of_code(recipe: Recipe) -> tuple[Place, ...]:
    """Where a recipe names code of the user's or of others: mostly nowhere.

    It may name plug-ins, a task or a network of one's own, or options of a library's network that open files.
    """
    plugins: tuple[Place, ...] = tuple(
        ("use", place) for place, name in enumerate(recipe.use) if not _is_installed(name)
    )
    if ":" in recipe.task.name and not recipe.task.given:
        plugins = (*plugins, ("task", "name"))
    name = recipe.model.name
    library, colon, _ = name.partition(":")
    if not colon or name.endswith(".cfg") or recipe.model.given:
        return plugins
    if library not in _LIBRARIES:
        return (*plugins, ("model", "name"))
    options = (("model", "options", option) for option in recipe.model.options if option.startswith(_OPENING))
    return (*plugins, *options)


def _is_installed(plugin: str) -> bool:
    """Whether a plug-in is an installed one, which is loaded anyway."""
    known = installed_modules()
    return plugin in known or plugin in known.values()


def code_of(recipe: Recipe) -> str | None:
    """What of the user's or others' code a recipe names, in words; ``None`` where it names none."""
    first = next(iter(places_of_code(recipe)), None)
    if first is None:
        return None
    if first[0] == "use":
        return f"use {recipe.use[int(first[1])]!r}"
    if first[0] == "task":
        return f"task {recipe.task.name!r}"
    name = recipe.model.name
    return f"model {name!r}" if first[-1] == "name" and len(first) == 2 else f"the option {first[-1]!r} of {name!r}"


def permit_recipe(recipe: Recipe, *, trust: bool) -> None:
    """Lets a recipe pass that names no code, or code of the user's own project.

    Raises:
        InputError: It came from a file and names other code.
    """
    if not trust and recipe.origin is not None and (code := code_of(recipe)) and not _of_project(recipe.origin, recipe):
        raise _refusal(recipe.origin, code)


def permit_plugins(tree: YamlTree, origin: Path, *, project: bool = True) -> None:
    """Lets the file of a recipe pass whose plug-ins are the user's own, before any of them is imported.

    Args:
        tree: The parsed file.
        origin: The file.
        project: Whether those of the project that the file lies in are the user's own.

    Raises:
        InputError: It names a plug-in that is neither installed, nor of the user's own project, nor named by the user.
    """
    for place, plugin in enumerate(as_list(tree.data.get("use"))):
        own = _is_installed(str(plugin)) or tree.typed(("use", place))
        if not own and not (project and _is_plugin_of_project(origin, str(plugin))):
            code = f"use {str(plugin)!r:.100}"
            raise _refusal(origin, code) if project else _strange_run(origin.parent, code)


def _refusal(origin: Path, code: str) -> InputError:
    return InputError(
        f"{origin} names code: {code}. It was not run, for somebody else's recipe could so run anything. "
        "Code of your own project runs if the recipe and the file that defines it lie below the working directory "
        f"({Path.cwd()}); if you know the recipe, use --trust (in Python trust=True), or name the network yourself "
        "with --model, and the plug-in with --use."
    )


def permit_folder(folder: Path, recipe: Recipe, home: Path | None, *, trust: bool) -> None:
    """Lets a run's folder pass that names no code, or that was started here.

    Args:
        folder: The run or comparison.
        recipe: Its recipe.
        home: What :func:`home_of` said.
        trust: Whether the user trusts it.

    Raises:
        InputError: It names code, and there is no record of it.
    """
    code = code_of(recipe)
    if code is None or trust or home is not None:
        return
    raise _strange_run(folder, code)


def _strange_run(folder: Path, code: str) -> InputError:
    return InputError(
        f"The run in {folder} names code: {code}. It was not started here by you (or was moved or changed since), so "
        "nothing of it was run. If you know where it is from, use --trust (in Python trust=True)."
    )


def _of_project(origin: Path, recipe: Recipe) -> bool:
    """Whether a recipe and all code that it names lie below the working directory."""
    here = Path.cwd().resolve()
    if not origin.resolve().is_relative_to(here):
        return False
    for place in places_of_code(recipe):
        if place[0] == "use":
            own = _is_plugin_of_project(origin, recipe.use[int(place[1])])
        else:
            module, _, factory = (recipe.task if place[0] == "task" else recipe.model).name.partition(":")
            own = in_project(module, factory, here)
        if not own:
            return False
    return True


def _is_plugin_of_project(origin: Path, plugin: str) -> bool:
    here = Path.cwd().resolve()
    found = is_below(file_of(plugin, here), here) if is_file(plugin) else module_in_project(plugin, here)
    return origin.resolve().is_relative_to(here) and found


# ------------------------------------------------------------------------------------------------------ records


def digest_of(*contents: bytes) -> str:
    """The digest of what says what a run does: of one file its SHA-256, of several that of all their digests."""
    found = [hashlib.sha256(content) for content in contents]
    return found[0].hexdigest() if len(found) == 1 else hashlib.sha256(b"".join(f.digest() for f in found)).hexdigest()


def record(folder: Path, content: str) -> None:
    """Notes that this user starts a run here, from the present working directory.

    Args:
        folder: Where the run lies.
        content: Digest of what says what it does.

    A state folder that cannot be written costs a warning: the run goes on, and will need ``--trust`` later if it names
    code.
    """
    try:
        place = _place(folder)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = place.with_suffix(f".{os.getpid()}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"folder": str(folder.resolve()), "content": content, "home": str(Path.cwd())}, file)
        temporary.replace(place)
    except (OSError, RuntimeError) as error:  # a user without a home is a RuntimeError
        reason = getattr(error, "strerror", None) or first_line(error)
        warnings.warn(
            f"It is not noted that you started {folder}, for your state folder cannot be written ({reason}); if its "
            "recipe names code of yours, going on with it will take --trust.",
            stacklevel=2,
        )


def home_of(folder: Path, content: str) -> Path | None:
    """The working directory in which this user started a run; ``None`` without a record of this folder and content."""
    with contextlib.suppress(SecateurError, OSError, RuntimeError):
        found = read_json(_place(folder), InputError, largest=100_000)
        if isinstance(found, dict) and (found.get("folder"), found.get("content")) == (str(folder.resolve()), content):
            return Path(str(found.get("home")))
    return None


def _place(folder: Path) -> Path:
    name = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()
    return _state_folder() / "secateur" / "runs" / f"{name}.json"


def _state_folder() -> Path:
    """Where programs keep what they know of a user's work.

    Raises:
        RuntimeError: The user has no home.
    """
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    if given.is_absolute():  # any other is to be ignored, says the specification: it would depend on where one stands
        return given
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    if sys.platform == "win32" and "LOCALAPPDATA" in os.environ:
        return Path(os.environ["LOCALAPPDATA"])
    return Path.home() / ".local" / "state"
