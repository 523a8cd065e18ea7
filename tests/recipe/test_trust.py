"""Code that a recipe or a run's folder names runs only if it is the user's own, or trusted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from secateur.cli.main import main
from secateur.core.errors import InputError
from secateur.models import create
from secateur.recipe import load_recipe, reopen, resume, run, trust
from secateur.recipe.comparison import at_budget, compare_recipes, resume_comparison

CODE = """
from pathlib import Path
Path("MARK").touch()
from os import system
from torch import nn
class Net(nn.Sequential):
    def __init__(self, classes=10):
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a network's code in a module of its own name."""
    here = tmp_path / "project"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "own_nets.py").write_text(CODE)
    yield here
    sys.modules.pop("own_nets", None)


def recipe(folder: Path, model: str = "own_nets:Net", **options: object) -> Path:
    folder.mkdir(exist_ok=True)
    steps = [{"prune": {"ratio": 0.5}}]
    about = {"name": model, "options": options} if options else {"name": model}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "model": about, "data": {"limit": 40}, "steps": steps}))
    return path


def untouched() -> bool:
    return not Path("MARK").exists() and "own_nets" not in sys.modules


def test_a_recipe_of_ones_own_project_runs_and_goes_on(project: Path) -> None:
    run(load_recipe(recipe(project)), "out")
    assert Path("MARK").exists()
    resume("out")
    reopen("out")
    main_ok(["inspect", "out"])


@pytest.mark.parametrize("plugin", ["~/evil.py", "../evil.py", "inner/../../evil.py", "{tmp}/evil.py", "link.py",
                                    "~nobody/evil.py", "evil\0.py", "x" * 5000 + ".py"])  # fmt: skip
def test_plugins_outside_the_project_need_trust(
    plugin: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the way that their file is named."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'MARK')!r}, 'w').close()")
    (project / "link.py").symlink_to(tmp_path / "evil.py")
    (project / "~").mkdir()
    (project / "~/evil.py").touch()  # what the name looks like is not where it leads
    text = yaml.safe_dump({"name": "mine", "use": [plugin.replace("{tmp}", str(tmp_path))], "model": {"name": "lenet5"},
                           "data": {"limit": 40}, "steps": [{"prune": {"ratio": 0.5}}]})  # fmt: skip
    (project / "mine.yaml").write_text(text)
    said = refused(["run", "mine.yaml", "--out", "out"], capsys)
    assert "names code" in said or "no plug-in" in said
    assert not (tmp_path / "MARK").exists()


def main_ok(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code in (0, None)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_a_recipe_from_elsewhere_needs_trust(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"mine\.yaml names code: model 'own_nets:Net'.*--trust"):
        run(load_recipe(path), "out")
    for command in (["run", str(path)], ["compare", str(path)], ["sweep", str(path), "--ratios", "0.5"]):
        assert "names code" in refused([*command, "--out", "out"], capsys)
    assert untouched()
    assert not Path("out").exists()
    run(load_recipe(path), "out", trust=True)
    assert Path("MARK").exists()


def test_what_the_user_types_is_the_users_own(project: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path / "elsewhere", "resnet_digits")
    main_ok(["run", str(path), "--model", "own_nets:Net", "--out", "out", "--quiet"])
    assert Path("MARK").exists()


@pytest.mark.parametrize(
    "model",
    ["os:system", "subprocess:run", "builtins:eval", "antigravity:fly", "torch.hub:load", "torch:load", "timm.x:y",
     "own_missing:Net", "..own_nets:Net", "own_nets/../x:Net", "json.decoder:JSONDecoder", "yaml:load"],
)  # fmt: skip
def test_functions_of_others_are_not_called(project: Path, model: str) -> None:
    path = recipe(project, model, command="touch MARK", cmd="touch MARK", f="MARK")
    before = set(sys.modules)
    with pytest.raises(InputError, match="names code"):
        run(load_recipe(path), "out")
    assert untouched()
    assert not {name for name in set(sys.modules) - before if name in ("antigravity", "own_nets")}


@pytest.mark.parametrize("name", ["os:system", "builtins:eval", "antigravity:fly", "own_nets:system"])
def test_pythons_own_functions_make_no_network(project: Path, name: str) -> None:
    """Not even when they are named by the user, or handed on by a module of the user's."""
    with pytest.raises(InputError, match="standard library"):
        create(name, command="touch RAN")
    assert not Path("RAN").exists()
    assert "antigravity" not in sys.modules


# ------------------------------------------------------------------------------------------------- run folders


def stranger(project: Path, folder: Path) -> Path:
    """A run that was made somewhere else."""
    run(load_recipe(recipe(project)), "made")
    shutil.copytree("made", folder)
    shutil.rmtree("made")
    Path("MARK").unlink()
    sys.modules.pop("own_nets")
    return folder


WAYS: dict[str, Callable[[Path], object]] = {"resume": resume, "reopen": reopen}
COMMANDS = (["resume", "{}"], ["inspect", "{}"], ["measure", "{}"], ["export", "{}", "x.onnx"], ["layers", "{}"],
            ["prune", "{}", "--ratio", "0.5", "--out", "o"], ["recover", "{}", "--ratio", "0.5", "--out", "o"],
            ["sparsify", "{}", "--ratio", "0.5", "--out", "o"])  # fmt: skip


def test_a_folder_of_somebody_else_needs_trust(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stranger(project, tmp_path / "given")
    for way in WAYS.values():
        with pytest.raises(InputError, match=r"was not started here by you.*--trust"):
            way(folder)
    for command in COMMANDS:
        assert "was not started here" in refused([part.format(folder) for part in command], capsys)
    assert untouched()
    main_ok(["inspect", str(folder), "--trust"])
    assert Path("MARK").exists()


def test_nothing_in_the_folder_makes_it_trusted(project: Path, tmp_path: Path) -> None:
    """A forged working directory, or a record that lies in the run, changes nothing."""
    folder = stranger(project, tmp_path / "given")
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "home": str(project), "own": True}))
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "own_nets.py").write_text("from pathlib import Path\nPath('EVIL').touch()\n")
    with pytest.raises(InputError, match="was not started here"):
        resume(folder)
    (folder / "state.json").write_text(json.dumps({**state, "home": str(evil)}))
    with pytest.raises(InputError, match="was not started here"):
        resume(folder)
    assert untouched()
    assert not (evil / "EVIL").exists()


