"""Artifacts with a card, in folders and on the Hub: its own library offline, and a stand-in for what it uploads."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import secateur
from secateur.core.errors import DataError, ExportError, InputError, WeightsError
from secateur.cut.artifact import card, hub
from secateur.cut.artifact import folder as artifact_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 3)).eval()


@pytest.fixture(scope="module")
def small() -> secateur.Pruned:
    return secateur.prune(network(), torch.randn(2, 3, 12, 12), ratio=0.5)


def same(one: secateur.Pruned, other: secateur.Pruned) -> bool:
    x = torch.randn(4, 3, 12, 12)
    with torch.no_grad():
        return torch.equal(one.model(x), other.model(x))


def front(text: str) -> dict[str, Any]:
    _, head, _ = text.split("---\n", 2)
    return dict(yaml.safe_load(head))


def test_a_folder_comes_back_without_code_and_without_the_hub(
    small: secateur.Pruned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    folder = small.save_pretrained(tmp_path / "small", metadata={"license": "mit"})
    assert {file.name for file in folder.iterdir()} == {*hub.FILES, "README.md"}
    back = secateur.from_pretrained(folder)
    assert same(back, small)
    assert same(secateur.from_pretrained(str(folder), network()), small)
    assert (back.after.params, back.after.macs) == (small.after.params, small.after.macs)


def test_the_card_says_what_is_so(small: secateur.Pruned, tmp_path: Path) -> None:
    text = (small.save_pretrained(tmp_path / "net", metadata={"license": "mit"}) / "README.md").read_text()
    assert front(text) == {"library_name": "secateur", "tags": ["secateur", "pruning", "pytorch"], "license": "mit"}
    assert f"| Parameters | {small.before.params:,} | {small.after.params:,} | " in text
    assert f"| MACs | {small.before.macs:,} | {small.after.macs:,} | " in text
    assert "1. criterion `l2`; ratio 0.5; scope local" in text
    assert "| `3.weight` | 8×8×3×3 | 4×4×3×3 |" in text
    assert f"verified to a relative error of {small.verification.max_relative_error:.1e}" in text
    assert f"secateur.from_pretrained({str(tmp_path / 'net')!r})" in text
    assert "Inputs that it was made with: 2×3×12×12 (float32)." in text
    space: dict[str, Any] = {"inputs": (torch.randn(1, 3, 12, 12),)}
    exec(text.split("```python\n")[1].split("```")[0], space)
    assert space["outputs"].shape == (1, 3)


def test_the_card_counts_from_the_dense_network_over_two_cuts(small: secateur.Pruned, tmp_path: Path) -> None:
    again = secateur.prune(small, criterion="l1", ratio=0.5)
    text = (again.save_pretrained(tmp_path) / "README.md").read_text()
    assert f"| Parameters | {small.before.params:,} | {again.after.params:,} | " in text
    assert "1. criterion `l2`; ratio 0.5" in text
    assert "2. criterion `l1`; ratio 0.5" in text


def test_a_card_of_the_users_stays(small: secateur.Pruned, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path)
    generated = (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text(generated.replace("criterion", "CRITERION"))
    small.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == generated
    (tmp_path / "README.md").write_text("mine")
    small.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_names_in_a_card_are_names_and_no_markup() -> None:
    assert card._text("<b>*x*</b>\n|") == r"\<b\>\*x\*\</b\> \|"
    assert card._code("a`|<script>") == "a???script?"


def test_without_a_graph_the_card_asks_for_the_class(small: secateur.Pruned, tmp_path: Path) -> None:
    folder = small.save_pretrained(tmp_path / "net", graph=False)
    assert not (folder / "graph.json").exists()
    assert "model=network)" in (folder / "README.md").read_text()
    assert same(secateur.from_pretrained(folder, network()), small)
    with pytest.raises(InputError, match="holds no self-contained graph"):
        secateur.from_pretrained(folder)


def test_what_a_graph_cannot_hold_is_saved_without_it(
    small: secateur.Pruned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pruned: secateur.Pruned, where: Path, *, graph: bool, **more: Any) -> Path:
        if graph:
            raise ExportError("no such operator")
        return real(pruned, where, graph=graph, **more)

    real = artifact_folder.save
    for module in (artifact_folder, hub):
        monkeypatch.setattr(module, "save", refuse)
    with pytest.warns(UserWarning, match="Saved without its graph.*no such operator"):
        small.save_pretrained(tmp_path / "net")
    with pytest.raises(ExportError):
        small.save_pretrained(tmp_path / "net", graph=True)


# ------------------------------------------------------------------------------------------------------ the Hub


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The Hub's own library without a network, and its cache in a folder."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def cached(cache: Path, name: str, folder: Path) -> Path:
    """Files of a repository as the library keeps them: links to blobs."""
    home = cache / f"models--{name.replace('/', '--')}"
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    (home / "refs").mkdir()
    (home / "refs/main").write_text(COMMIT)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, home / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    return snapshot


def test_a_repository_in_the_cache_is_loaded_as_an_artifact(
    small: secateur.Pruned, offline: Path, tmp_path: Path
) -> None:
    cached(offline, "me/small", small.save_pretrained(tmp_path / "made"))
    assert same(secateur.from_pretrained("me/small"), small)
    assert same(secateur.from_pretrained("me/small", revision="main"), small)


def test_what_was_exchanged_there_is_refused(small: secateur.Pruned, offline: Path, tmp_path: Path) -> None:
    made = small.save_pretrained(tmp_path / "made")
    (made / "model.safetensors").write_bytes((made / "model.safetensors").read_bytes()[:-4] + b"\1\2\3\4")
    cached(offline, "me/small", made)
    with pytest.raises(WeightsError, match="does not have the digest"):
        secateur.from_pretrained("me/small")


def test_a_repository_of_something_else_is_named(offline: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made/config.json").write_text("{}")
    cached(offline, "me/bert", tmp_path / "made")
    with pytest.raises(InputError, match="'me/bert' holds no artifact of Secateur"):
        secateur.from_pretrained("me/bert")


def test_only_the_files_of_an_artifact_are_asked_for(
    small: secateur.Pruned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("huggingface_hub")
    made, asked = small.save_pretrained(tmp_path / "made"), {}

    def stand_in(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(made)

    monkeypatch.setattr(library, "snapshot_download", stand_in)
    secateur.from_pretrained("me/small", revision="v1", token="hf_x")
    assert asked == {"name": "me/small", "revision": "v1", "token": "hf_x", "allow_patterns": list(hub.FILES)}


def test_what_cannot_be_fetched_is_one_sentence(offline: Path) -> None:
    with pytest.raises(DataError, match="The Hub cannot be reached for 'me/small', and this machine has no copy"):
        secateur.from_pretrained("me/small")
    with pytest.raises(InputError, match=r"There is no folder '\./nowhere'\. Give the folder of an artifact, or"):
        secateur.from_pretrained("./nowhere")
    with pytest.raises(InputError, match="'-me/x-' is no name of a repository"):
        secateur.from_pretrained("-me/x-")


def refused(kind: str, status: int) -> Exception:
    """What the Hub's library raises for an answer of its server."""
    errors = pytest.importorskip("huggingface_hub.errors")
    made: Exception = getattr(errors, kind).__new__(getattr(errors, kind))
    Exception.__init__(made, f"{status} of the server\nwith more")
    made.response = type("Response", (), {"status_code": status})()  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize(
    ("kind", "status", "error", "said"),
    [
        ("RepositoryNotFoundError", 404, InputError, "There is no repository 'me/small' on the Hub that you may read"),
        ("GatedRepoError", 403, InputError, "is gated: ask for access"),
        ("RevisionNotFoundError", 404, InputError, "has no revision 'v9'"),
        ("HfHubHTTPError", 401, InputError, "You are not logged in to the Hub: run `hf auth login`, or give token="),
        ("HfHubHTTPError", 403, InputError, "Your token may not write there"),
        ("HfHubHTTPError", 500, DataError, "The Hub failed on 'me/small': 500 of the server"),
        ("LocalTokenNotFoundError", 401, InputError, "You are not logged in to the Hub"),
        ("HTTPError", 0, DataError, "The Hub cannot be reached for 'me/small', or its files not be kept: 0 of the"),
        ("OfflineModeIsEnabled", 0, DataError, "The Hub cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    kind: str, status: int, error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("huggingface_hub")

    def fail(*_: Any, **__: Any) -> None:
        raise refused(kind, status)

    monkeypatch.setattr(library, "snapshot_download", fail)
    with pytest.raises(error, match=said) as found:
        secateur.from_pretrained("me/small", revision="v9")
    assert "\n" not in str(found.value)


def test_without_the_library_the_command_is_named(
    small: secateur.Pruned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secateur.runtimes.packages.missing", list)
    with pytest.raises(
        InputError, match=r'no folder \'me/small\', .* needs huggingface_hub: pip install .*"secateur\['
    ):
        secateur.from_pretrained("me/small")
    with pytest.raises(InputError, match=r"Uploading to the Hugging Face Hub needs huggingface_hub: pip install"):
        small.push_to_hub("me/small")


def test_an_upload_is_the_artifact_and_its_card(
    small: secateur.Pruned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("huggingface_hub")
    done: dict[str, Any] = {}

    class Api:
        def __init__(self, token: Any = None) -> None:
            done["token"] = token

        def create_repo(self, name: str, **options: Any) -> str:
            done["create"] = (name, options)
            return f"https://hub/{name}"

        def upload_folder(self, folder_path: Path, **options: Any) -> None:
            done["upload"] = options
            shutil.copytree(folder_path, tmp_path / "uploaded")

    monkeypatch.setattr(library, "HfApi", Api)
    url = small.push_to_hub("me/small", private=True, token="hf_x", metadata={"license": "mit"})
    assert (url, done["token"]) == ("https://hub/me/small", "hf_x")
    assert done["create"] == ("me/small", {"private": True, "exist_ok": True})
    assert set(done["upload"]["allow_patterns"]) == {*hub.FILES, "README.md"}
    assert done["upload"]["commit_message"].startswith("Pruned by Secateur: ")
    read = library.ModelCard((tmp_path / "uploaded/README.md").read_text())
    assert read.data.library_name == "secateur"
    assert read.data.license == "mit"
    assert "secateur.from_pretrained('me/small')" in read.text
    assert same(secateur.from_pretrained(tmp_path / "uploaded"), small)
    assert json.loads((tmp_path / "uploaded/plan.json").read_text())["params"][1] == small.after.params


def test_an_upload_offline_or_to_no_name_is_one_sentence(small: secateur.Pruned, offline: Path) -> None:
    with pytest.raises(DataError, match="The Hub cannot be reached for 'me/small'"):
        small.push_to_hub("me/small")
    with pytest.raises((InputError, DataError), match=r"is no name of a repository|cannot be reached"):
        small.push_to_hub("not a name")
