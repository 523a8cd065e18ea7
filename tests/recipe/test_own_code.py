"""What counts as code of one's own project is found out by reading, and is what an import would give."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from secateur.core.errors import InputError, SecateurError
from secateur.jobs import Local
from secateur.models import create
from secateur.recipe import load_recipe, override, resume, run, trust
from secateur.recipe.comparison.jobs import Job, run_jobs
from secateur.timing.children import Child

NET = """
from pathlib import Path
Path("MARK").touch()
from torch import nn
class Net(nn.Sequential):
    def __init__(self, classes=10):
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))
"""
PLANT = "from pathlib import Path\nPath({mark!r}).touch()\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    here = tmp_path / "project"
    here.mkdir()
    monkeypatch.chdir(here)
    before, path = set(sys.modules), list(sys.path)
    yield here
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)) or name.startswith("own_"):
            del sys.modules[name]
    sys.path[:] = path


def recipe(folder: Path, model: str, **options: object) -> Path:
    folder.mkdir(exist_ok=True)
    about = {"name": model, "options": options} if options else {"name": model}
    path = folder / "mine.yaml"
    steps = [{"prune": {"ratio": 0.5}}]
    path.write_text(yaml.safe_dump({"name": "mine", "model": about, "data": {"limit": 40}, "steps": steps}))
    return path


def permitted(project: Path, model: str) -> bool:
    before = set(sys.modules)
    try:
        trust.permit_recipe(load_recipe(recipe(project, model)), trust=False)
    except InputError:
        return False
    finally:
        assert not [name for name in set(sys.modules) - before if name.startswith("own_")], "it was imported"
        assert not Path("MARK").exists()
    return True


def test_all_ways_to_bring_a_factory_of_ones_own(project: Path) -> None:
    (project / "own_pack").mkdir()
    (project / "own_pack/__init__.py").write_text("from .inner import Net\nfrom own_flat import Net as Other\n")
    (project / "own_pack/inner.py").write_text(NET)
    (project / "own_spread").mkdir()  # a package without __init__.py
    guarded = NET.strip().replace("\n", "\n    ")
    (project / "own_spread/inner.py").write_text(
        f"if True:\n    from own_flat import *\ntry:\n    {guarded}\nexcept OSError:\n    pass\n"
    )
    (project / "own_flat.py").write_text(NET + "small = Net\nasync def late(): ...\n")
    for name in ("own_flat:Net", "own_flat:small", "own_pack:Net", "own_pack:Other", "own_pack.inner:Net",
                 "own_spread.inner:Net", "own_spread.inner:small"):  # fmt: skip
        assert permitted(project, name), name
    for name in ("own_flat:nothing", "own_flat:Path", "own_flat:nn", "own_pack.gone:Net", "own_spread:Net"):
        assert not permitted(project, name), name


@pytest.mark.parametrize("line", ["from torch import load as build", "from torch.hub import load as build",
                                  "from torch import *", "from own_two import build"])  # fmt: skip
def test_a_function_of_others_that_a_module_of_ones_own_hands_on_is_not_ones_own(project: Path, line: str) -> None:
    (project / "own_nets.py").write_text(NET + line)
    (project / "own_two.py").write_text("from own_nets import build\nfrom joblib import load as build\n")
    assert not permitted(project, f"own_nets:{'load' if '*' in line else 'build'}")


@pytest.mark.parametrize("name", ["build", "wheel", "sympy", "jinja2"])
def test_a_folder_with_the_name_of_an_installed_package_is_not_that_package(project: Path, name: str) -> None:
    """`build/` lies in many projects; an import takes the installed package, for the folder has no __init__.py."""
    site = project.parent / "site-packages"
    for folder in (site / name, project / name):
        folder.mkdir(parents=True)
    (site / name / "__init__.py").write_text(NET)
    (site / name / "nets.py").write_text(NET)
    (project / name / "nets.py").write_text(NET)
    sys.path.insert(0, str(site))
    assert not permitted(project, f"{name}.nets:Net")
    (project / name / "__init__.py").touch()
    assert permitted(project, f"{name}.nets:Net") == (name not in sys.modules)


def test_what_is_imported_is_what_was_looked_at(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory may stand on the path already, behind a folder with a module of the same name."""
    other = project.parent / "other"
    other.mkdir()
    (other / "own_nets.py").write_text(PLANT.format(mark=str(project / "EVIL")))
    (project / "own_nets.py").write_text(NET)
    monkeypatch.setattr(sys, "path", [str(other), *sys.path, str(project)])
    before = list(sys.path)
    run(load_recipe(recipe(project, "own_nets:Net")), "out")
    assert Path("MARK").exists()
    assert not Path("EVIL").exists()
    assert sys.path == before


