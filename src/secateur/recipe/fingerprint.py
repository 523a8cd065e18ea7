"""What a run began with, in digests: if pixels, labels, classes or weights are others now, a resume says so.

Images in memory are digested whole. Of images that are decoded from files as they are asked for, it is the
files: names, sizes and content; of more than 8 GiB of files, of each the size and three pieces of 16 KiB.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.core.errors import DataError, WeightsError
from secateur.core.reading import file_digest, opened
from secateur.recipe.prepare import NOTHING, Given
from secateur.recipe.records import DataPrint, SplitPrint
from secateur.recipe.schema import Recipe
from secateur.recipe.steps.weights import contents
from secateur.task import Classification

if TYPE_CHECKING:
    from secateur.data.types import AnySplit
    from secateur.task import Task

__all__ = ["changes", "compare_data", "compare_inputs", "data_print", "input_digests", "step_files"]

WHOLE_BYTES = 8 * 2**30
_PIECE = 16 * 2**10
_WORDS = {"train": "training samples", "validation": "validation samples", "test": "test samples"}


def data_print(task: Task) -> DataPrint:
    """Digests of a task's data: 0.2 s for 154 MB of images in memory, and a reading of the files for others.

    Of a loader of the user's own it is the first batch and the number of samples.

    Raises:
        DataError: A file cannot be read.
    """
    if not isinstance(task, Classification):
        found = {
            name: SplitPrint(samples=task.samples(name) or 0, labels="0" * 64, content=task.fingerprint(name))
            for name in _WORDS
        }
        return DataPrint(classes=list(task.classes), shape=[], splits=found)
    data = task.data
    splits = {name: _split_print(getattr(data, name)) for name in _WORDS}
    return DataPrint(classes=list(data.classes), shape=list(data.shape), splits=splits)


def _split_print(split: AnySplit) -> SplitPrint:
    labels = hashlib.sha256(split.labels.contiguous().numpy().data)
    files = getattr(split, "files", None)
    content = _of_pixels(split) if files is None else _of_files(files)
    return SplitPrint(samples=len(split), labels=labels.hexdigest(), content=content)


def _of_pixels(split: AnySplit) -> str:
    digest = hashlib.sha256()
    for images, _ in split.batches(1000):
        digest.update(images.contiguous().numpy().data)
    return digest.hexdigest()


def _of_files(files: tuple[Path, ...]) -> str:
    """Of names below what the files have in common, so that a folder that was moved is the same."""
    digest = hashlib.sha256()
    top = os.path.commonpath([file.parent for file in files]) if files else ""
    whole = sum(_size(file) for file in files) <= WHOLE_BYTES
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for file, found in zip(files, pool.map(lambda file: _of_file(file, whole=whole), files), strict=True):
            digest.update(f"{os.path.relpath(file, top)}\0{found}\n".encode())
    return digest.hexdigest()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise DataError(f"Cannot read {file}: {error.strerror}.") from error


def _of_file(path: Path, *, whole: bool) -> str:
    with opened(path, DataError) as file:
        if whole:
            return hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        for start in (0, size // 2, max(0, size - _PIECE)):
            file.seek(start)
            digest.update(file.read(_PIECE))
        return digest.hexdigest()


def changes(then: DataPrint, now: DataPrint) -> list[str]:
    """What is other than it was, in words.

    >>> one = SplitPrint(samples=3, labels="0" * 64, content="0" * 64)
    >>> then = DataPrint(classes=["cat", "dog"], shape=[3, 8, 8], splits={"train": one})
    >>> changes(then, DataPrint(classes=["cat", "fox"], shape=[3, 8, 8], splits={"train": one}))
    ["class 1 is called 'fox' and was called 'dog'"]
    """
    return [*_class_changes(then.classes, now.classes), *_image_changes(then, now)]


def _class_changes(then: list[str], now: list[str]) -> Iterator[str]:
    if len(then) != len(now):
        yield f"there are {len(now):,} classes and were {len(then):,}"
        return
    found = [(k, a, b) for k, (a, b) in enumerate(zip(then, now, strict=True)) if a != b]
    if found:
        number, a, b = found[0]
        more = f" ({len(found):,} have other names)" if len(found) > 1 else ""
        yield f"class {number} is called {b!r:.60} and was called {a!r:.60}{more}"


def _image_changes(then: DataPrint, now: DataPrint) -> Iterator[str]:
    if then.shape != now.shape:
        yield f"images are of {'×'.join(map(str, now.shape))} and were of {'×'.join(map(str, then.shape))}"
        return
    for name, words in _WORDS.items():
        a, b = then.splits.get(name), now.splits.get(name)
        if a is None or b is None or a == b:
            continue
        if a.samples != b.samples:
            yield f"there are {b.samples:,} {words} and were {a.samples:,}"
        elif a.content != b.content:
            yield f"the {words} have changed"
        else:
            yield f"the labels of the {words} have changed"


def compare_data(folder: Path, then: DataPrint | None, task: Task) -> None:
    """Compares a task's data with what a run noted when it began; an earlier version noted nothing.

    Raises:
        DataError: Names what has changed.
    """
    if then is not None and (found := changes(then, data_print(task))):
        raise DataError(
            f"The data of the run in {folder} have changed since it began: {'; '.join(found)}. Put them back as they "
            "were, or start a new run."
        )


def input_digests(recipe: Recipe, given: Given = NOTHING) -> dict[str, str]:
    """Digests of the files that the network is made from, by their key in the recipe, and of one that was given."""
    known = {} if given.model is None else {"model": contents(given.model)}
    return {**known, **{key: file_digest(path, WeightsError) for key, path in _input_files(recipe).items()}}


def _input_files(recipe: Recipe) -> dict[str, Path]:
    model = recipe.model
    name = model.name if model.name.endswith(".cfg") else None  # any other name means no file
    named = {"name": name, "weights": model.weights, "adapted": model.adapted}
    return {f"model.{key}": Path(value) for key, value in named.items() if value is not None and _is_file(value)}


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def compare_inputs(folder: Path, then: Mapping[str, str], recipe: Recipe, given: Given = NOTHING) -> None:
    """Compares the files that the network is made from with what a run noted when it began.

    Raises:
        WeightsError: Names the one that has changed or is gone.
    """
    files = _input_files(recipe)
    for key, digest in then.items():
        if key == "model":
            if given.model is not None and contents(given.model) != digest:
                raise WeightsError(
                    f"The network that was given has other weights than when the run in {folder} began. Give it as it "
                    "was then, or start a new run."
                )
            continue
        path = files.get(key)
        if path is None or file_digest(path, WeightsError) != digest:
            what = f"{path} has changed" if path is not None else f"The file that {key} names is gone"
            raise WeightsError(
                f"{what} since the run in {folder} began with it ({key}). Put it back as it was, or start a new run."
            )


def step_files(folder: Path) -> dict[str, str]:
    """Digests of what a step leaves to later ones; training's own checkpoints are not read again once it is done."""
    paths = sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
    return {p.name: file_digest(p, WeightsError) for p in paths if p.name[0] != "." and p.suffix != ".pt"}
