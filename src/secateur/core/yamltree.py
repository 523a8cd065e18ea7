"""YAML read safely into plain data, with the line of every key kept for error messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from secateur.core.errors import InputError, first_line

__all__ = ["Place", "YamlTree", "parse"]

Place = tuple[str | int, ...]
"""Where a value lies: keys and list positions from the root, ``("steps", 1, "prune", "ratio")``."""


@dataclass(frozen=True)
class YamlTree:
    """Plain data and where it came from.

    Attributes:
        data: The document: mappings, lists, strings, numbers, booleans and ``None``.
        source: File name, for messages.
        lines: Line (1-based) of each place in the file; overrides hold the option's text instead.
    """

    data: dict[str, Any]
    source: str
    lines: Mapping[Place, int | str] = field(default_factory=dict)

    def where(self, place: Place) -> str:
        """Words for ``place``: the file and line (or option) of it or of its nearest parent."""
        inside = [key for key in self.lines if key[: len(place)] == place]
        if place not in self.lines and inside:  # `--set modle.name=x` made a mapping that no line has
            place = inside[0]
        for end in range(len(place), -1, -1):
            line = self.lines.get(place[:end])
            if line is not None:
                return line if isinstance(line, str) else f"{self.source}, line {line}"
        return self.source

    def typed(self, place: Place) -> bool:
        """Whether the value at ``place`` comes from an option of the command line and not from the file."""
        known = next((self.lines[place[:end]] for end in range(len(place), -1, -1) if place[:end] in self.lines), 0)
        return isinstance(known, str)


_DEEPEST = 40  # levels; a recipe has six
_LARGEST_NUMBER = 2**63


class _Loader(yaml.SafeLoader):
    """The safe loader, without references and without deep nesting, both of which small files can harm with."""

    depth = 0
    kind = "file"

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(line, f"{self.kind}s cannot use anchors and aliases")
        if self.depth >= _DEEPEST:
            raise _Refused(line, f"nested more than {_DEEPEST} levels deep, which no {self.kind} is")
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Refused(yaml.YAMLError):
    def __init__(self, line: int, words: str) -> None:
        super().__init__(words)
        self.line, self.words = line, words


def parse(
    text: str, source: str, *, kind: str = "recipe", wants: str = "a mapping with name, model, data and steps"
) -> YamlTree:
    """Parses one YAML mapping.

    Args:
        text: The YAML.
        source: File name, for messages.
        kind: What the file is, for messages: one word that takes an s.
        wants: What such a file is, for messages.

    Raises:
        InputError: Not YAML, not a mapping, a key given twice, deep nesting, anchors (which can blow up in memory), or
            values that neither a recipe nor a list of classes has: numbers beyond 64 bits, bytes, dates, sets.

    >>> tree = parse("name: a\\nsteps:\\n- prune:\\n    ratio: 0.1\\n", "my.yaml")
    >>> tree.data
    {'name': 'a', 'steps': [{'prune': {'ratio': 0.1}}]}
    >>> tree.where(("steps", 0, "prune", "ratio"))
    'my.yaml, line 4'
    """
    lines: dict[Place, int | str] = {}
    try:
        loader = _Loader(text)
        loader.kind = kind
        node = loader.get_single_node()
        _collect(node, (), lines, source)
        data = loader.construct_document(node) if node is not None else None
    except _Refused as error:
        raise InputError(f"{source}, line {error.line}: {error.words}.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{source} cannot be read: {_problem(error)}.") from error
    except (RecursionError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source} is not a usable YAML file: {first_line(error)}.") from error
    if not isinstance(data, dict):
        raise InputError(f"{source}: a {kind} is {wants}; got {str(data)[:60]!r}.")
    tree = YamlTree(data, source, lines)
    _check_values(data, (), tree, kind)
    return tree


def _check_values(value: Any, place: Place, tree: YamlTree, kind: str) -> None:
    """Refuses what YAML can write and no such file holds; later messages would print it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_values(inner, (*place, str(key)[:80]), tree, kind)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_values(inner, (*place, index), tree, kind)
    elif isinstance(value, int) and not -_LARGEST_NUMBER <= value < _LARGEST_NUMBER:
        raise InputError(f"{tree.where(place)}: a number of {value.bit_length()} bits; the largest are of 64.")
    elif value is not None and not isinstance(value, (str, int, float)):
        raise InputError(
            f"{tree.where(place)}: a {kind} holds text, numbers, lists and mappings; got a {type(value).__name__}. "
            "Put text in quotes."
        )


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem or error.context}"
    return " ".join(str(error).split())


def _collect(node: yaml.Node | None, place: Place, lines: dict[Place, int | str], source: str) -> None:
    """Notes the line of ``node`` and of everything in it; refuses a key that is given twice."""
    if node is None:
        return
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _collect(item, (*place, index), lines, source)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, str(key.value))
            line = key.start_mark.line + 1
            if inner in lines:
                raise InputError(f"{source}, line {line}: the key {str(key.value)[:80]!r} is given twice.")
            lines[inner] = line
            _collect(value, inner, lines, source)
