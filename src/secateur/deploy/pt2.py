"""Writing ``.pt2`` files, and reading those that somebody else may have made.

``torch.export.load`` unpickles weights, constants and sample inputs that the archive marks so, evaluates size
expressions and looks up operators by dotted name: a crafted file runs code. Here the archive is looked through
first, and only plain data, plain expressions and known operators pass.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from secateur.deploy.formats import FORMATS, Format
from secateur.errors import WeightsError
from secateur.graph.trace import Exported

__all__ = ["read_program", "write_program"]

_PLAIN = re.compile(
    r"(archive_format|archive_version|byteorder|\.data/(version|serialization_id|alignment)"
    r"|models/\w+\.json|data/(weights|constants)/(\w+_config\.json|weight_\d+|tensor_\d+)"
    r"|data/sample_inputs/\w+\.pt|extra/[\w.]+)"
)
_OPERATOR = re.compile(r"torch\.ops\.[a-z]\w*\.\w+(\.\w+)?|_operator\.\w+|math\.\w+|torch\.sym_\w+|torch\._sym_sqrt")
_EXPRESSION = re.compile(r"[\w\s+\-*/(),.<>=!&|~%]*")
_WORDS = {"FloorDiv", "Mod", "PythonMod", "ModularIndexing", "CleanDiv", "CeilDiv", "Max", "Min", "Pow", "PowByNatural",
          "IntTrueDiv", "FloatTrueDiv", "TruncToInt", "CeilToInt", "FloorToInt", "RoundToInt", "ToFloat", "Identity",
          "Integer", "Rational", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "True", "False", "floor",
          "ceiling", "sqrt", "oo", "int_oo", "Symbol", "positive", "integer", "nonnegative",
          "Add", "Mul", "Float"}  # fmt: skip


def write_program(traced: Exported, path: Path) -> None:
    """Writes the traced network; the inputs that come with it are zeros (:mod:`secateur.deploy.private`)."""
    torch.export.save(traced.program, path)


def read_program(path: Path) -> torch.export.ExportedProgram:
    """Loads an exported program after checking that nothing in it can run code.

    Raises:
        WeightsError: Not a ``.pt2`` archive, damaged, or it holds a pickle, an unknown member, a function
            that is no operator, or an expression that is more than arithmetic; names what.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check(path, archive)
        return torch.export.load(path)
    except WeightsError:
        raise
    except Exception as error:
        words = (str(error).strip().splitlines() or [""])[0]
        raise WeightsError(f"{path} cannot be read as a .pt2 archive: {type(error).__name__}: {words}.") from error


def _check(path: Path, archive: zipfile.ZipFile) -> None:
    names = archive.namelist()
    root = names[0].partition("/")[0] if names else ""
    for name in names:
        member = name.removeprefix(f"{root}/")
        if not _PLAIN.fullmatch(member):
            raise WeightsError(
                f"{path} holds {name!r}, which has no place in a self-contained network; it was not loaded."
            )
        if member.endswith("_config.json"):
            _no_pickles(path, name, json.loads(archive.read(name)))
        elif member.endswith(".json"):
            _plain_graph(path, json.loads(archive.read(name)))
        elif member.endswith(".pt"):
            torch.load(io.BytesIO(archive.read(name)), weights_only=True)


def _no_pickles(path: Path, name: str, config: Any) -> None:
    for tensor, entry in config["config"].items():
        if entry.get("use_pickle") or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
            raise WeightsError(f"{path}: {name} wants to unpickle {tensor!r}, which could run code; it was not loaded.")


def _plain_graph(path: Path, graph: Any) -> None:
    for key, text in _texts(graph):
        if key == "target" and text.startswith(("torch.", "_operator.", "math.", "#")):
            if not _OPERATOR.fullmatch(text):
                raise WeightsError(f"{path} calls {text!r}, which is not an operator; it was not loaded.")
        elif key == "expr_str":
            plain = re.sub(r"'([suz][uf]?\d+)'", r"\1", text)  # names of sizes are quoted
            words = set(re.findall(r"[A-Za-z_]\w*", plain))
            strange = {w for w in words if w not in _WORDS and not re.fullmatch(r"[suz][uf]?\d+", w)}
            if strange or not _EXPRESSION.fullmatch(plain):
                raise WeightsError(
                    f"{path} holds the expression {text[:80]!r}, which is more than arithmetic; it was not loaded."
                )


def _texts(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string with the key that it stands under."""
    if isinstance(tree, str):
        yield key, tree
    elif isinstance(tree, dict):
        for name, value in tree.items():
            yield from _texts(value, name)
    elif isinstance(tree, list):
        for value in tree:
            yield from _texts(value, key)


FORMATS.add(
    "pt2", Format(".pt2", "PyTorch's ExportedProgram: runs without the network's own code", write_program, "pytorch")
)
