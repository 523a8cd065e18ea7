"""``iterate``: steps that are repeated round by round, written out one after the other before a run begins."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from secateur.core.errors import InputError, SecateurError, UnknownNameError
from secateur.core.yamltree import Place, YamlTree
from secateur.recipe.problems import check
from secateur.recipe.schedule import reached
from secateur.recipe.schema import ITERATE, Settings, StepEntry, split_step

__all__ = ["IterateSettings", "check_iterate", "in_round", "inner_steps", "repeat"]


class IterateSettings(Settings):
    """Settings of ``iterate``, with exactly one of ``rounds`` and ``over``.

    A share that a step inside removes or keeps (``ratio``, ``params``, ``macs``, ``sparsity``) is what the last
    round reaches, counted from the dense network. A ``criterion`` may be a list that switches from round to
    round: ``[{until: 3, name: taylor}, {name: map_similarity}]``.

    Attributes:
        rounds: How often the steps are repeated.
        schedule: How the share is spread over the rounds, see `secateur.recipe.schedule.reached`.
        over: One round for every layer, or every block, that can be pruned; only that one is pruned in it.
        order: Order of the rounds of ``over``: of execution, the reverse, or the most energy first.
        steps: What is done in every round.
    """

    rounds: int | None = Field(default=None, ge=1, le=1000)
    schedule: Literal["linear", "geometric", "cubic"] = "linear"
    over: Literal["layers", "blocks"] | None = None
    order: Literal["execution", "reverse", "energy"] = "execution"
    steps: tuple[dict[str, Any] | str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.rounds is None) == (self.over is None):
            got = "none" if self.rounds is None else "both"
            raise InputError(f"give one of rounds (how often) and over (layers or blocks); got {got}")
        if self.order != "execution" and self.over is None:
            raise InputError(f"order: {self.order} wants over: layers or over: blocks")
        return self


def check_iterate(
    tree: YamlTree, place: Place, settings: Any, kinds: Mapping[str, type[Settings]], problems: list[str]
) -> list[StepEntry]:
    """Checks an ``iterate`` and writes its rounds out as steps.

    One that goes over layers or blocks stays one entry: how many there are is known once the network is there.
    """
    before = len(problems)
    config = check(IterateSettings, settings, place, tree, problems)
    if config is None:
        return []
    config = config.model_copy(update={"steps": tuple(_resolved(entry, kinds) for entry in config.steps)})
    for number, entry in enumerate(config.steps):
        _check_inner(tree, (*place, "steps", number), entry, config, kinds, problems)
    if len(problems) > before:
        return []
    if config.over is not None:
        return [StepEntry(ITERATE, config, place[:-1])]
    return repeat(config, kinds, place)


def repeat(config: IterateSettings, kinds: Mapping[str, type[Settings]], place: Place = ()) -> list[StepEntry]:
    """Writes out an ``iterate`` that was checked and has ``rounds``."""
    assert config.rounds is not None
    entries = []
    for number in range(1, config.rounds + 1):
        for position, (kind, settings) in enumerate(inner_steps(config)):
            made = kinds[kind].model_validate(in_round(kinds[kind], settings, config, number, config.rounds))
            entries.append(StepEntry(kind, made, (*place, "steps", position)))
    return entries


def inner_steps(config: IterateSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kinds and settings of the steps inside."""
    for entry in config.steps:
        kind, settings = split_step(entry)
        assert kind is not None  # it was checked
        yield kind, settings


def in_round(
    model: type[Settings], settings: Mapping[str, Any], config: IterateSettings, number: int, rounds: int
) -> dict[str, Any]:
    """Settings of a step in round ``number``: its part of the share, and the criterion whose turn it is."""
    made = dict(settings)
    if isinstance(made.get("criterion"), list):
        made["criterion"] = _of_round(made["criterion"], number)
    for key in _shares(model, made) if config.over is None else ():
        one = partial(_spread, config.schedule, number, rounds, model.spread[key])
        made[key] = {k: one(v) for k, v in made[key].items()} if isinstance(made[key], dict) else one(made[key])
        if "of" in model.model_fields:
            made["of"] = "dense"
    return made


