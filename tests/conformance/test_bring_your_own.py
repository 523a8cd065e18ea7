"""One of each, brought as a user would: by a module outside the package, and nothing else edited."""

from __future__ import annotations

import ast
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import secateur
from secateur.cli.main import main
from secateur.core import plugins
from secateur.core.errors import InputError, PluginError
from secateur.core.registry import Registry
from secateur.jobs import Local
from secateur.recipe import add_recipes, load_recipe, resume, run
from secateur.recipe.comparison.jobs import Job, JobEvent, run_jobs

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples/plugins"
LINES = {"own_criterion": 10, "own_operator": 10, "own_step": 40}

STEPS = [{"prune": {"ratio": 0.5}}, {"shrink": {"by": 0.1}}]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with the examples in it; what they register is gone afterwards."""
    here = tmp_path / "project"
    shutil.copytree(EXAMPLES, here)
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(plugins, "_used", {})
    yield here
    for registry in Registry.everything:
        for name in registry.present:
            if registry.origin(name).file.startswith(str(tmp_path)):
                registry.remove(name)
    for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(tmp_path))]:
        del sys.modules[name]


def forget(name: str) -> None:
    """As if this were another process."""
    for registry in Registry.everything:
        for item in registry.present:
            if Path(registry.origin(item).file).stem == name:
                registry.remove(item)
    sys.modules.pop(name)
    plugins._used.clear()


def recipe(folder: Path, **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    about = {"name": "mine", "model": {"name": "resnet_digits"}, "data": {"limit": 40}, "steps": STEPS, **more}
    (folder / "mine.yaml").write_text(yaml.safe_dump(about))
    return folder / "mine.yaml"


def done(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    assert (ended.value.code or 0) == code, said.err
    assert "Traceback" not in said.err
    return " ".join((said.out if code == 0 else said.err).split())


def lines_of(path: Path) -> int:
    """Lines of code: neither empty, nor comment, nor docstring."""
    text = path.read_text()
    strings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            strings |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and n not in strings for n, line in lines)


@pytest.mark.parametrize(("name", "most"), LINES.items())
def test_they_are_as_short_as_the_page_says(name: str, most: int) -> None:
    path = EXAMPLES / f"{name}.py"
    count = lines_of(path)
    assert count <= most
    page = (ROOT / "docs/bring-your-own.md").read_text()
    assert f"`{name}.py`, {count} lines" in page
    assert path.read_text().partition('"""\n\n')[2].strip() in page


# ------------------------------------------------------------------------------------------------ each of them


def test_a_criterion(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["prune", "resnet_digits", "--ratio", "0.5", "--criterion", "spread", "--out", "small"]
    assert "no criterion named 'spread'" in done(arguments, capsys, 2)
    done([*arguments, "--use", "own_criterion"], capsys)
    assert "a unit that is nearly constant goes first" in done(["criteria", "spread"], capsys)
    network = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1, -1, 1, -1.0], [2, 2, 2, 2], [3, 0, 0, 0]]))
    small = secateur.prune(network, torch.randn(2, 4), ratio=1 / 3, criterion="spread")
    assert list(small.plan.keep["0.weight"][0]) == [0, 2]


def test_an_operator(project: Path) -> None:
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        from custom_operator import Network
    finally:
        sys.path.remove(str(ROOT / "examples"))
    model, x = Network().eval(), torch.randn(2, 3, 8, 8)
    with pytest.raises(secateur.BudgetError, match=r"garden\.scaled_swish"):
        secateur.prune(model, x, ratio=0.5)
    secateur.use("own_operator.py")
    small = secateur.prune(model, x, ratio=0.5)
    assert small.verification.max_relative_error < 1e-9
    assert tuple(small.model.scale.shape) == (8,)


