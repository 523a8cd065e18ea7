"""What ``hf:NAME`` names, and whether it can be read without running anybody's code."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.core.errors import InputError, SecateurError, WeightsError, first_line
from secateur.models._torchvision import import_torchvision

__all__ = ["PREFIX", "Source", "config_of", "is_transformer_name", "opened", "reading", "transformers", "unpickled"]

PREFIX = "hf:"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def is_transformer_name(name: str) -> bool:
    """Whether a network of the library transformers is named.

    >>> is_transformer_name("hf:models/small"), is_transformer_name("resnet56")
    (True, False)
    """
    return name.startswith(PREFIX)


@dataclass(frozen=True)
class Source:
    """Where a network comes from.

    Attributes:
        name: What the user called it.
        place: A folder, or the name of a repository of the Hub.
        local: Whether it is a folder; nothing is downloaded then.
        gguf: Name of a GGUF file in it; empty for a checkpoint of transformers.
    """

    name: str
    place: str
    local: bool
    gguf: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """What every ``from_pretrained`` is called with: no code of the source is run."""
        given: dict[str, Any] = {"local_files_only": self.local, "trust_remote_code": False}
        return {**given, "gguf_file": self.gguf} if self.gguf else given


def opened(name: str) -> Source:
    """Finds the folder, the file or the repository that ``hf:NAME`` means.

    Raises:
        InputError: There is none; or the folder holds no checkpoint, several GGUF files, or packages are missing.
        WeightsError: Its weights would have to be unpickled.
    """
    place = name.removeprefix(PREFIX)
    path = Path(place)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return _gguf(Source(name, str(path.parent), True, path.name))
    if path.is_dir():
        return _folder(name, path)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", place) or place.startswith(".") or path.suffix.lower() == ".gguf":
        raise InputError(
            f"There is no folder or GGUF file {place[:200]!r}. After {PREFIX} comes a folder with config.json and "
            "safetensors, a .gguf file, or a repository of the Hub as owner/name."
        )
    return Source(name, place, False)


def _folder(name: str, path: Path) -> Source:
    if not (path / "config.json").is_file():
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return _gguf(Source(name, str(path), True, files[0].name))
        if files:
            listed = ", ".join(file.name for file in files)
            raise InputError(f"The folder {path} holds {len(files)} GGUF files ({listed}): say which.")
        raise InputError(f"The folder {path} holds no network of transformers: there is no config.json in it.")
    if not list(path.glob("*.safetensors")):
        pickled = [file.name for pattern in _PICKLED for file in sorted(path.glob(pattern))]
        if pickled:
            raise WeightsError(unpickled(str(path), pickled[0]))
        raise WeightsError(f"The folder {path} holds no weights: there is no .safetensors file in it.")
    return Source(name, str(path), True)


def unpickled(place: str, file: str) -> str:
    """What is said of weights that only a pickle holds."""
    return (
        f"{place} has its weights in {file} alone, a pickle, which can run any code when it is opened, so it was not. "
        "Ask its author for safetensors; or, if you trust it, open it with transformers and write them with "
        "save_pretrained."
    )


def _gguf(source: Source) -> Source:
    from importlib.util import find_spec

    gone = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
    if gone:
        raise InputError(
            f'{source.name} is a GGUF file, and reading one needs {" and ".join(gone)}: pip install "secateur[gguf]".'
        )
    return source


def transformers() -> Any:
    """The library.

    Raises:
        InputError: It is not installed.
    """
    with contextlib.suppress(InputError):
        import_torchvision()  # the library does, and stumbles over one without its operators
    try:
        import transformers as library
    except ImportError as error:
        raise InputError('Networks by hf: need transformers: pip install "secateur[text]".') from error
    return library


@contextlib.contextmanager
def reading(source: Source, what: str) -> Iterator[None]:
    """Turns what transformers raises on reading into one sentence.

    Raises:
        InputError: Whatever it was.
    """
    try:
        yield
    except SecateurError:
        raise
    except Exception as error:
        where = "" if source.local else " (it is fetched from the Hub, if that can be reached)"
        said = first_line(error).rstrip(".")
        raise InputError(f"{what} of {source.name} cannot be read{where}: {type(error).__name__}: {said}.") from error


def config_of(source: Source) -> dict[str, Any]:
    """What the configuration of a source says, as plain data; no code is run for it.

    Raises:
        InputError: It cannot be read, or the network is one that needs code of its own.
    """
    library = transformers()
    with reading(source, "The configuration"):
        found, _ = library.PreTrainedConfig.get_config_dict(source.place, **source.arguments)
    _check(source, found, library)
    return dict(found)


def _check(source: Source, config: dict[str, Any], library: Any) -> None:
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "an unknown method") if isinstance(quantised, dict) else "a method"
        raise InputError(
            f"{source.name} is quantised ({method}): its weights are whole numbers with scales, which cannot be cut. "
            "Prune the network that it was made from, and quantise the result; of quantised files GGUF alone "
            "is turned back into floating-point numbers."
        )
    kernel = next((v for n, v in config.items() if "implementation" in n and "/" in str(v)), None)
    if kernel is not None:
        raise InputError(
            f"{source.name} asks for {kernel!r}, code from the Hub, which is never run: take the entry out."
        )
    kind = config.get("model_type")
    if kind not in library.CONFIG_MAPPING:
        own = " It brings code of its own (auto_map), which is never run." if config.get("auto_map") else ""
        raise InputError(
            f"transformers {library.__version__} knows no networks of the kind {kind!r} of {source.name}.{own}"
        )
