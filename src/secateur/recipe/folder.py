"""The folder of a run: made whole or not at all, read back after a stop."""

from __future__ import annotations

import datetime
import hashlib
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur import trust
from secateur.errors import DataError, InputError
from secateur.recipe.files import read_json, write_json, write_text
from secateur.recipe.load import load_recipe
from secateur.recipe.schema import Recipe

if TYPE_CHECKING:
    from secateur.data import DataSet

__all__ = ["RunFolder", "refuse_used"]

FORMAT = 1


@dataclass(frozen=True)
class RunFolder:
    """A folder with ``recipe.yaml``, ``environment.json`` and ``state.json``, and what steps add.

    Attributes:
        path: The folder.
        about: Contents of ``environment.json``: command, data, machine and versions, seeds, creation time.
        home: Working directory from which relative paths of the recipe start: that in which the run was started, if it
            is known or trusted; else the present one.
        own: Whether this user started the run here.
    """

    path: Path
    about: dict[str, Any]
    home: Path
    own: bool = True

    @classmethod
    def create(cls, path: Path, recipe: Recipe, data: DataSet, command: str | None) -> RunFolder:
        """Makes the folder with everything that a resume needs.

        Raises:
            InputError: The folder holds something already, or cannot be made.
        """
        text = recipe.to_yaml()
        about = _about(path, recipe, data, command)
        digest = hashlib.sha256(text.encode()).hexdigest()
        state = {"format": FORMAT, "recipe_sha256": digest, "home": str(Path.cwd()), "done": []}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
                new = Path(temporary) / "new"
                new.mkdir()
                write_text(new / "recipe.yaml", text)
                write_json(new / "environment.json", about)
                write_json(new / "state.json", state)
                new.rename(path)  # onto nothing or an empty folder; another process may have been quicker
        except (PermissionError, NotADirectoryError, FileNotFoundError, FileExistsError) as error:
            raise InputError(f"Cannot make the folder {path}: {error.strerror}. Choose another.") from error
        except OSError:
            refuse_used(path)
            raise
        trust.record(path, digest)
        return cls(path, about, Path.cwd())

    @classmethod
    def open(cls, path: Path, *, trusted: bool = False) -> RunFolder:
        """Reads the folder of a run; ``trusted`` believes what it says of its working directory.

        Raises:
            DataError: There is no run, or its files are damaged or of another version.
            InputError: Its recipe was changed after the run began.
        """
        if not (path / "recipe.yaml").is_file():
            raise DataError(
                f"There is no run in {path} (no recipe.yaml). Start one with "
                f"`secateur run transfer-channel --out {path}`."
            )
        state = read_json(path / "state.json")
        if state.get("format") != FORMAT:
            raise DataError(
                f"{path / 'state.json'} has format {state.get('format')!r}; this version of Secateur reads "
                f"format {FORMAT}. Start the run again."
            )
        digest = hashlib.sha256((path / "recipe.yaml").read_bytes()).hexdigest()
        if digest != state.get("recipe_sha256"):
            raise InputError(
                f"{path / 'recipe.yaml'} was changed after its run began. Undo the change, or start a new "
                f"run with `secateur run {path / 'recipe.yaml'} --out ANOTHER_FOLDER`."
            )
        known = trust.home_of(path, digest)
        home = known or (Path(str(state.get("home"))) if trusted else Path.cwd())
        return cls(path, read_json(path / "environment.json"), home, known is not None)

    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return load_recipe(self.path / "recipe.yaml")

    def done(self) -> list[str]:
        """Names of the finished steps, in order."""
        return list(read_json(self.path / "state.json")["done"])

    def finish(self, step: str) -> None:
        """Notes ``step`` as done."""
        state = read_json(self.path / "state.json")
        write_json(self.path / "state.json", {**state, "done": [*state["done"], step]})


def refuse_used(path: Path) -> None:
    """Raises :class:`InputError` if a run cannot be started in ``path``; offers to go on with one there."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; give a folder that does not exist yet.")
    if path.is_dir() and any(path.iterdir()):
        ours = (path / "recipe.yaml").exists()
        offer = f"Go on with its run: `secateur resume {path}`, or choose" if ours else "Choose"
        raise InputError(f"The folder {path} is not empty. {offer} another --out.")


def _about(path: Path, recipe: Recipe, data: DataSet, command: str | None) -> dict[str, Any]:
    from secateur.measure import machine
    from secateur.recipe.prepare import seeds
    from secateur.recipe.results import describe

    return {
        "command": command or f"secateur run {shlex.quote(str(path / 'recipe.yaml'))}",
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "data": describe(data),
        "seeds": seeds(recipe),
        "machine": machine().to_json(),
    }