def test_a_step_runs_is_checked_and_goes_on(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(project)
    assert "line" in (said := done(["run", str(path), "--out", "out"], capsys, 2))
    assert "no step named 'shrink'" in said
    said = done(["run", str(path), "--use", "own_step", "--out", "out", "--quiet"], capsys)
    assert "[2/2] shrink test" in said
    assert yaml.safe_load(Path("out/recipe.yaml").read_text())["use"] == ["own_step"]
    forget("own_step")
    done(["resume", "out", "--quiet"], capsys)
    done(["inspect", "out"], capsys)
    bad = recipe(project, steps=[{"prune": {"ratio": 0.5}}, {"shrink": {"buy": 0.1}}])
    assert "Did you mean" in done(["run", str(bad), "--use", "own_step.py", "--out", "out2"], capsys, 2)
    first = recipe(project, steps=["shrink"])
    assert "shrink needs a prune" in done(["run", str(first), "--use", "own_step.py", "--out", "out2"], capsys, 2)


def test_a_step_that_is_stopped_goes_on_from_the_recipe_alone(project: Path) -> None:
    path = recipe(project, use="own_step")

    def stop(event: object) -> None:
        if (event.what, event.kind) == ("begin", "shrink"):  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(load_recipe(path), "stopped", on_event=stop, progress=False)
    forget("own_step")
    again = resume("stopped", progress=False)
    whole = run(load_recipe(path), "whole", progress=False)
    one, other = (r.state.models["pruned"].state_dict() for r in (again, whole))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_step_reaches_the_processes_of_a_comparison(project: Path) -> None:
    runs = project / "runs"
    runs.mkdir()
    events: list[JobEvent] = []
    job = Job("mine", recipe(project, use="own_step.py"), runs / "mine")
    assert not run_jobs([job], run=Local(1).run, home=project, on_event=events.append)
    assert [e.kind for e in events if e.what == "end"] == ["prune", "shrink"]
    assert job.finished


def test_recipes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe(project / "recipes")
    (project / "own_recipes.py").write_text(
        "from pathlib import Path\nimport own_step\nfrom secateur.recipe import add_recipes\n"
        "add_recipes(Path(__file__).parent / 'recipes')\n"
    )
    assert "shrink" in done(["recipes", "--use", "own_recipes"], capsys)
    assert "name: mine" in done(["recipes", "show", "mine"], capsys)
    assert "Did you mean 'mine'" in done(["recipes", "show", "mini"], capsys, 2)
    assert load_recipe("mine").origin is None, "as trusted as the plug-in"
    with pytest.raises(PluginError, match="no recipes"):
        add_recipes(project / "nothing")


# ------------------------------------------------------------------------------------------ trust and bad input


def test_a_strangers_recipe_needs_trust_to_name_a_plugin(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, plugin in (("a", "own_step"), ("b", "own_step.py"), ("c", "antigravity"), ("d", "../elsewhere/x.py")):
        path = recipe(tmp_path / f"elsewhere-{name}", use=plugin)
        for command in (["run", str(path)], ["sweep", str(path), "--ratios", "0.5"]):
            assert "names code: use" in done([*command, "--out", "out"], capsys, 2)
        assert not {"own_step", "antigravity"} & set(sys.modules)
    own = recipe(project, use="antigravity")
    with pytest.raises(InputError, match="names code: use 'antigravity'"):
        load_recipe(own)
    path = recipe(tmp_path / "elsewhere-a", use=["own_step"])
    with pytest.raises(InputError, match="names code"):
        run(load_recipe(path, trust=True), "out")
    run(load_recipe(path, trust=True), "out", trust=True, progress=False)
    shutil.copytree("out", "given")  # a run that was not started here, in the user's own project
    forget("own_step")
    with pytest.raises(InputError, match=r"The run in .*given names code: use 'own_step'\. It was not started here"):
        resume("given")
    assert "own_step" not in sys.modules
    resume("given", trust=True)


def test_what_is_typed_is_the_users_own(project: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path / "elsewhere")
    from secateur.recipe import shortcuts

    found = load_recipe(path, edit=lambda tree: shortcuts(tree, use=["own_step"]))
    assert (found.use, found.origin) == (("own_step",), None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0", r"ZeroDivisionError: division by zero \(.*own_bad\.py, line 1\)"),
        ("from secateur.criteria import criterion\n\n@criterion('l2', paper='')\ndef f(view): ...",
         r"criterion 'l2' is registered twice: in .*magnitude\.py, line \d+, and in .*own_bad\.py, line 3"),
    ],
)  # fmt: skip
def test_a_broken_one_is_one_sentence(project: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    import re

    (project / "own_bad.py").write_text(text)
    assert re.search(words, done(["criteria", "--use", "own_bad"], capsys, 2))
    path = recipe(project, use=["own_bad.py"])
    said = done(["run", str(path), "--out", "out"], capsys, 2)
    assert re.search(r"mine\.yaml, line \d+: use: The plug-in", said)
    assert not Path("out").exists()
    for use, wrong in (({"a": 1}, "use"), ([3.5, ""], "use")):
        with pytest.raises(InputError, match=wrong):
            load_recipe(recipe(project, use=use))