@pytest.mark.parametrize("text", ["def build(:", "\0", "(" * 5_000 + ")" * 5_000, "-" * 100_000 + "1"])
def test_source_that_cannot_be_read_is_not_ones_own(project: Path, text: str) -> None:
    (project / "own_odd.py").write_text(text)
    assert not permitted(project, "own_odd:build")


def test_links_and_other_things_are_not_followed(project: Path) -> None:
    outside = project.parent / "outside.py"
    outside.write_text(NET)
    (project / "own_link.py").symlink_to(outside)
    os.mkfifo(project / "own_pipe.py")
    (project / "own_dir.py").mkdir()
    for name in ("own_link", "own_pipe", "own_dir"):
        assert not permitted(project, f"{name}:Net")


def test_secateur_itself_is_no_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever works on Secateur has its modules below the working directory."""
    monkeypatch.chdir(Path(trust.__file__).parents[3])
    found = load_recipe(recipe(project, "secateur.models.create:create", name="own_nets:Net"))
    mine = type(found)(**{**vars(found), "origin": Path.cwd() / "mine.yaml"})
    with pytest.raises(InputError, match="names code"):
        trust.permit_recipe(mine, trust=False)


# ------------------------------------------------------------------------------------------------- who named it


def test_options_of_a_file_stay_the_files_when_the_network_is_typed(project: Path) -> None:
    path = recipe(project, "resnet_digits", checkpoint_path="evil.pth")
    typed = load_recipe(path, edit=lambda tree: override(tree, ["model.name=timm:resnet18"]))
    with pytest.raises(InputError, match="'checkpoint_path'"):
        trust.permit_recipe(typed, trust=False)


@pytest.mark.parametrize("setting", ["model.options.pretrained_cfg=x", "model.options={pretrained_cfg: x}",
                                     "model={name: 'timm:resnet18', options: {pretrained_cfg: x}}"])  # fmt: skip
def test_options_that_are_typed_are_the_users_own(project: Path, setting: str) -> None:
    path = recipe(project, "timm:resnet18")
    trust.permit_recipe(load_recipe(path, edit=lambda tree: override(tree, [setting])), trust=False)


@pytest.mark.parametrize(
    ("library", "option"),
    [("timm", "pretrained"), ("timm", "pretrained_cfg_overlay"), ("timm", "cache_dir"), ("torchvision", "weights"),
     ("torchvision", "weights_backbone"), ("torchvision", "pretrained_backbone")],
)  # fmt: skip
def test_options_that_fetch_or_open_files_count_as_code(project: Path, library: str, option: str) -> None:
    with pytest.raises(InputError, match=f"the option '{option}'"):
        trust.permit_recipe(load_recipe(recipe(project, f"{library}:resnet18", **{option: "x"})), trust=False)


# ---------------------------------------------------------------------------------------------------- records


def test_a_run_is_known_however_its_folder_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "own_nets.py").write_text(NET)
    (project / "runs").mkdir()
    run(load_recipe(recipe(project, "own_nets:Net")), "runs/first")
    (project.parent / "link").symlink_to(project)
    for name in ("runs/../runs/first", "../link/runs/first", str(project / "runs" / "." / "first")):
        resume(name)
    monkeypatch.chdir(project / "runs" / "first")
    resume(".")


def test_nobodys_home_is_no_traceback(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In containers a user can be without a name and without a home."""
    (project / "own_nets.py").write_text(NET)
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("SECATEUR_CACHE", str(project / "cache"))

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    with pytest.warns(UserWarning, match="not noted that you started"):
        run(load_recipe(recipe(project, "own_nets:Net")), "out")
    with pytest.raises(InputError, match="was not started here"):
        resume("out")


