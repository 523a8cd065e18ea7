"""YAML read safely into plain data, with the line of every key kept for error messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from secateur.errors import InputError

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


def parse(text: str, source: str) -> YamlTree:
    """Parses one YAML mapping.

    Args:
        text: The YAML.
        source: File name, for messages.

    Raises:
        InputError: Not YAML, not a mapping, a key given twice, or anchors (which can blow up in memory).

    >>> tree = parse("name: a\\nsteps:\\n- prune:\\n    ratio: 0.1\\n", "my.yaml")
    >>> tree.data
    {'name': 'a', 'steps': [{'prune': {'ratio': 0.1}}]}
    >>> tree.where(("steps", 0, "prune", "ratio"))
    'my.yaml, line 4'
    """
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise InputError(f"{source}, line {line}: recipes cannot use anchors and aliases.")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        lines: dict[Place, int | str] = {}
        _collect(node, (), lines, source)
        data = loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as error:
        raise InputError(f"{source} cannot be read: {_problem(error)}.") from error
    except (RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source} is not a usable YAML file: {error}.") from error
    if not isinstance(data, dict):
        raise InputError(f"{source}: a recipe is a mapping with name, model, data and steps; got {data!r:.60}.")
    return YamlTree(data, source, lines)


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
                raise InputError(f"{source}, line {line}: the key {key.value!r} is given twice.")
            lines[inner] = line
            _collect(value, inner, lines, source)
