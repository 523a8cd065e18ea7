"""What every registered runtime has to do, whoever brought it: describe itself, run what the network computes, refuse.

A runtime of your own is tried by these tests too once its module is imported before them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, SecateurError
from secateur.exports import export
from secateur.runtimes import RUNTIMES, Runtime, installed, packages, title_of
from secateur.runtimes.formats import file_bytes, readers, writer, writer_for
from secateur.runtimes.packages import missing

ALL = list(RUNTIMES)
WRITE = [name for name in RUNTIMES if RUNTIMES[name].writes]
FILES = [name for name in RUNTIMES if RUNTIMES[name].suffixes]
MODULES = [name for name in RUNTIMES if RUNTIMES[name].modules and not RUNTIMES[name].slow_to_start]
INT8 = [name for name in RUNTIMES if RUNTIMES[name].int8]

Written = Callable[[str], Path]


def network() -> nn.Module:
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(16, 4))
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), *head).eval()


def images(count: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def here(name: str, *more: str) -> Runtime:
    """The runtime, where it is installed."""
    gone = missing((*RUNTIMES[name].packages, *more))
    if gone:
        pytest.skip(f"{', '.join(gone)} is not installed")
    return RUNTIMES[name]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Writes the network once per runtime; one that only reads gets the file of the runtime that writes such."""
    folder = tmp_path_factory.mktemp("files")

    def write(name: str) -> Path:
        first = next(one for one in readers(here(name).suffix) if one.writes)
        path = folder / f"{here(first.name).name}{first.suffix}"
        if not path.exists():
            export(network(), images(), path)
        return path

    return write


@pytest.mark.parametrize("name", ALL)
def test_it_describes_itself(name: str) -> None:
    runtime = RUNTIMES[name]
    assert runtime.name == name
    assert runtime.title == title_of(name)
    assert runtime.title.strip()
    assert runtime.summary.strip()
    assert runtime.step >= 1
    assert runtime.packages
    assert runtime.modules or runtime.suffixes
    assert "pip install" in runtime.install_command()


@pytest.mark.parametrize("name", WRITE)
def test_its_ending_and_its_format_lead_to_it(name: str) -> None:
    runtime = RUNTIMES[name]
    assert writer(runtime.format) is writer_for(Path(f"net{runtime.suffix}")) is runtime
    assert readers(runtime.suffix)[0] is runtime


@pytest.mark.parametrize("name", MODULES)
def test_a_module_runs_as_it_is(name: str) -> None:
    (found,) = here(name).open(network(), 1)(images())
    torch.testing.assert_close(found, network()(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in FILES if not RUNTIMES[name].slow_to_start])
def test_a_file_computes_what_the_network_does(name: str, written: Written) -> None:
    path = written(name)
    assert RUNTIMES[name].recognises(path)
    assert file_bytes(path) >= path.stat().st_size > 0
    (found,) = RUNTIMES[name].open(path, 1, trust=True)(images())
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, network()(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WRITE)
def test_files_of_any_batch_take_any(name: str, written: Written) -> None:
    program = here(name).open(written(name), 1, trust=True)
    if RUNTIMES[name].fixed_batch:
        with pytest.raises(InputError, match=r"'.*'.* takes 2×3×8×8 only"):
            program(images(5))
        return
    (found,) = program(images(5))
    torch.testing.assert_close(found, network()(images(5)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WRITE)
def test_prepared_inputs_stay_apart(name: str, written: Written) -> None:
    program = here(name).open(written(name), 1, trust=True)
    given = images(2, seed=1), images(2, seed=2)
    held = [program.prepare(one) for one in given]
    for one, prepared in zip(given, held, strict=True):
        torch.testing.assert_close(program.outputs(program.run(prepared))[0], network()(one), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(name: str, written: Written, tmp_path: Path) -> None:
    good = written(name)
    path = tmp_path / f"broken{good.suffix}"
    path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    for part in RUNTIMES[name].parts(good)[1:]:
        if part.is_file():
            (tmp_path / part.name.replace(good.stem, "broken")).write_bytes(part.read_bytes())
    with pytest.raises(SecateurError, match=r"broken"):
        RUNTIMES[name].open(path, 1, trust=True)


@pytest.mark.parametrize("name", FILES)
def test_no_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no file '.*nothing"):
        RUNTIMES[name].open(tmp_path / f"nothing{RUNTIMES[name].suffix}", 1, trust=True)


@pytest.mark.parametrize("name", [name for name in FILES if RUNTIMES[name].code])
def test_what_can_hold_code_needs_trust(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{RUNTIMES[name].suffix}"
    with pytest.raises(InputError, match=r"net\..*can run any code .*trust=True \(--trust\)"):
        RUNTIMES[name].open(path, 1)


@pytest.mark.parametrize("name", WRITE)
def test_a_file_of_another_runtime_is_named(name: str, written: Written, tmp_path: Path) -> None:
    other = next(one for one in WRITE if one != name and installed(RUNTIMES[one]))
    path = tmp_path / f"other{RUNTIMES[other].suffix}"
    path.write_bytes(written(other).read_bytes())
    for part in RUNTIMES[other].parts(written(other))[1:]:
        if part.is_file():
            (tmp_path / part.name.replace(written(other).stem, "other")).write_bytes(part.read_bytes())
    if RUNTIMES[name].recognises(path):
        pytest.skip(f"{name} reads the files of {other} too")
    format_ = RUNTIMES[other].format
    with pytest.raises(InputError, match=rf"other.*' is a file of the format '{format_}'; .* reads '\w+'"):
        RUNTIMES[name].open(path, 1, trust=True)


@pytest.mark.parametrize("name", ALL)
def test_a_missing_package_is_named_with_its_command(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runtime = RUNTIMES[name]
    gone = runtime.packages[0]
    monkeypatch.setattr(packages, "_found", lambda package: package != gone)
    assert not installed(runtime)
    with pytest.raises(InputError, match=rf"needs {gone}: pip install torch==.*"):
        runtime.need("This")
    if runtime.suffixes:
        path = tmp_path / f"net{runtime.suffix}"
        path.touch()
        with pytest.raises(InputError, match=rf"needs {gone}: pip install torch==.*"):
            runtime.open(path, 1, trust=True)
    if runtime.writes:
        with pytest.raises(InputError, match=rf"needs {gone}: pip install torch==.*"):
            export(network(), images(), tmp_path / "net", to=runtime.format)


@pytest.mark.parametrize("name", INT8)
def test_int8_is_near_and_takes_floats(name: str, tmp_path: Path) -> None:
    runtime = here(name, *RUNTIMES[name].int8_packages)
    path = tmp_path / f"small{runtime.suffix}"
    check = export(network(), images(), path, calibration=images(16), check_inputs=images(8, seed=3))
    assert check.int8
    assert check.snr_db is not None
    assert check.snr_db > 10
    (found,) = runtime.open(path, 1, trust=True)(images())
    assert found.dtype == torch.float32


@pytest.mark.parametrize("name", [name for name in WRITE if not RUNTIMES[name].int8])
def test_int8_is_refused_where_there_is_none(name: str, tmp_path: Path) -> None:
    here(name)
    with pytest.raises(InputError, match=rf"no int8 files of the format '{RUNTIMES[name].format}'"):
        export(network(), images(), tmp_path / "net", to=RUNTIMES[name].format, calibration=images(8))
    assert not list(tmp_path.iterdir())