def test_a_state_folder_that_depends_on_where_one_stands_is_not_used(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The specification of XDG_STATE_HOME says so; else a stranger's folder could bring records along."""
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setattr(Path, "home", lambda: project.parent / "user")
    run(load_recipe(recipe(project, "resnet_digits")), "out")
    assert not (project / "state").exists()
    assert list((project.parent / "user").rglob("*.json"))


# ------------------------------------------------------------------------------------------------- processes


def planted(folder: Path) -> Path:
    """A folder with modules of well-known names, each of which leaves a mark when it is imported."""
    folder.mkdir()
    for name in ("json", "torch", "numpy", "secateur", "runpy", "selectors", "multiprocessing"):
        (folder / f"{name}.py").write_text(PLANT.format(mark=str(folder / "MARK")))
    return folder


def test_processes_import_nothing_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stands in a stranger's folder runs no ``json.py`` of it."""
    here = planted(tmp_path / "here")
    monkeypatch.chdir(here)
    with Child("net") as child:
        child.send({"file": "no.pt2", "runtime": "nowhere", "threads": 1, "inputs": "no.pt"})
        with pytest.raises(SecateurError):
            child.answer()
    job = Job("job", here / "job.yaml", here / "job")
    failed = run_jobs([job], run=Local(1).run, home=here, on_event=lambda event: None)
    assert "There is no recipe file" in failed["job"]
    assert not (here / "MARK").exists()


# -------------------------------------------------------------------------------------------------- factories


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm:resnet18.a:b", {}),
        ("timm:resnet18.nosuch", {}),
        ("timm:resnet18", {"pretrained": True}),
        ("timm:resnet18", {"checkpoint_path": "x.pth"}),
        ("timm:resnet18", {"model_name": "x"}),
        ("timm:resnet18", {"wings": 2}),
        ("timm:resnet18", {"act_layer": "eval"}),
        ("timm:resnet18", {"scriptable": {}, "block": "x"}),
        ("torchvision:resnet18", {"weights_backbone": [1]}),
        ("torchvision:resnet18", {"wings": 2}),
        ("torchvision:resnet18", {"block": "x"}),
        ("torchvision:resnet18", {"layers": [1]}),
        ("resnet20", {"option": "Z"}),
        ("resnet20", {"depth": "ten"}),
        ("vgg_digits", {"in_channels": {"a": 1}}),
        (":Net", {}),
        ("..own:Net", {}),
        ("own_raises:build", {}),
        ("own_syntax:build", {}),
    ],
)
def test_a_network_that_cannot_be_built_is_one_sentence(project: Path, name: str, options: dict[str, object]) -> None:
    if name.startswith(("timm", "torchvision")) and find_spec(name.partition(":")[0]) is None:
        pytest.skip("not installed")
    (project / "own_raises.py").write_text("def build():\n    raise ValueError('no\\nluck')\n")
    (project / "own_syntax.py").write_text("def build(:\n")
    with pytest.raises(SecateurError) as found:
        create(name, **options)  # type: ignore[arg-type]
    assert "\n" not in str(found.value)
    assert name.partition(":")[0].strip(".") in str(found.value)


def test_the_line_of_the_users_code_is_named(project: Path) -> None:
    (project / "own_raises.py").write_text("import json\ndef build():\n    return json.loads('{')\n")
    with pytest.raises(InputError, match=r"own_raises:build .*JSONDecodeError.*own_raises\.py, line 3"):
        create("own_raises:build")


def test_a_forged_state_moves_nobody(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a record the working directory stays, and the path of imports too."""
    run(load_recipe(recipe(project, "resnet_digits")), "out")
    (project / "out").rename(project / "moved")
    evil = planted(tmp_path / "evil")
    state = json.loads(Path("moved/state.json").read_text())
    Path("moved/state.json").write_text(json.dumps({**state, "home": str(evil)}))
    seen: list[Path] = []
    resume("moved", on_event=lambda event: seen.append(Path.cwd()))
    assert set(seen) == {project}
    assert str(evil) not in sys.path
