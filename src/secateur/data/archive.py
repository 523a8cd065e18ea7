"""Unpacks archives of images once, into a cache folder that no member can leave."""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from secateur.data.cache import disk_errors
from secateur.errors import DataError

__all__ = ["SUFFIXES", "digest_of", "is_archive", "unpack"]

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".zip")

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, UnicodeDecodeError)


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
    with path.open("rb") as file:
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
        except _DAMAGE as error:
            raise DataError(f"{path} is damaged or no archive: {error or type(error).__name__}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _unpack_checked(path: Path, target: Path) -> None:
    with _opened(path) as archive:
        members = _members(archive)
        for member in members:
            _check(member, path)
    total = sum(member.size for member in members)
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if total > free:
        raise DataError(
            f"{path} unpacks to {total / 1e6:.0f} MB, and {target.parent} has {free / 1e6:.0f} MB free; "
            f"choose another cache folder (cache_dir, or the environment variable SECATEUR_CACHE)."
        )
    with _opened(path) as archive:  # again from the start: compressed archives are read in one direction
        for name, source in _files(archive):
            file = target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with source, file.open("wb") as out:
                shutil.copyfileobj(source, out)


def _opened(path: Path) -> tarfile.TarFile | zipfile.ZipFile:
    if path.name.lower().endswith(".zip"):
        return zipfile.ZipFile(path)
    return tarfile.open(path)


def _members(archive: tarfile.TarFile | zipfile.ZipFile) -> list[_Member]:
    if isinstance(archive, zipfile.ZipFile):
        return [_Member(m.filename, m.file_size, _zip_kind(m)) for m in archive.infolist()]
    return [_Member(m.name, m.size, _tar_kind(m)) for m in archive]


def _tar_kind(member: tarfile.TarInfo) -> str:
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
            f"{path} is not unpacked: its member {member.name!r} {what}. "
            f"An archive of images holds plain files and folders only; pack it anew."
        )


def _files(archive: tarfile.TarFile | zipfile.ZipFile) -> Iterator[tuple[str, IO[bytes]]]:
    if isinstance(archive, zipfile.ZipFile):
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, archive.open(info)
        return
    for member in archive:
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
