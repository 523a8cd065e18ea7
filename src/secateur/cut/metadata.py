"""What files say of how they were made and are used: one JSON text, where their format has a place for it.

Digests, sizes, versions, and of a task its kind, the names of its classes and how images are prepared; nothing else of
the user's data, and no names of people, machines or paths.

The weights of an artifact have it only where it was asked for: the plan beside them has it anyway, and their size is
promised to the byte.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import torch

import secateur
from secateur.core.errors import InputError, SecateurError, first_line
from secateur.core.plan import Plan
from secateur.core.reading import opened, parse_json, read_json
from secateur.core.types import Counts
from secateur.models.safetensors_file import check_header
from secateur.runtimes import RUNTIMES, Runtime
from secateur.runtimes.files import METADATA
from secateur.task.metadata import ModelMetadata

__all__ = ["KEY", "facts", "read_metadata"]

KEY = METADATA
"""Under which it stands in safetensors too; one key, since safetensors orders several by chance."""
_LARGEST = 2**20
_PLAN = "plan.json"


def facts(
    plan: Plan | None, before: Counts | None = None, after: Counts | None = None, metadata: ModelMetadata | None = None
) -> str:
    """The text: versions, of a network that was cut the SHA-256 of its plan's JSON and the sizes, and its metadata.

    >>> sorted(json.loads(facts(None)))
    ['secateur', 'torch']
    """
    found: dict[str, Any] = {"secateur": secateur.__version__, "torch": str(torch.__version__)}
    if plan is not None:
        found["plan_sha256"] = hashlib.sha256(plan.to_json().encode()).hexdigest()
    if before is not None and after is not None:
        found |= {"params": [before.params, after.params], "macs": [before.macs, after.macs]}
    if metadata is not None:
        found |= metadata.to_json()
    return json.dumps(found, sort_keys=True)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What Secateur wrote into a file of its own, empty for files of others and older ones.

    Args:
        path: An ``.onnx``, ``.xml`` (OpenVINO), ``.tflite`` or safetensors file, or the folder of an artifact.

    Returns:
        ``secateur`` and ``torch``, the versions; ``plan_sha256``, the digest of the plan's JSON; ``params`` and
        ``macs``, before and after the cut; ``task``, ``classes`` and ``preprocessing`` where they were given
        (docs/exporting.md says what is in them). The file's word, which anybody can have written.

    Raises:
        InputError: There is no such file, it is damaged, or the package that reads its format is missing.
        WeightsError: It is no sound safetensors file.
    """
    path = Path(path)
    if (path / _PLAN).is_file():
        record = read_json(path / _PLAN, InputError)
        text = record.get("about") if isinstance(record, dict) else None
    else:
        with opened(path, InputError):
            runtime = _runtime_of(path)
            text = _of_safetensors(path) if runtime is None else _of_file(path, runtime)
    if not isinstance(text, str) or len(text) > _LARGEST:
        return {}
    found = parse_json(text, f"What {path} says of itself", InputError)
    return found if isinstance(found, dict) else {}


def _runtime_of(path: Path) -> Runtime | None:
    """The runtime whose file it is: the first that writes its format."""
    return next((one for one in (RUNTIMES[name] for name in RUNTIMES) if one.writes and one.recognises(path)), None)


def _of_file(path: Path, runtime: Runtime) -> str | None:
    try:
        return runtime.read_metadata(path)
    except SecateurError:
        raise
    except Exception as error:  # every format's parser has classes of its own
        raise InputError(f"{path} is no readable file of the format {runtime.format!r}: {first_line(error)}") from error


def _of_safetensors(path: Path) -> Any:
    check_header(path)
    with path.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    own = header.get("__metadata__")
    return own.get(KEY) if isinstance(own, dict) else None
