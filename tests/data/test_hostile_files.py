"""Data files of strangers: archives that unpack to more, tables and arrays that lie, pipes among the images."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from secateur.core.errors import DataError
from secateur.data import load
from secateur.data.cifar import read_pickle
from secateur.data.idx import read_idx

from .conftest import MakeFolder


def refused(path: Path | str, words: str, cache: Path) -> None:
    with pytest.raises(DataError, match=words) as error:
        load(path, cache_dir=cache)
    assert "\n" not in str(error.value)
    assert not [p for p in cache.rglob("*") if p.is_file()]


def tar(path: Path, *members: tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as out:  # type: ignore[call-overload]
        for member in members:
            out.addfile(member, io.BytesIO(bytes(min(member.size, 2000))))
    return path


def claimed(path: Path, size: int) -> Path:
    path.write_bytes(member("d/c/1.png", size).tobuf(tarfile.GNU_FORMAT) + bytes(2000))
    return path


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info


def flagged(path: Path, bit: int) -> Path:
    """Sets a bit in the flags of a zip's only member."""
    content = bytearray(path.read_bytes())
    content[6] |= bit
    content[content.index(b"PK\x01\x02") + 8] |= bit
    path.write_bytes(content)
    return path


def zipped(path: Path, *names: str, data: bytes = b"x", kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", kind) as out:
        warnings.simplefilter("ignore")  # of names that stand twice
        for name in names:
            out.writestr(name, data)
    return path


def lying(path: Path, offset: int, value: int) -> Path:
    """A zip whose list says something else of its member."""
    content = bytearray(zipped(path, "d/cat/1.png", data=bytes(100)).read_bytes())
    start = content.index(b"PK\x01\x02") + offset
    content[start : start + 4] = struct.pack("<I", value)
    path.write_bytes(content)
    return path


ZIPS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "twice": (lambda p: zipped(p, "d/cat/1.png", "d/cat/1.png"), "2 members named"),
    "twice in other words": (lambda p: zipped(p, "d/cat/1.png", "d/./cat/1.png"), "2 members named"),
    "encrypted": (lambda p: flagged(zipped(p, "d/cat/1.png"), 1), "encrypted file"),
    "a bomb": (lambda p: zipped(p, "d/cat/1.png", data=bytes(200 * 2**20)), "as no images do"),
    "a claim": (lambda p: lying(p, 24, 2**31), "as no images do"),
    "a small claim": (lambda p: lying(p, 24, 10), "damaged"),
    "a member elsewhere": (lambda p: lying(p, 42, 2**30), "damaged"),
    "many members": (
        lambda p: zipped(p, *(f"d/cat/{i}.png" for i in range(10_001)), data=b""),
        "are the most that are read",
    ),
    "an unknown method": (lambda p: lying(p, 10, 0x60), "damaged|not supported|compression"),
    "a path of NUL": (lambda p: zipped(p, "d/cat/../../1.png"), "leads out"),
}