def _spread(schedule: str, number: int, rounds: int, what: str, final: float) -> float:
    if number == rounds:
        return final
    return (
        reached(schedule, final, number, rounds)
        if what == "removed"
        else 1 - reached(schedule, 1 - final, number, rounds)
    )


def _shares(model: type[Settings], settings: Mapping[str, Any]) -> list[str]:
    return [key for key in model.spread if settings.get(key) is not None]


def _of_round(choices: list[dict[str, Any]], number: int) -> Any:
    chosen = next(c for c in choices if number <= c.get("until", number))
    rest = {key: value for key, value in chosen.items() if key != "until"}
    return rest["name"] if set(rest) == {"name"} else rest


# ---------------------------------------------------------------------------------------------------- checks


def _resolved(entry: dict[str, Any] | str, kinds: Mapping[str, type[Settings]]) -> dict[str, Any] | str:
    """A step inside with what is in files; what cannot be read is left, and told where its settings are checked."""
    kind, settings = split_step(entry)
    if kind is None or kind not in kinds or not isinstance(settings, dict) or isinstance(entry, str):
        return entry
    with contextlib.suppress(SecateurError):
        return {kind: kinds[kind].resolved(settings)}
    return entry


def _check_inner(
    tree: YamlTree,
    place: Place,
    entry: Any,
    config: IterateSettings,
    kinds: Mapping[str, type[Settings]],
    problems: list[str],
) -> None:
    """Checks one step inside with each of its criteria, and that what is to be spread is a share."""
    kind, settings = split_step(entry)
    if kind is None or not isinstance(settings, dict):
        problems.append(f"{tree.where(place)}: a step is one name with its settings; got {entry!r:.60}.")
        return
    if kind == ITERATE or kind not in kinds:
        known = [name for name in kinds if name != ITERATE]
        problems.append(f"{tree.where(place)}: {UnknownNameError('step inside iterate', kind, known)}")
        return
    inner, variants = (*place, kind), [settings]
    if isinstance(settings.get("criterion"), list):
        found = _check_switch(tree, (*inner, "criterion"), settings["criterion"], config, problems)
        variants = [{**settings, "criterion": _of_round([choice], 1)} for choice in found]
    for variant in variants:
        checked = check(kinds[kind], variant, inner, tree, problems)
        for key in _shares(kinds[kind], variant) if checked is not None else ():
            values = variant[key].values() if isinstance(variant[key], dict) else (variant[key],)
            if not all(0 <= value <= 1 for value in values):
                where = tree.where((*inner, key))
                problems.append(
                    f"{where}: inside iterate, steps.{kind}.{key} is a share up to 1; got {variant[key]!r}."
                )


def _check_switch(
    tree: YamlTree, place: Place, choices: list[Any], config: IterateSettings, problems: list[str]
) -> list[dict[str, Any]]:
    """Checks a list of criteria with the rounds until which each holds; returns the choices without rounds."""
    last = 0
    for number, choice in enumerate(choices):
        where = tree.where((*place, number))
        until = choice.get("until") if isinstance(choice, dict) else None
        end = number == len(choices) - 1
        if not isinstance(choice, dict) or "name" not in choice:
            problems.append(f"{where}: a criterion in a list is written {{until: 3, name: l2}}; got {choice!r:.60}.")
            return []
        if end and until is not None:
            problems.append(f"{where}: the last criterion holds to the end and has no until; got {until!r}.")
        elif not end and (type(until) is not int or until <= last or until >= (config.rounds or until + 1)):
            most = f" and below {config.rounds}" if config.rounds else ""
            problems.append(f"{where}: until wants a round above {last}{most}; got {until!r}.")
        last = until if type(until) is int else last
    if not choices:
        problems.append(f"{tree.where(place)}: criterion wants a name or a list of at least one criterion.")
    return [{key: value for key, value in choice.items() if key != "until"} for choice in choices]
