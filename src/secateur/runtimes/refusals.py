"""Words for a converter's refusal: which operator of which module."""

from __future__ import annotations

import re

from torch.export import ExportedProgram
from torch.fx import Node

__all__ = ["first_words", "reason"]

# How converters print an operator: PyTorch's own form, and the dotted one.
_PRINTED = re.compile(r"OpOverload\(op='([\w.]+)', overload='(\w+)'\)")
_DOTTED = re.compile(r"\b(?:torch\.ops\.)?((?:aten|prims|\w+)\.\w+)\.(default|\w+)\b")


def reason(error: BaseException, title: str, program: ExportedProgram) -> str:
    """Words a conversion error with the operator that could not be converted and where it stands.

    Args:
        error: What the converter raised; its causes are searched too.
        title: The format, as people call it.
        program: What was converted; it knows the modules that its operators come from.
    """
    text = "\n".join(_chain(error))
    found = _PRINTED.search(text) or _known(text, program)
    if not found:
        return f"The conversion to {title} failed: {first_words(error)}"
    operator = found[1].replace("::", ".")
    return (
        f"The operator {operator}.{found[2]}{_where(operator, program)} cannot be converted to {title}. "
        "Express it with other operators, or export to 'pt2'."
    )


def first_words(error: BaseException) -> str:
    """Returns the class of an error and the first line of its message.

    >>> first_words(ValueError("too small\\nlong explanation"))
    'ValueError: too small'
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _chain(error: BaseException | None) -> list[str]:
    words: list[str] = []
    while error is not None:
        words.append(str(error))
        error = error.__cause__ or error.__context__
    return words


def _known(text: str, program: ExportedProgram) -> re.Match[str] | None:
    """The first operator in ``text`` that the program calls, or that one of its operators was decomposed into."""
    called = [_name(node) for node in program.graph.nodes if node.op == "call_function"]
    return next((f for f in _DOTTED.finditer(text) if f[1] in called or any(_stem(f[1]) in c for c in called)), None)


def _stem(operator: str) -> str:
    """An operator's last word without underscores: ``linalg_svdvals`` is decomposed into ``_linalg_svd``."""
    return operator.rpartition(".")[2].strip("_")


def _name(node: Node) -> str:
    return str(node.target).rpartition(".")[0]


def _where(operator: str, program: ExportedProgram) -> str:
    """Names the module and its class; an operator that was decomposed is looked for by its last word."""
    for node in program.graph.nodes:
        if node.op != "call_function" or (_name(node) != operator and _stem(operator) not in str(node.target)):
            continue
        stack = node.meta.get("nn_module_stack") or {}
        if stack:
            path, kind = list(stack.values())[-1]
            name = path.removeprefix("L['self']").strip(".")
            kind = kind if isinstance(kind, str) else kind.__name__
            return f" (module {name!r}, {kind.rpartition('.')[2]})" if name else f" (in {kind.rpartition('.')[2]})"
    return ""
