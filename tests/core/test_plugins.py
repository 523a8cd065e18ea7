"""Plug-ins are found by all three ways, and a broken one is named with its line and leaves nothing behind."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import secateur
from secateur.core import plugins
from secateur.core.errors import PluginError, UnknownNameError
from secateur.core.registry import Registry

MODULE = """
import own_colours
own_colours.COLOURS.add("{name}", 1)
"""


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[int]]:
    """A registry that plug-ins can import, in a process where nobody has looked for plug-ins so far."""
    monkeypatch.chdir(tmp_path)
    shared = types.ModuleType("own_colours")
    registry: Registry[int] = Registry("colour")
    shared.COLOURS = registry  # type: ignore[attr-defined]
    before = set(sys.modules)
    monkeypatch.setitem(sys.modules, "own_colours", shared)
    monkeypatch.setattr(plugins, "_used", {})
    monkeypatch.setattr(plugins, "_state", {"looked": False})
    yield registry
    for name in set(sys.modules) - before:
        if name.startswith(("own_", "secateur_plugin_")):
            sys.modules.pop(name, None)


Installed = Callable[[str, str], None]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Installs a package of one module that names itself as a plug-in."""

    def install(name: str, code: str) -> None:
        (tmp_path / "site").mkdir(exist_ok=True)
        (tmp_path / f"site/{name}.py").write_text(code)
        about = tmp_path / f"site/{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[secateur.plugins]\n{name} = {name}\n")
        importlib.invalidate_caches()

    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return install


def test_a_module_of_the_working_directory_a_path_and_a_module(colours: Registry[int], tmp_path: Path) -> None:
    (tmp_path / "own_red.py").write_text(MODULE.format(name="red"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/own_blue.py").write_text(MODULE.format(name="blue"))
    red = secateur.use("own_red")
    blue = secateur.use("sub/own_blue.py")
    assert list(colours) == ["blue", "red"]
    assert secateur.use("own_red") is red
    assert secateur.use(Path("own_red.py")) is red, "a file that is loaded already"
    assert secateur.use(blue) is blue
    assert str(colours.origin("red")) == f"{tmp_path / 'own_red.py'}, line 3"
    assert str(tmp_path) not in sys.path


def test_a_file_may_have_the_name_of_another_module(colours: Registry[int], tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(MODULE.format(name="red"))
    secateur.use("json.py")
    assert "red" in colours
    assert sys.modules["json"] is json


def test_an_installed_one_is_found_when_a_name_is_missing_or_names_are_listed(
    colours: Registry[int], installed: Installed
) -> None:
    colours.add("black", 0)
    installed("own_green", MODULE.format(name="green"))
    assert colours["black"] == 0
    assert colours.present == ("black",)
    assert "own_green" not in sys.modules, "nobody asked"
    assert colours["green"] == 1
    assert list(colours) == ["black", "green"]


def test_a_broken_installed_one_is_a_warning_once_and_an_error_if_it_is_asked_for(
    colours: Registry[int], installed: Installed
) -> None:
    installed("own_broken", MODULE.format(name="half") + "\n1 / 0\n")
    installed("own_green", MODULE.format(name="green"))
    with pytest.warns(
        plugins.PluginWarning, match=r"'own_broken'.*ZeroDivisionError.*own_broken\.py, line 5.*left out"
    ):
        assert list(colours) == ["green"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(colours) == ["green"]
        assert colours.get("nothing") is None
    with pytest.raises(PluginError, match=r"own_broken\.py, line 5"):
        secateur.use("own_broken")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_library_x",
         r"ModuleNotFoundError: No module named 'no_such_library_x' \(.*own_bad\.py, line 1\)"),
        ("x = 1\ndef f(:\n", r"SyntaxError: .*own_bad\.py, line 2"),
        ("raise SystemExit(3)", r"SystemExit: 3 \(.*own_bad\.py, line 1\)"),
        ("import own_colours\nown_colours.COLOURS.add('red', 2)",
         r"The colour 'red' is registered twice: in .*own_red\.py, line 3, and in .*own_bad\.py, line 2"),
        ("import json\njson.loads('{')", r"JSONDecodeError: .*own_bad\.py, line 2"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["own_bad", "own_bad.py"])
def test_a_broken_one_is_named_with_its_line(
    colours: Registry[int], tmp_path: Path, code: str, said: str, how: str
) -> None:
    (tmp_path / "own_red.py").write_text(MODULE.format(name="red"))
    secateur.use("own_red")
    bad = tmp_path / "own_bad.py"
    bad.write_text(code)
    with pytest.raises(PluginError, match=said):
        secateur.use(how)
    bad.write_text(MODULE.format(name="mended") + "# of another length than before")
    secateur.use(how)
    assert list(colours) == ["mended", "red"]


def test_what_a_broken_one_registered_is_taken_back(colours: Registry[int], tmp_path: Path) -> None:
    (tmp_path / "own_helper.py").write_text(MODULE.format(name="helper"))
    bad = tmp_path / "own_bad.py"
    bad.write_text("import own_helper" + MODULE.format(name="half") + "1 / 0")
    with pytest.raises(PluginError):
        secateur.use("own_bad")
    assert list(colours) == ["helper"], "own_helper was imported and stays so"


@pytest.mark.parametrize("name", ["own_mising", "no-such.thing", "", "os.nothing"])
def test_no_such_module(colours: Registry[int], tmp_path: Path, name: str) -> None:
    (tmp_path / "own_missing.py").write_text("")
    with pytest.raises(UnknownNameError, match="no plug-in or module"):
        secateur.use(name)
    with pytest.raises(UnknownNameError, match="Did you mean 'own_missing'"):
        secateur.use("own_mising")
    with pytest.raises(PluginError, match=r"There is no plug-in .*nothing\.py"):
        secateur.use("nothing.py")


def test_processes_that_are_started_use_the_same(colours: Registry[int], tmp_path: Path) -> None:
    (tmp_path / "own_crit.py").write_text(
        "from secateur.criteria import criterion\n@criterion('own_score', paper='')\ndef score(view): ...\n"
    )
    secateur.use("own_crit")
    from secateur.core.processes import with_scratch
    from secateur.criteria import CRITERIA

    try:
        code = "from secateur.criteria import CRITERIA; print(CRITERIA['own_score'].name)"
        command = [sys.executable, "-P", "-c", code]
        done = subprocess.run(command, env=with_scratch(), cwd="/", capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "own_score", done.stderr
    finally:
        CRITERIA.remove("own_score")


def test_nothing_of_secateur_looks_for_plugins_when_it_is_imported() -> None:
    code = """
import pkgutil, importlib, secateur
from secateur.core import plugins
for found in pkgutil.walk_packages(secateur.__path__, "secateur."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
print(plugins._state["looked"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False"], done.stderr


def test_an_installed_plugin_is_not_hidden_by_a_file_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's folder may hold a module of that name, and an installed plug-in needs no trust."""
    for folder, text in (("here", "WHO = 'a stranger'"), ("installed", "WHO = 'the user'")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own_hidden_plugin.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(plugins, "_used", {})
    monkeypatch.setattr(plugins, "_entries", lambda: (SimpleNamespace(name="hidden", module="own_hidden_plugin"),))
    for words in ("hidden", "own_hidden_plugin"):
        try:
            assert plugins.use(words).WHO == "the user"
        finally:
            sys.modules.pop("own_hidden_plugin", None)
