"""A full-integer file as a C array, for microcontrollers, which have no files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from os import PathLike
from pathlib import Path

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.core.files import disk_errors, write_text
from secateur.core.reading import read_bytes
from secateur.runtimes import RUNTIMES, Runtime
from secateur.runtimes.integer import IntegerFacts, QuantisedTensor

__all__ = ["write_c_array"]

_OURS = "// Written by Secateur from "
_COLUMNS = 16


@arguments.checked
def write_c_array(file: str | PathLike[str]) -> tuple[Path, Path]:
    """Writes ``NAME.h`` and ``NAME.cc`` beside a full-integer file ``NAME.tflite``.

    The array is called ``NAME_tflite``, aligned to 16 bytes as interpreters want it; the header says its length and,
    of every input and output, entries, scale and zero point: ``real = scale · (integer − zero point)``. Both are C11
    and C++11.

    Args:
        file: What :func:`secateur.export` with ``integer=True`` wrote.

    Returns:
        The two files.

    Raises:
        InputError: There is no such file, it does not compute in integers alone, or one of the two names is taken by
            a file of the user's own.
    """
    file = Path(file)
    if re.search(r'["\\\x00-\x1f]', file.name):
        raise InputError(f"C cannot include a file of the name {file.name!r}; use letters, digits, - and _.")
    facts = _facts(file, read_bytes(file, InputError))
    made = {file.with_suffix(".h"): _header(file, facts), file.with_suffix(".cc"): _source(file)}
    for path in made:
        if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(_OURS):
            raise InputError(f"{path} exists already and is none of Secateur's; move it, or choose another name.")
    with disk_errors(file.parent):
        for path, text in made.items():
            write_text(path, text)
    header, source = made
    return header, source


def _facts(file: Path, content: bytes) -> IntegerFacts:
    runtime = _runtime_of(file)
    try:
        facts = runtime.integer_facts(file)
    except InputError:
        raise
    except Exception as error:  # the tables of a damaged file
        raise InputError(f"{file} is damaged: its {len(content):,} bytes are no network.") from error
    if facts.floats or not all(end.scale for end in (*facts.inputs, *facts.outputs)):
        raise InputError(
            f"{file} does not compute in integers alone; export it with integer=True and calibration samples "
            "(--integer)."
        )
    return facts


def _runtime_of(file: Path) -> Runtime:
    able = [one for one in (RUNTIMES[name] for name in RUNTIMES) if one.integer]
    found = next((one for one in able if one.recognises(file)), None)
    if found is None:
        endings = ", ".join(one.suffix for one in able)
        raise InputError(f"{file} is no file that a C array is made of; those are {endings} files in integers alone.")
    return found


def _name(file: Path) -> str:
    name = re.sub(r"\W", "_", f"{file.stem}_{file.suffix[1:]}", flags=re.ASCII)
    return f"n{name}" if name[0].isdigit() else name


def _header(file: Path, facts: IntegerFacts) -> str:
    name, size = _name(file), file.stat().st_size
    lines = [
        f"{_OURS}{file.name}: {size} bytes of flash.",
        f"// At least {facts.activations} bytes of activations are alive at once; an arena holds more, as the runtime",
        "// adds its own.",
        "#pragma once",
        "",
        *_ends("INPUT", facts.inputs, name),
        *_ends("OUTPUT", facts.outputs, name),
        f"extern const unsigned char {name}[];",
        f"extern const unsigned int {name}_len;",
    ]
    return "\n".join(lines) + "\n"


def _ends(kind: str, tensors: tuple[QuantisedTensor, ...], name: str) -> Iterator[str]:
    for number, tensor in enumerate(tensors):
        head = f"{name.upper()}_{kind}_{number}"
        yield f"// int8, {'×'.join(map(str, tensor.shape))}: real = scale * (integer - zero point)"
        yield f"#define {head}_SIZE {prod(tensor.shape)}"
        yield f"#define {head}_SCALE {tensor.scale:.9e}f"
        yield f"#define {head}_ZERO_POINT ({tensor.zero_point})"
        yield ""


def _source(file: Path) -> str:
    content, name = file.read_bytes(), _name(file)
    rows = (content[start : start + _COLUMNS] for start in range(0, len(content), _COLUMNS))
    table = "\n".join("  " + " ".join(f"0x{byte:02x}," for byte in row) for row in rows)
    return (
        f'{_OURS}{file.name}.\n#include "{file.stem}.h"\n\n#ifndef __cplusplus\n#include <stdalign.h>\n#endif\n\n'
        f"alignas(16) const unsigned char {name}[] = {{\n{table}\n}};\n"
        f"const unsigned int {name}_len = {len(content)};\n"
    )
