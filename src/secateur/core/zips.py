"""Looking through a zip archive before anything in it is read."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from secateur.core.errors import SecateurError

__all__ = ["opened_zip"]

_ENTRY = 46  # bytes that a member takes in the list at the archive's end, at least
_ENCRYPTED = 0x1


def opened_zip(file: BinaryIO, what: str, fault: type[SecateurError], *, most: int) -> zipfile.ZipFile:
    """Opens an archive that every reader sees alike: no member twice, none encrypted, not too many.

    Args:
        file: The archive.
        what: Name for messages.
        fault: The class of the error.
        most: Members that it may have. Each takes some 500 bytes of memory and 46 in the file.

    Raises:
        SecateurError: Of the class ``fault``.
        zipfile.BadZipFile: It is damaged.
    """
    end: Any = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    listed = int(end[5]) if end else 0  # bytes of the list: the number beside it is not what readers go by
    if listed // _ENTRY > most:
        raise fault(f"{what} has up to {listed // _ENTRY:,} members; {most:,} are the most that are read.")
    archive = zipfile.ZipFile(file)
    names = Counter(str(PurePosixPath(info.filename)) for info in archive.infolist())
    name, count = names.most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise fault(f"{what} has {count} members named {name[:80]!r}, of which readers take different ones.")
    secret = next((info.filename for info in archive.infolist() if info.flag_bits & _ENCRYPTED), None)
    if secret is not None:
        raise fault(f"{what} is not read: its member {secret[:80]!r} is an encrypted file.")
    return archive
