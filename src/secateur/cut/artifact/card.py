"""The card of an artifact: a README.md that says what the network is, what was cut, and how it is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import Tensor
from torch.utils import _pytree as pytree

import secateur
from secateur.core.plan import Plan
from secateur.core.types import Counts

if TYPE_CHECKING:
    from secateur.cut.pruned import Pruned

__all__ = ["CARD", "card", "is_ours"]

CARD = "README.md"
_OURS = "<!-- This card was written by Secateur. Take this line out, and it is left as you change it. -->"
_MANY = 40
"""Rows of the table of tensors; networks have hundreds."""


def is_ours(file: Path) -> bool:
    """Whether a card may be replaced: there is none, or one that was generated."""
    return not file.exists() or _OURS in file.read_text(encoding="utf-8", errors="replace")


def card(pruned: Pruned, source: str, *, graph: bool, metadata: Mapping[str, Any] | None = None) -> str:
    """The card as text: YAML between two lines of dashes, as the Hub reads it, and Markdown.

    Args:
        pruned: The network.
        source: What :func:`secateur.from_pretrained` is called with.
        graph: Whether the artifact holds its graph, so that it loads without the user's code.
        metadata: Further entries of the YAML (``license``, ``base_model``, ``datasets`` …), or others in their place.
    """
    front = {"library_name": "secateur", "tags": ["secateur", "pruning", "pytorch"], **(metadata or {})}
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    name = source.rstrip("/").rpartition("/")[2]
    parts = [
        f"# {_text(name)}",
        _OURS,
        f"`{_code(_class(pruned))}`, pruned and verified by Secateur {secateur.__version__}.",
        _sizes(pruned),
        "## What was cut",
        "\n".join(_cuts(pruned.plan)),
        _tensors(pruned),
        "## Is it the same network?",
        _proof(pruned),
        "## How to load it",
        _loading(pruned, source, graph),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(filter(None, parts)) + "\n"


def _class(pruned: Pruned) -> str:
    dense = pruned.model if pruned.dense is None else pruned.dense
    return type(dense).__name__


def _sizes(pruned: Pruned) -> str:
    before, after = _dense(pruned), pruned.after
    rows = [("Parameters", before.params, after.params), ("MACs", before.macs, after.macs)]
    lines = [f"| {name} | {b:,} | {a:,} | {f'{a / b:.1%}' if b else '–'} |" for name, b, a in rows]
    return "\n".join(["| | Dense | Pruned | Kept |", "|---|---:|---:|---:|", *lines])


def _dense(pruned: Pruned) -> Counts:
    """Sizes before the first cut, which is not always the last one."""
    first = (pruned.plan.parts or (pruned.plan,))[0].provenance.get("before")
    params, macs = (first.get("params"), first.get("macs")) if isinstance(first, Mapping) else (None, None)
    return Counts(params, macs) if type(params) is int and type(macs) is int else pruned.before


def _cuts(plan: Plan) -> Iterator[str]:
    """One line for every cut, in order: what decided, and how much."""
    for number, part in enumerate(plan.parts or (plan,), start=1):
        known = part.provenance
        amount = next((f"{key} {known[key]}" for key in ("target", "ratio", "count") if known.get(key) is not None), "")
        words = [f"criterion `{_code(known['criterion'])}`"] if known.get("criterion") else []
        words += [_text(amount)] if amount else []
        words += [f"scope {_text(known['scope'])}"] if known.get("scope") else []
        words += [f"branches {', '.join(f'`{_code(name)}`' for name in part.removed)}"] if part.removed else []
        yield f"{number}. {'; '.join(words) or 'by a plan'}"


def _tensors(pruned: Pruned) -> str:
    """The parameters that lost entries, with their shapes before and after."""
    plan = pruned.plan
    rows = []
    for name, _ in pruned.model.named_parameters():
        dense = plan.dense_shapes.get(name)
        if dense is None or not plan.keep.get(name):
            continue
        now = tuple(len(plan.keep[name].get(d, range(size))) for d, size in enumerate(dense))
        rows.append(f"| `{_code(name)}` | {_shape(dense)} | {_shape(now)} |")
    if not rows:
        return ""
    more = [f"\n… and {len(rows) - _MANY} more: `plan.json` has all of them."] if len(rows) > _MANY else []
    return "\n".join(["| Parameter | Dense | Now |", "|---|---|---|", *rows[:_MANY], *more])


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _proof(pruned: Pruned) -> str:
    proof = pruned.verification
    if proof is None:
        return "The cut was not verified."
    if not proof.proven:
        return "The cut was not proven: nothing that was tried moves the network's output."
    return (
        f"When it was cut, it was compared with the dense network whose removed entries were set to zero: verified to "
        f"a relative error of {proof.max_relative_error:.1e} (allowed: {proof.tolerance:.0e}). Training since then, if "
        "any, is not part of that."
    )


def _loading(pruned: Pruned, source: str, graph: bool) -> str:
    lines = ["import secateur", ""]
    if graph:
        lines += [f"pruned = secateur.from_pretrained({source!r})  # needs none of the code that it was made with"]
    else:
        lines += [f"network = …  # a fresh dense {_class(pruned)}, from your own code",
                  f"pruned = secateur.from_pretrained({source!r}, model=network)"]  # fmt: skip
    lines += ["outputs = pruned.model(*inputs)"]
    tensors = [t for t in pytree.tree_leaves(pruned.example_inputs) if isinstance(t, Tensor)]
    inputs = ", ".join(f"{_shape(t.shape)} ({str(t.dtype).removeprefix('torch.')})" for t in tensors)
    code = "\n".join(lines)
    return f"```python\n{code}\n```" + (f"\n\nInputs that it was made with: {inputs}." if inputs else "")


def _text(value: Any) -> str:
    """A text of the user's as Markdown that says the same: no mark-up, no HTML, one line."""
    return re.sub(r"([\\`*_{}\[\]<>()#|&!])", r"\\\1", " ".join(str(value).split()))


def _code(value: Any) -> str:
    """A name between back quotes, in a table or not."""
    return re.sub(r"[`|<>]", "?", " ".join(str(value).split()))
