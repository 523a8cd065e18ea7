"""Wrong values in words, and what to hand over instead of those that are often tried."""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Mapping
from os import PathLike
from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor, nn

from secateur.core.hints import members

__all__ = ["advice", "shown"]

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = 3
_SHORT.maxlevel = 2
_SHORT.maxlong = 30


_MADE_BY = {
    "Pruned": "secateur.prune and secateur.apply return one.",
    "Plan": "It is the plan of what secateur.prune returned, or Plan.from_json(text).",
    "Target": "For instance secateur.Target(macs=0.5).",
    "Counts": "secateur.count(model, example_inputs) returns them.",
}


def shown(value: Any) -> str:
    """A value and its type, in one short line whatever it is.

    >>> shown({"0": 0.25}), shown(None), shown(np.zeros((2, 3)))
    ("{'0': 0.25} (dict)", 'None', 'an array of shape (2, 3)')
    """
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim:
        return f"{'a tensor' if isinstance(value, Tensor) else 'an array'} of shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value).__name__
    if isinstance(value, nn.Module):
        return f"a network ({kind})"
    try:
        text = " ".join(_SHORT.repr(value).split())
    except Exception:  # a repr of the user's own, or a number of too many digits
        text = "a value that cannot be shown"
    return f"{text} ({kind})"


def advice(name: str, value: Any, hint: Any) -> str:
    """What to do instead, in a sentence; empty where the refusal says it all."""
    wanted = members(hint)
    if nn.Module in wanted and str not in wanted:
        return _network(name, value)
    made = next((_MADE_BY[k.__name__] for k in wanted if getattr(k, "__name__", "") in _MADE_BY), "")
    if made:
        return made
    if float in wanted or int in wanted:
        return _number(name, value)
    if Tensor in wanted and isinstance(value, np.ndarray):
        return "torch.from_numpy(array) makes a tensor of it."
    if isinstance(value, (str, PathLike)) and _has_path(str(value), wanted):
        return "No part of a path is longer than 255 bytes or holds the character 0."
    return ""


def _has_path(text: str, wanted: tuple[Any, ...]) -> bool:
    return str in wanted and ("\0" in text or len(text.encode(errors="replace")) > 255)


def _number(name: str, value: Any) -> str:
    if isinstance(value, Mapping) and name == "ratio":
        return "A ratio per layer is a dict from names or patterns to numbers, where the function takes one."
    if isinstance(value, (bool, np.bool_)):
        return "True and False are no numbers here."
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, numbers.Integral):
        return "It has more than 64 bits."
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN and infinity are no amounts."
    return ""


def _quoted(text: str) -> str:
    try:
        number = float(text.strip().rstrip("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        return ""
    return f"Give the number itself: {number:g}." if math.isfinite(number) else ""


def _network(name: str, value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, (str, PathLike)):
        return _file(str(value))
    if kind == "ModelProto":
        return "Write it to a file: secateur.models.read_onnx(path) makes a network of that."
    if kind == "ExportedProgram":
        return "Hand over the original network, or program.module(), which computes the same."
    if kind in ("ScriptFunction", "RecursiveScriptClass"):
        return "TorchScript cannot be traced by torch.export: hand over the original network."
    if isinstance(value, Mapping):
        return (
            "A state dict holds weights without the code that uses them: build the network, then "
            "network.load_state_dict(weights), and hand over the network."
        )
    if isinstance(value, (list, tuple)):
        return "Call it once for each network; layers that follow each other are one: torch.nn.Sequential(*layers)."
    if isinstance(value, type):
        return f"That is the class: hand over an instance, {value.__name__}(…)."
    if isinstance(getattr(value, "model", None), nn.Module):
        return f"Hand over its network: {name}=….model."
    if callable(value):
        return "A function has no parameters: hand over the torch.nn.Module whose forward it is."
    return ""


def _file(text: str) -> str:
    if PurePath(text).suffix == ".onnx":
        return "secateur.models.read_onnx(path) makes a network of an ONNX file."
    return (
        "secateur.load(folder) opens what Pruned.save wrote; for a file of weights build the network and load them: "
        "secateur.models.create(name, weights=path), or load_state_dict."
    )
