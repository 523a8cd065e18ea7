"""Everything that is registered does what its kind has to do; what does not is named with its line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import secateur
from secateur.core.conformance import check_item
from secateur.core.errors import PluginError, UnknownNameError
from secateur.core.registry import Registry
from secateur.criteria import CRITERIA
from secateur.graph.ops import KNOWN, OPERATORS
from secateur.recipe.shelf import RECIPES
from secateur.recipe.steps import STEPS
from secateur.runtimes import RUNTIMES, Program, Runtime, installed, runtime


def everything() -> Iterator[Any]:
    for registry in (CRITERIA, STEPS, RECIPES, RUNTIMES):
        for name in registry:
            yield pytest.param(registry, name, id=f"{registry.kind}-{name}")


@pytest.mark.parametrize(("registry", "name"), everything())
def test_it_is_in_order(registry: Registry[Any], name: str) -> None:
    if registry is RUNTIMES and not installed(RUNTIMES[name]):
        pytest.skip(f"{name} is not installed")
    assert check_item(registry, name).tried


@pytest.mark.parametrize("registry", [OPERATORS, KNOWN], ids=["rules", "facts alone"])
def test_operators_are_in_order(registry: Registry[Any]) -> None:
    """All of PyTorch's own; those of other libraries where they are installed."""
    wrong = []
    for name in registry:
        library, _, rest = name.partition(".")
        if library != "aten" and not hasattr(getattr(torch.ops, library), rest):
            continue
        try:
            check_item(registry, name)
        except PluginError as error:
            wrong.append(str(error))
    assert not wrong


def test_every_registry_of_things_that_users_bring_is_looked_at_for_plugins() -> None:
    kinds = {registry.kind for registry in Registry.everything}
    assert {"criterion", "operator", "step", "recipe"} <= kinds
    assert all(registry.check for registry in Registry.everything if registry.kind in ("criterion", "operator", "step"))


def test_a_runtime_that_computes_something_else_is_named() -> None:
    @runtime("doubling")
    class Doubling(Runtime):
        summary = "everything twice"

        def from_module(self, module: Any, threads: int) -> Program:
            return Program(lambda inputs: inputs, module, lambda found: [2 * found])

    try:
        with pytest.raises(PluginError, match=r"runtime 'doubling' is not in order: it gives other outputs.*line \d+"):
            secateur.check("doubling")
        Doubling.summary = ""
        with pytest.raises(PluginError, match="it has no summary"):
            secateur.check("doubling")
    finally:
        RUNTIMES.remove("doubling")


# --------------------------------------------------------------------------------------------- what is not in order

CRITERION = """
import torch
from secateur.criteria import criterion

@criterion("own_bad", paper="", needs={needs})
def own_bad(view):
    {doc}
    {body}
"""
STEP = """
from secateur.recipe.steps import Settings, Step, step
from pydantic import ConfigDict

class Loose(Settings):
    model_config = ConfigDict(extra="allow")

@step("own-bad")
class Bad(Step[Settings]):
    {body}
    def run(self, context, state, config): ...
"""
OPERATOR = """
from secateur.graph.ops import Facts, operator

@operator("{name}", facts=Facts({facts}))
def rule({argument}): ...
"""


def criterion(body: str, doc: str = '"""A score."""', needs: str = "()") -> str:
    return CRITERION.format(body=body, doc=doc, needs=needs)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (criterion("return torch.ones(3)"), r"it has to give one finite score for each of its \d+ units"),
        (criterion("return torch.full((len(view),), float('nan'))"), "not finite"),
        (criterion("return [1.0] * len(view)"), "gave a list"),
        (criterion("return torch.rand(len(view))"), "other scores when it is asked again"),
        (criterion("return -view.filters().norm(dim=1)"), "without any weights scores best"),
        (criterion("next(view.weights())[1].zero_()\n    return torch.ones(len(view))"), "changes the network"),
        (criterion("return view.filters().norm(dim=1)", doc=""), "no docstring"),
        (criterion("1 / 0"), "ZeroDivisionError"),
        (criterion("return view.statistic('nothing')", needs="('nothing',)"), "no statistic named 'nothing'"),
        (STEP.format(body="config = Settings"), "no summary"),
        (STEP.format(body="summary = 'x'; config = dict"), "class of settings"),
        (STEP.format(body="summary = 'x'; config = Loose"), "take any key"),
        (STEP.format(body="summary = 'x'; config = Settings; trains = True"), "no setting epochs"),
        (STEP.format(body="summary = 'x'; config = Settings; changes_network = True"), "no restore"),
        (OPERATOR.format(name="aten.rellu", facts="", argument="call"), "knows no operator 'aten.rellu'"),
        (OPERATOR.format(name="aten.special_airy_ai", facts="homogeneous=True", argument="call"), "to be homogeneous"),
        (OPERATOR.format(name="aten.special_airy_ai", facts="flat=(0.0, 1.0)", argument="call"), "to be flat outside"),
        (OPERATOR.format(name="aten.special_airy_ai", facts="", argument=""), "flow takes no argument"),
        ("x = 1", "registers nothing"),
    ],
)  # fmt: skip
def test_what_is_not_in_order_is_named(
    code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "own_bad.py"
    path.write_text(code)
    monkeypatch.setattr("secateur.core.plugins._used", {})

    def forget() -> None:
        for registry in Registry.everything:
            for name in [n for n in registry.present if registry.origin(n).file == str(path)]:
                registry.remove(name)
        for name in [n for n, m in sys.modules.items() if getattr(m, "__file__", None) == str(path)]:
            del sys.modules[name]

    request.addfinalizer(forget)
    with pytest.raises(PluginError, match=words) as found:
        secateur.check(str(path))
    assert str(path) in str(found.value)


def test_names_and_plugins_that_there_are_not() -> None:
    assert secateur.check("l2")[0].kind == "criterion"
    with pytest.raises(UnknownNameError, match="Did you mean"):
        secateur.check("bn_scal")
