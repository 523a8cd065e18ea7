"""The folder of a run: made whole or not at all, read back after a stop."""

from __future__ import annotations

import datetime
import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core.errors import DataError, InputError, WeightsError
from secateur.core.files import new_folder, read_json, refuse_links, write_json, write_text
from secateur.core.reading import file_digest, read_bytes
from secateur.loggers.log import RECORD, new_record
from secateur.recipe import trust
from secateur.recipe.fingerprint import (
    compare_data,
    compare_inputs,
    data_print,
    input_digests,
    step_files,
)
from secateur.recipe.load import load_recipe
from secateur.recipe.prepare import NOTHING, Given, seeds
from secateur.recipe.records import REMEDY, Environment, RunState, read_record
from secateur.recipe.schema import Recipe
from secateur.recipe.shelf import LARGEST
from secateur.timing import machine

if TYPE_CHECKING:
    from secateur.task import Task

__all__ = ["RunFolder", "free", "read_state", "refuse_used", "step_names"]

FORMAT = 2


@dataclass(frozen=True)
class RunFolder:
    """A folder with ``recipe.yaml``, ``environment.json`` and ``state.json``, and what steps add.

    Attributes:
        path: The folder.
        about: Contents of ``environment.json``: command, data, machine and versions, seeds, creation time.
        home: Working directory from which relative paths of the recipe start: that in which the run was started, if it
            is known or trusted; else the present one.
        own: Whether this user started the run here.
        trusted: Whether the user said that it may name code.
    """

    path: Path
    about: dict[str, Any]
    home: Path
    own: bool = True
    trusted: bool = False

    @classmethod
    def create(
        cls,
        path: Path,
        recipe: Recipe,
        task: Task,
        command: str | None,
        given: Given = NOTHING,
        *,
        log: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> RunFolder:
        """Makes the folder with everything that a resume needs; ``log`` names its loggers, ``notes`` go to the report.

        Raises:
            InputError: The folder holds something already, or cannot be made.
        """
        text = recipe.to_yaml()
        about = {**_about(path, recipe, task, command), "notes": list(notes)}
        digest = hashlib.sha256(text.encode()).hexdigest()
        state = {
            "format": FORMAT,
            "recipe_sha256": digest,
            "home": str(Path.cwd()),
            "done": [],
            "data": data_print(task).model_dump(),
            "inputs": input_digests(recipe, given),
            "files": {},
        }
        with new_folder(path) as new:
            write_text(new / "recipe.yaml", text)
            write_json(new / "environment.json", about)
            write_json(new / "state.json", state)
            if log:
                write_json(new / RECORD, new_record(log))
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
        refuse_links(path)
        state, _ = read_record(path / "state.json", RunState)
        if state.format != FORMAT:
            raise DataError(
                f"{path / 'state.json'} has format {state.format!r}; this version of Secateur reads "
                f"format {FORMAT}. Start the run again."
            )
        digest = hashlib.sha256(read_bytes(path / "recipe.yaml", DataError, largest=LARGEST)).hexdigest()
        if digest != state.recipe_sha256:
            raise InputError(
                f"{path / 'recipe.yaml'} was changed after its run began. Undo the change, or start a new "
                f"run with `secateur run {path / 'recipe.yaml'} --out ANOTHER_FOLDER`."
            )
        known = trust.home_of(path, digest)
        home = known or (Path(state.home) if trusted else Path.cwd())
        _, about = read_record(path / "environment.json", Environment)
        return cls(path, about, home, known is not None, trusted)

    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return load_recipe(self.path / "recipe.yaml", home=self.home, trust=self.own or self.trusted, project=False)

    def state(self) -> RunState:
        """How far the run is.

        Raises:
            DataError: ``state.json`` is damaged, or names steps as done that its recipe does not begin with.
        """
        return read_state(self.path, self.recipe())

    def done(self) -> list[str]:
        """Names of the finished steps, in order."""
        return self.state().done

    def finish(self, step: str) -> None:
        """Notes ``step`` as done, and what it wrote."""
        state = read_json(self.path / "state.json")
        files = {**state.get("files", {}), step: step_files(self.path / "steps" / step)}
        write_json(self.path / "state.json", {**state, "done": [*state["done"], step], "files": files})

    def compare(self, recipe: Recipe, task: Task, given: Given = NOTHING) -> None:
        """Compares what the run began with, and what its steps wrote, with what is there now.

        Raises:
            DataError: The data set has changed since the run began, or files of a finished step.
            WeightsError: Weights have.
        """
        state = self.state()
        compare_data(self.path, state.data, task)
        compare_inputs(self.path, state.inputs, recipe, given)
        self.compare_files()

    def compare_files(self) -> None:
        """Compares what the finished steps wrote with their digests, before any of it is loaded.

        Raises:
            WeightsError: Names a file that has changed or is gone.
        """
        for step, files in self.state().files.items():
            for name, digest in files.items():
                path = self.path / "steps" / step / name
                if not path.is_file() or file_digest(path, WeightsError) != digest:
                    what = "has changed since its step ended" if path.is_file() else "is gone"
                    raise WeightsError(f"{path} {what}. {REMEDY}")


def read_state(path: Path, recipe: Recipe) -> RunState:
    """Reads the state of the run in ``path``.

    Raises:
        DataError: It is damaged, or names steps as done that the recipe does not begin with.
    """
    state, _ = read_record(path / "state.json", RunState)
    names = step_names(recipe)
    if state.done != names[: len(state.done)] or not set(state.files) <= set(state.done):
        raise DataError(
            f"{path / 'state.json'} is damaged: the steps that it names as done are not those that the recipe begins "
            f"with. {REMEDY}"
        )
    return state


def step_names(recipe: Recipe) -> list[str]:
    """What the steps are called in a run, for instance ``03-prune``."""
    return [f"{number:02d}-{step.kind}" for number, step in enumerate(recipe.steps, start=1)]


def refuse_used(path: Path) -> None:
    """Raises :class:`InputError` if a run cannot be started in ``path``; offers to go on with one there."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; give a folder that does not exist yet.")
    if path.is_dir() and any(path.iterdir()):
        ours = (path / "recipe.yaml").exists()
        offer = f"Go on with its run: `secateur resume {path}`, or choose" if ours else "Choose"
        raise InputError(f"The folder {path} is not empty. {offer} another --out.")


def _about(path: Path, recipe: Recipe, task: Task, command: str | None) -> dict[str, Any]:
    return {
        "command": command or f"secateur run {shlex.quote(str(path / 'recipe.yaml'))}",
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "data": task.describe(),
        "metrics": [metric.to_dict() for metric in task.metrics],
        "unit": task.unit,
        "seeds": seeds(recipe),
        "machine": machine().to_json(),
    }


def free(path: Path) -> Path:
    """The first of ``path``, ``path-2``, … that is not there."""
    names = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 10_000)))
    return next(name for name in names if not name.exists())
