"""Archives: unpacked once, whole or not at all, and nowhere else."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from secateur.core.errors import DataError
from secateur.data import Split, archive, cache, load
from secateur.data.cache import cache_folder

from .conftest import MakeFolder

KINDS = ["tar", "tar.gz", "tar.xz", "zip"]


def pack(folder: Path, kind: str) -> Path:
    path = folder.with_name(f"{folder.name}.{kind}")
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as out:
            for file in files:
                out.write(file, file.relative_to(folder.parent))
    else:
        with tarfile.open(path, f"w:{kind[4:]}") as out:  # type: ignore[call-overload]
            for file in files:
                out.add(file, file.relative_to(folder.parent))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_its_folder(make_folder: MakeFolder, tmp_path: Path, kind: str) -> None:
    root = make_folder()
    whole = load(root, cache_dir=tmp_path / "a")
    packed = load(pack(root, kind), cache_dir=tmp_path / "b")
    assert (packed.name, packed.classes) == ("pictures", whole.classes)
    assert isinstance(whole.train, Split)
    assert isinstance(packed.train, Split)
    assert torch.equal(packed.train.images, whole.train.images)


def test_the_second_time_nothing_is_unpacked(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(make_folder(), "tar.xz")
    load(path, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(archive, "_unpack_checked", None)
    monkeypatch.setattr("secateur.data.folder.decode_all", None)
    assert len(load(path, cache_dir=tmp_path / "cache").test) == 12


def tar_with(path: Path, name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    with tarfile.open(path, "w") as out:
        good = tarfile.TarInfo("d/cat/1.png")
        out.addfile(good, io.BytesIO())
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, 0
        out.addfile(info, io.BytesIO())


BAD_TARS = [
    ("../evil.png", tarfile.REGTYPE, "", "leads out"),
    ("d/../../evil.png", tarfile.REGTYPE, "", "leads out"),
    ("/tmp/evil.png", tarfile.REGTYPE, "", "leads out"),
    ("d\\..\\..\\evil.png", tarfile.REGTYPE, "", "leads out"),
    ("C:evil.png", tarfile.REGTYPE, "", "leads out"),
    ("d/cat/2.png", tarfile.SYMTYPE, "/etc/passwd", "is a link"),
    ("d/cat/2.png", tarfile.LNKTYPE, "../../x", "is a link"),
    ("d/cat/2.png", tarfile.FIFOTYPE, "", "is a device"),
]


@pytest.mark.parametrize(("name", "kind", "link", "text"), BAD_TARS)
def test_unsafe_members_are_refused_before_anything_is_written(
    tmp_path: Path, name: str, kind: bytes, link: str, text: str
) -> None:
    tar_with(tmp_path / "bad.tar", name, kind, link)
    with pytest.raises(DataError, match=text):
        load(tmp_path / "bad.tar", cache_dir=tmp_path / "cache")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.tar"]


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png"])
def test_unsafe_zip_members(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as out:
        out.writestr(name, b"x")
    with pytest.raises(DataError, match="leads out"):
        load(tmp_path / "bad.zip", cache_dir=tmp_path / "cache")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.zip"]


def test_a_link_in_a_zip(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("d/cat/1.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as out:
        out.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        load(tmp_path / "bad.zip", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_archive_leaves_nothing(make_folder: MakeFolder, tmp_path: Path, kind: str) -> None:
    path = pack(make_folder(), kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="pictures"):
        load(path, cache_dir=tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert not list((tmp_path / "cache").glob("archives/*"))


def test_a_full_disk_while_unpacking(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(make_folder(), "tar")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archive.shutil, "copyfileobj", full)
    with pytest.raises(DataError, match=r"disk is full.*SECATEUR_CACHE"):
        load(path, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "archives").iterdir())


def test_a_disk_that_is_too_small_is_told_before(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(make_folder(), "zip")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: type(usage)(10, 0, 10))
    with pytest.raises(DataError, match="MB free"):
        load(path, cache_dir=tmp_path / "cache")


def test_a_full_disk_while_caching(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_tensors: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "save_file", full)
    with pytest.raises(DataError, match="disk is full"):
        load(make_folder(), cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "decoded").iterdir())


def test_what_a_killed_process_left_is_removed(make_folder: MakeFolder, tmp_path: Path) -> None:
    path = pack(make_folder(), "tar")
    key = archive.digest_of(path)[:24]
    dead = next(pid for pid in range(4_000_000, 5_000_000) if not Path(f"/proc/{pid}").exists())
    stale = tmp_path / "cache" / "archives" / f"{key}.partial-{dead}"
    alive = stale.with_name(f"{key}.partial-{os.getppid()}")
    stale.mkdir(parents=True)
    alive.mkdir()
    load(path, cache_dir=tmp_path / "cache")
    assert not stale.exists()
    assert alive.exists()


def test_the_environment_names_the_cache(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "elsewhere"))
    load(pack(make_folder(), "zip"))
    assert sorted(p.name for p in (tmp_path / "elsewhere").iterdir()) == ["archives", "decoded"]


@pytest.mark.slow
def test_the_shared_jpeg_cifar(shared: Path, tmp_path: Path) -> None:
    data = load(shared / "data" / "cifar10-jpeg.tar.xz", cache_dir=tmp_path / "cache")
    assert (len(data.train), len(data.validation), len(data.test)) == (45_000, 5_000, 10_000)
    assert data.classes[:3] == ("airplane", "automobile", "bird")
    assert torch.bincount(data.train.labels).tolist() == [4500] * 10


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SECATEUR_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(DataError, match="SECATEUR_CACHE=FOLDER"):
        cache_folder(None)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_a_file_with_the_name_of_a_folder_gives_way_to_it(tmp_path: Path, first: bool, ending: str) -> None:
    """Programs that pack links as files leave such ones; one is in the public coco128 archive."""
    path = tmp_path / f"data.{ending}"
    members = [("d/images", b"not this"), ("d/images/1.png", b"this")][:: 1 if first else -1]
    if ending == "zip":
        with zipfile.ZipFile(path, "w") as out:
            for name, content in members:
                out.writestr(name, content)
    else:
        with tarfile.open(path, "w") as packed:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                packed.addfile(info, io.BytesIO(content))
    folder = archive.unpack(path, tmp_path / "cache", "0" * 64)
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        "d/images/1.png": b"this"
    }