@pytest.mark.parametrize(("make", "words"), ZIPS.values(), ids=ZIPS)
def test_zips(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    refused(make(tmp_path / "bad.zip"), words, tmp_path / "cache")


def long_header(path: Path, kind: bytes) -> Path:
    """A tar whose header says that the next name has gigabytes, of which a few millions of zeros follow."""
    info = member("././@LongLink", 3 * 2**30, kind)
    with gzip.open(path, "wb", 1) as out:
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(20):
            out.write(bytes(2**20))
    return path


TARS: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "twice": ("tar", lambda p: tar(p, member("d/c/1.png"), member("d/c/1.png")), "two members named"),
    "twice in other words": ("tar", lambda p: tar(p, member("d/c/1.png"), member("d//c/./1.png")), "two members named"),
    "a claim": ("tar", lambda p: claimed(p, 2**40), "as no images do|damaged"),
    "a block device": ("tar", lambda p: tar(p, member("d/c/1.png", kind=tarfile.BLKTYPE)), "is a device"),
    "holes": ("tar", lambda p: tar(p, member("d/c/1.png", kind=tarfile.GNUTYPE_SPARSE)), "holes|damaged"),
    "many members": ("tar.gz", lambda p: tar(p, *(member(f"d/c/{i}.png") for i in range(10_001)), mode="w:gz"),
                     "more than 10,000 files"),
    "a long name": ("tar.gz", lambda p: long_header(p, tarfile.GNUTYPE_LONGNAME), "header of"),
    "a long record": ("tar.gz", lambda p: long_header(p, tarfile.XHDTYPE), "header of"),
    "no stream": ("tar.bz2", lambda p: p.write_bytes(b"BZh9" + b"x" * 100) and p, "Cannot read|damaged"),
    "no gzip": ("tar.gz", lambda p: p.write_bytes(b"x" * 100) and p, "Cannot read|damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("ending", "make", "words"), TARS.values(), ids=TARS)
def test_tars(tmp_path: Path, ending: str, make: Callable[[Path], Path], words: str) -> None:
    refused(make(tmp_path / f"bad.{ending}"), words, tmp_path / "cache")


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_a_pipe_in_place_of_an_archive(tmp_path: Path, ending: str) -> None:
    os.mkfifo(tmp_path / f"x.{ending}")
    refused(tmp_path / f"x.{ending}", "named pipe", tmp_path / "cache")


def test_an_archive_in_an_archive_stays_one(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", "1.png", data=bytes(100 * 2**20)).read_bytes()
    path = zipped(tmp_path / "outer.zip", "d/cat/1.zip", data=inner)
    with pytest.raises(DataError, match="no images"):
        load(path, cache_dir=tmp_path / "cache")
    assert sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*") if p.is_file()) == len(inner)


def test_odd_things_among_images(make_folder: MakeFolder, tmp_path: Path) -> None:
    for name, make, words in [
        ("pipe.png", os.mkfifo, "named pipe"),
        ("loop.png", lambda p: p.symlink_to("loop.png"), "symbolic links"),
        ("nowhere.png", lambda p: p.symlink_to("nothing"), "No such file"),
        ("device.png", lambda p: p.symlink_to("/dev/zero"), "a device"),
    ]:
        root = make_folder(f"with {name}")
        make(root / "train" / "cat" / name)
        refused(root, words, tmp_path / "cache")


def test_folders_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "again").symlink_to(".")
    refused(tmp_path / "a", "no images|symbolic links", tmp_path / "cache")


def test_idx_files_that_unpack_to_more(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    for sizes, words in [((2**31, 100, 100), "more than it can hold"), ((10, 10, 10), "1000 bytes; more follow")]:
        path.write_bytes(gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", *sizes) + bytes(50 * 2**20), 1))
        with pytest.raises(DataError, match=words):
            read_idx(path)


def test_a_table_with_an_endless_line(tmp_path: Path) -> None:
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n0," + "1 " * 100_000 + ",Training\n")
    refused(f"fer2013:{tmp_path}", "a line of more than", tmp_path / "cache")
    (tmp_path / "fer2013.csv").write_text("a," * 40_000 + "\n")
    refused(f"fer2013:{tmp_path}", "has no column", tmp_path / "cache")


PICKLES = {
    "a memo of gigabytes": b"\x80\x02]r\xff\xff\xff\x7f.",
    "an array of gigabytes": b"\x80\x02cnumpy\nndarray\n(\x8a\x08\x00\x00\x00\x00\x04\x00\x00\x00tR.",
    "an import": b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00xX\x05\x00\x00\x00rot13tR.",
    "a program": b"\x80\x02cos\nsystem\n(X\x0d\x00\x00\x00touch was-runtR.",
}


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
def test_batches_that_were_made_to_harm(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("batch").write_bytes(content)
    with pytest.raises(DataError, match=r"^batch is") as error:
        read_pickle(Path("batch"))
    assert "\n" not in str(error.value)
    assert not Path("was-run").exists()


def test_arrays_of_other_things_than_bytes(tmp_path: Path) -> None:
    import numpy as np

    for array in (np.zeros(3), np.array([None]), np.zeros((2, 2), np.uint8, order="F"), np.array(["a"])):
        (tmp_path / "batch").write_bytes(pickle.dumps({b"data": array}, 2))
        with pytest.raises(DataError, match="something else than bytes"):
            read_pickle(tmp_path / "batch")
