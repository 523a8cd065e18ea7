from __future__ import annotations

import getpass
import hashlib
import json
import re
import socket
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import secateur
from secateur.core.errors import InputError
from secateur.cost import size_on_disk
from secateur.cut.metadata import read_metadata
from secateur.runtimes import installed
from secateur.runtimes.base import Runtime
from secateur.runtimes.formats import writers
from secateur.task import ModelMetadata

X = torch.randn(2, 4)
PLACES = [one for one in writers().values() if type(one).write_metadata is not Runtime.write_metadata]
TOLD = ModelMetadata("classification", ("cät & <dog>", '\'"x"'))


def small() -> secateur.Pruned:
    torch.manual_seed(0)
    return secateur.prune(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), X, ratio=0.5)


def digest(pruned: secateur.Pruned) -> str:
    return hashlib.sha256(pruned.plan.to_json().encode()).hexdigest()


@pytest.mark.parametrize("runtime", PLACES, ids=lambda one: one.name)
def test_a_file_says_how_it_was_made_and_is_used(tmp_path: Path, runtime: Runtime) -> None:
    if not installed(runtime):
        pytest.skip(f"{runtime.title} is not installed")
    pruned, path = small(), tmp_path / f"net{runtime.suffix}"
    secateur.export(pruned, path, metadata=TOLD)
    found = read_metadata(path)
    assert found["plan_sha256"] == digest(pruned)
    assert found["params"] == [pruned.before.params, pruned.after.params] == [58, 30]
    assert found["secateur"] == secateur.__version__
    assert (found["task"], found["classes"]) == ("classification", list(TOLD.classes))
    # Independently of the check: the file still computes what the network does.
    (scores,) = runtime.open(path)(X)
    torch.testing.assert_close(scores, pruned(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("runtime", PLACES, ids=lambda one: one.name)
def test_half_a_file_is_answered(tmp_path: Path, runtime: Runtime) -> None:
    if not installed(runtime):
        pytest.skip(f"{runtime.title} is not installed")
    path = tmp_path / f"net{runtime.suffix}"
    secateur.export(small(), path, metadata=TOLD)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"net\.\w+ is no readable file of the format"):
        read_metadata(path)


def test_openvino_finds_the_text_itself(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    secateur.export(small(), tmp_path / "net.xml", metadata=TOLD)
    text = openvino.Core().read_model(tmp_path / "net.xml").get_rt_info(["secateur"]).astype(str)
    assert json.loads(text)["classes"] == list(TOLD.classes)


def test_xml_with_a_document_type_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.xml").write_text('<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "b">]><net></net>')
    with pytest.raises(InputError, match="has a document type"):
        read_metadata(tmp_path / "net.xml")


def test_of_a_data_set_there_are_classes_and_preprocessing_alone() -> None:
    found = ModelMetadata.of(secateur.data.load("digits")).to_json()
    assert found["classes"] == [str(i) for i in range(10)]
    assert set(found) == {"task", "classes", "preprocessing"}
    assert "embedded" not in json.dumps(found)
    other = secateur.Task(test=[(X, X)])
    other.classes = 10  # type: ignore[assignment]
    assert ModelMetadata.of(other) == ModelMetadata()
    assert ModelMetadata.of(secateur.Task(name="Bob's pictures", test=[(X, X)])).to_json() == {}


@pytest.mark.parametrize("runtime", PLACES, ids=lambda one: one.name)
def test_nothing_of_the_machine_gets_into_a_file(tmp_path: Path, runtime: Runtime) -> None:
    if not installed(runtime):
        pytest.skip(f"{runtime.title} is not installed")
    secateur.export(small(), tmp_path / f"net{runtime.suffix}", metadata=TOLD)
    small().save(tmp_path / "artifact", metadata=TOLD)
    names = {str(tmp_path), str(Path.home()), str(Path.cwd()), socket.gethostname()}
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        content = file.read_bytes().decode("latin-1")
        assert not [name for name in names if len(name) > 3 and name in content], file.name
        assert not re.search(rf"(home|Users)/{re.escape(getpass.getuser())}", content), file.name
        assert not re.search(r"\b20\d\d-[01]\d-[0-3]\d[T ][0-2]\d:", content), file.name
    again = tmp_path / "again"
    again.mkdir()
    secateur.export(small(), again / f"net{runtime.suffix}", metadata=TOLD)
    assert read_metadata(again / f"net{runtime.suffix}") == read_metadata(tmp_path / f"net{runtime.suffix}")


def test_classes_that_are_not_the_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"names of 3 classes, and the network's output has the shape \(2, 2\)"):
        secateur.export(small(), tmp_path / "net.pt2", metadata=ModelMetadata("classification", ("a", "b", "c")))
    assert not list(tmp_path.iterdir())


def test_an_artifact_says_it_in_its_plan_and_where_asked_in_its_weights(tmp_path: Path) -> None:
    pruned = small()
    pruned.save(tmp_path / "plain")
    pruned.save(tmp_path / "plan", metadata=TOLD, header=False)
    pruned.save(tmp_path / "both", metadata=TOLD)
    weights = {name: tmp_path / name / "model.safetensors" for name in ("plain", "plan", "both")}
    assert weights["plain"].read_bytes() == weights["plan"].read_bytes()
    assert weights["plain"].stat().st_size == size_on_disk(pruned.model)  # what a target for the size counts
    assert read_metadata(tmp_path / "plain")["plan_sha256"] == digest(pruned)
    assert "classes" not in read_metadata(tmp_path / "plain")
    assert read_metadata(weights["plan"]) == {}
    assert read_metadata(tmp_path / "plan") == read_metadata(tmp_path / "both") == read_metadata(weights["both"])
    assert read_metadata(weights["both"])["classes"] == list(TOLD.classes)
    with safe_open(weights["both"], "pt") as file:
        assert list(file.metadata()) == ["secateur"]
    fresh = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    assert torch.equal(secateur.load(tmp_path / "both", fresh)(X), pruned(X))


def test_files_of_others_say_nothing(tmp_path: Path) -> None:
    save_file({"w": X}, tmp_path / "plain.safetensors")
    assert read_metadata(tmp_path / "plain.safetensors") == {}
    save_file({"w": X}, tmp_path / "other.safetensors", metadata={"secateur": "[1]", "format": "pt"})
    assert read_metadata(tmp_path / "other.safetensors") == {}
    assert torch.equal(load_file(tmp_path / "other.safetensors")["w"], X)


def test_what_is_no_file_is_answered(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Cannot read .*nothing"):
        read_metadata(tmp_path / "nothing")
    save_file({"w": X}, tmp_path / "bad.safetensors", metadata={"secateur": "{"})
    with pytest.raises(InputError, match=r"What .* says of itself is not JSON"):
        read_metadata(tmp_path / "bad.safetensors")
