"""What files say of how they were made: one JSON text beside the graph (ONNX), read from safetensors too.

The weights of an artifact have none: the plan lies beside them, and their size is promised to the byte.

Digests, sizes and versions; nothing of the user's data, names or paths.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import torch

import secateur
from secateur.core.errors import InputError
from secateur.core.plan import Plan
from secateur.core.reading import opened, parse_json
from secateur.core.types import Counts
from secateur.models.safetensors_file import check_header
from secateur.runtimes.onnxruntime import is_onnx
from secateur.runtimes.packages import need

__all__ = ["KEY", "facts", "read_metadata", "write_onnx_metadata"]

KEY = "secateur"
"""Under which it stands; one key, since safetensors orders several by chance."""
_LARGEST = 2**20


def facts(plan: Plan | None, before: Counts | None = None, after: Counts | None = None) -> str:
    """The text: versions, and of a network that was cut the SHA-256 of its plan's JSON and the sizes where known.

    >>> sorted(json.loads(facts(None)))
    ['secateur', 'torch']
    """
    found: dict[str, Any] = {"secateur": secateur.__version__, "torch": str(torch.__version__)}
    if plan is not None:
        found["plan_sha256"] = hashlib.sha256(plan.to_json().encode()).hexdigest()
    if before is not None and after is not None:
        found |= {"params": [before.params, after.params], "macs": [before.macs, after.macs]}
    return json.dumps(found, sort_keys=True)


def write_onnx_metadata(file: Path, text: str) -> None:
    """Puts the text into the ``metadata_props`` of an ONNX file; weights in another file stay there."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    onnx.helper.set_model_props(model, {**{p.key: p.value for p in model.metadata_props}, KEY: text})
    file.write_bytes(model.SerializeToString())


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What Secateur wrote into a file of its own, empty for files of others and older ones.

    Args:
        path: An ``.onnx`` or a safetensors file.

    Returns:
        ``secateur`` and ``torch``, the versions; ``plan_sha256``, the digest of the plan's JSON; ``params`` and
        ``macs``, before and after the cut. The file's word, which anybody can have written.

    Raises:
        InputError: There is no such file, or ``onnx`` is missing for an ONNX file.
        WeightsError: It is no sound safetensors file.
    """
    path = Path(path)
    with opened(path, InputError):
        text = _of_onnx(path) if is_onnx(path) else _of_safetensors(path)
    if not isinstance(text, str) or len(text) > _LARGEST:
        return {}
    found = parse_json(text, f"What {path} says of itself", InputError)
    return found if isinstance(found, dict) else {}


def _of_onnx(path: Path) -> Any:
    need(("onnx",), "onnx", "Reading ONNX files")
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf has classes of its own
        raise InputError(f"{path} is no readable ONNX file.") from error
    return next((entry.value for entry in model.metadata_props if entry.key == KEY), None)


def _of_safetensors(path: Path) -> Any:
    check_header(path)
    with path.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    own = header.get("__metadata__")
    return own.get(KEY) if isinstance(own, dict) else None