def test_a_changed_recipe_is_no_longer_the_one_that_was_started(project: Path) -> None:
    run(load_recipe(recipe(project)), "out")
    text = Path("out/recipe.yaml").read_text().replace("own_nets:Net", "os:system")
    Path("out/recipe.yaml").write_text(text)
    state = json.loads(Path("out/state.json").read_text())
    Path("out/state.json").write_text(json.dumps({**state, "recipe_sha256": trust.digest_of(text.encode())}))
    with pytest.raises(InputError, match="was not started here"):
        resume("out")


def test_a_run_without_code_can_be_opened_by_anybody(project: Path, tmp_path: Path) -> None:
    run(load_recipe(recipe(project, "resnet_digits")), "out")
    shutil.move("out", tmp_path / "moved")
    assert reopen(tmp_path / "moved").results["model"] == "resnet_digits"


def test_the_record_is_the_users_alone(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run(load_recipe(recipe(project)), "out")
    (record,) = (tmp_path / "state/secateur/runs").iterdir()
    assert record.stat().st_mode & 0o077 == 0
    for damage in ("", "[1]", '{"folder": 1}', "[" * 10_000):
        record.write_text(damage)
        with pytest.raises(InputError, match="was not started here"):
            resume("out")
    record.unlink()
    os.mkfifo(record)
    with pytest.raises(InputError, match="was not started here"):
        resume("out")


def test_a_state_folder_that_cannot_be_written_does_not_stop_a_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not noted that you started"):
        run(load_recipe(recipe(project)), "out")


def test_comparisons_too(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare_recipes(at_budget([recipe(project)]), "both", jobs=1)
    assert not resume_comparison("both").failed
    shutil.copytree("both", tmp_path / "given")
    for name in ("results.json", "runs"):  # as if it had not been finished
        there = tmp_path / "given" / name
        shutil.rmtree(there) if there.is_dir() else there.unlink()
    (tmp_path / "given/runs").mkdir()
    Path("MARK").unlink()
    sys.modules.pop("own_nets")
    with pytest.raises(InputError, match="was not started here"):
        resume_comparison(tmp_path / "given")
    assert "was not started here" in refused(["resume", str(tmp_path / "given")], capsys)
    assert untouched()


def test_a_run_inside_a_comparison_is_no_way_round(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipes of the comparison name no code; that of a finished run inside it does."""
    compare_recipes(at_budget([recipe(project, "resnet_digits")]), "both", jobs=1)
    given = tmp_path / "given"
    shutil.copytree("both", given)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'MARK')!r}, 'w').close()")
    inner = next((given / "runs").glob("*/recipe.yaml"))
    inner.write_text(inner.read_text() + f"use: [{tmp_path / 'evil.py'}]\n")
    state = json.loads((inner.parent / "state.json").read_text())
    state["recipe_sha256"] = hashlib.sha256(inner.read_bytes()).hexdigest()
    (inner.parent / "state.json").write_text(json.dumps(state))
    assert "was not started here" in refused(["resume", str(given)], capsys)
    (given / "results.json").unlink()
    assert "was not started here" in refused(["resume", str(given)], capsys)
    assert not (tmp_path / "MARK").exists()
    main_ok(["resume", str(given), "--trust"])
    assert (tmp_path / "MARK").exists(), "trusted, it runs"
