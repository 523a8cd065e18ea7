"""Files of strangers: opened only where they are plain files, read only as far as they account for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from secateur.core.errors import DataError
from secateur.core.reading import opened, parse_json, plain, read_json, read_text


def odd_ones(folder: Path) -> dict[str, Path]:
    """Paths that lead to no plain file, by what the message says of them."""
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "folder").mkdir()
    (folder / "dangling").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as there:
        os.chdir(folder)
        there.bind("socket")
    return {
        "a named pipe": folder / "pipe",
        "Too many levels of symbolic links": folder / "loop",
        "a folder": folder / "folder",
        "No such file": folder / "dangling",
        "a socket": folder / "socket",
        "a device": Path(os.devnull),
    }


def test_what_is_no_plain_file_is_refused_without_being_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words, path in odd_ones(tmp_path).items():
        for read in (plain, read_text, read_json):
            with pytest.raises(DataError, match=words):
                read(path, DataError)


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "file")
    monkeypatch.setattr("secateur.core.reading.plain", lambda path, *_, **__: path)
    with pytest.raises(DataError, match="a named pipe"), opened(tmp_path / "file", DataError):
        pass


def test_links_to_plain_files_are_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a\r\nb")
    (tmp_path / "link").symlink_to("file")
    assert read_text(tmp_path / "link", DataError) == "a\nb"


def test_size_and_encoding(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff" * 11)
    with pytest.raises(DataError, match=r"file is too large: 11 bytes; a file of this kind has 10 at most\.$"):
        read_text(tmp_path / "file", DataError, largest=10)
    with pytest.raises(DataError, match="not a text file"):
        read_text(tmp_path / "file", DataError)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 5000 + "1" + "}" * 5000, "nested too deeply"),
        ("[" + "[]," * 600_000 + "1]", "more than 500,000"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is given twice"),
        ("[" + "9" * 5000 + "]", "not JSON"),
        ("", "not JSON"),
        ("[1, 2", "not JSON"),
    ],
)
def test_json_that_was_made_to_harm(text: str, words: str) -> None:
    for given in (text, text.encode()):
        with pytest.raises(DataError, match=f"^the file .*{words}") as error:
            parse_json(given, "the file", DataError)
        assert "\n" not in str(error.value)


def test_files_that_grow_with_their_data_may_have_more_parts() -> None:
    """COCO's training annotations have millions; what is allowed then is one part for so many bytes."""
    small = "[" + ",".join(["[]"] * 600_000) + "]"
    with pytest.raises(DataError, match="more than 500,000 lists"):
        parse_json(small, "it", DataError)
    with pytest.raises(DataError, match="more than 500,000 lists"):
        parse_json(small, "it", DataError, each=30)
    with pytest.raises(DataError, match="more than 600,000 lists"):
        parse_json(small, "it", DataError, each=3)
    wide = "[" + ",".join(["[]   "] * 600_000) + "]"
    assert len(parse_json(wide, "it", DataError, each=5)) == 600_000
