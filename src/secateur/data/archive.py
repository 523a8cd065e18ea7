"""Unpacks archives of images once, into a cache folder that no member can leave."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from secateur.core.errors import DataError, first_line
from secateur.core.reading import allowance, opened
from secateur.core.zips import opened_zip
from secateur.data.cache import disk_errors

__all__ = ["SUFFIXES", "digest_of", "is_archive", "unpack"]

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".zip")

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError, ValueError,
           NotImplementedError, RuntimeError, struct.error, OverflowError, IndexError)  # fmt: skip

_FEWEST, _BYTES_EACH = 10_000, 100
"""Members that an archive may have: so many, or one for so many of its bytes."""
_LARGEST_READ = 16 * 2**20


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    kind: str  # "file", "folder", or what else it is


def is_archive(path: Path) -> bool:
    """Whether the file's name is that of a supported archive."""
    return path.name.lower().endswith(SUFFIXES)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with opened(path, DataError) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(path: Path, cache: Path, digest: str) -> Path:
    """Unpacks ``path`` unless it was unpacked before, and returns the folder.

    Every member is checked before the first byte is written; what is written goes to a temporary
    folder that is renamed at the end, so that a folder under the final name is always complete.

    Raises:
        DataError: The archive is damaged or unsafe, or the disk is full.
    """
    folder = cache / "archives" / digest[:24]
    if folder.is_dir():
        return folder
    _clear_stale(folder)
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    with disk_errors(f"what {path.name} holds", folder.parent):
        try:
            _unpack_checked(path, partial)
            with contextlib.suppress(FileExistsError):
                partial.rename(folder)
        except DataError:
            raise
        except _DAMAGE as error:
            raise DataError(f"{path} is damaged or no archive: {first_line(error)}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _unpack_checked(path: Path, target: Path) -> None:
    total, folders = _checked(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if total > free:
        raise DataError(
            f"{path} unpacks to {total / 1e6:.0f} MB, and {target.parent} has {free / 1e6:.0f} MB free; "
            f"choose another cache folder (cache_dir, or the environment variable SECATEUR_CACHE)."
        )
    with _opened(path) as archive:  # again from the start: compressed archives are read in one direction
        for name, source in _files(archive):
            if PurePosixPath(name) in folders:  # a link to a folder that somebody's program packed as a file
                continue
            file = target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with source, file.open("xb") as out:
                shutil.copyfileobj(source, out)


def _checked(path: Path) -> tuple[int, set[PurePosixPath]]:
    """Bytes that an archive unpacks to, and the folders that members lie in; stops at the first wrong member."""
    size = path.stat().st_size
    total, most, seen, folders = 0, max(_FEWEST, size // _BYTES_EACH), set(), set[PurePosixPath]()
    with _opened(path) as archive:
        for member in _members(archive):
            _check(member, path)
            place = PurePosixPath(member.name)
            if member.kind == "file" and place in seen:
                raise DataError(f"{path} is not unpacked: it has two members named {member.name[:80]!r}.")
            seen.add(place)
            folders.update(place.parents)
            total += member.size
            if total > allowance(size) or len(seen) > most:
                raise DataError(
                    f"{path} is not unpacked: its {size:,} bytes become more than {allowance(size):,} bytes, or more "
                    f"than {most:,} files, as no images do."
                )
    return total, folders


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile | zipfile.ZipFile]:
    """The archive; nothing that it says of itself makes a single read large."""
    with opened(path, DataError) as file:
        size, lower = os.fstat(file.fileno()).st_size, path.name.lower()
        if lower.endswith(".zip"):
            with opened_zip(file, str(path), DataError, most=max(_FEWEST, size // _BYTES_EACH)) as archive:
                yield archive
            return
        with _stream(file, lower) as content:
            careful: Any = _Careful(content)
            with tarfile.open(fileobj=careful, mode="r:") as packed:
                yield packed


def _stream(file: IO[bytes], name: str) -> Any:
    if name.endswith((".gz", ".tgz")):
        return gzip.open(file)
    if name.endswith((".xz", ".txz")):
        return lzma.open(file)
    return bz2.open(file) if name.endswith(".bz2") else file


class _Careful:
    """A stream whose reads are small: a header that says it is gigabytes long would be read in one go."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _LARGEST_READ:
            raise tarfile.ReadError(f"a header of {count:,} bytes")
        return self._stream.read(count)

    def seek(self, place: int, whence: int = 0) -> int:
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        return self._stream.tell()


def _members(archive: tarfile.TarFile | zipfile.ZipFile) -> Iterator[_Member]:
    if isinstance(archive, zipfile.ZipFile):
        yield from (_Member(m.filename, m.file_size, _zip_kind(m)) for m in archive.infolist())
        return
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # else every one is kept
        yield _Member(member.name, member.size, _tar_kind(member))


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.issparse():
        return "file with holes"  # which says that it is larger than what it holds
    if member.isreg():
        return "file"
    if member.isdir():
        return "folder"
    return "link" if member.issym() or member.islnk() else "device"


def _zip_kind(member: zipfile.ZipInfo) -> str:
    mode = member.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "link"
    if member.flag_bits & 1:
        return "encrypted file"
    return "folder" if member.is_dir() else "file"


def _check(member: _Member, path: Path) -> None:
    parts = PurePosixPath(member.name.replace("\\", "/")).parts
    outside = member.name.startswith(("/", "\\")) or ".." in parts or ":" in member.name or "\0" in member.name
    if outside or member.kind not in ("file", "folder"):
        what = "leads out of its folder" if outside else f"is a {member.kind}"
        raise DataError(
            f"{path} is not unpacked: its member {member.name[:80]!r} {what}. "
            f"An archive of images holds plain files and folders only; pack it anew."
        )


def _files(archive: tarfile.TarFile | zipfile.ZipFile) -> Iterator[tuple[str, IO[bytes]]]:
    if isinstance(archive, zipfile.ZipFile):
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, archive.open(info)
        return
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]
        source = archive.extractfile(member) if member.isreg() else None
        if source is not None:
            yield member.name, source


def _clear_stale(folder: Path) -> None:
    """Removes what a process that was killed while unpacking left behind."""
    for old in folder.parent.glob(f"{folder.name}.partial-*"):
        pid = old.name.rpartition("-")[2]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(old, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return pid != os.getpid()
