"""Jobs on a Ray cluster of several nodes on this machine: lost nodes, other code, what does not answer."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from secateur.core.errors import InputError
from secateur.jobs import Command, Ray, cluster, remote
from secateur.jobs.alike import code_print, differences

TALK = """
import json, os, sys, time
from pathlib import Path

name, folder = sys.argv[1], Path(sys.argv[2])
print(json.dumps({"what": "begin", "kind": name, "cores": os.environ["OMP_NUM_THREADS"]}), flush=True)
(folder / f"{name}-{len(list(folder.glob(name + '-*')))}.begun").touch()
while "wait" in name and not (folder / "go").exists():
    time.sleep(0.05)
print(json.dumps({"what": "done"}))
"""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"address": "10.0.0.1"}, r"auto or host:port, like 10\.0\.0\.1:6379; got '10\.0\.0\.1'"),
        ({"address": "ray://10.0.0.1:10001"}, r"not through ray://"),
        ({"address": "10.0.0.1:99999"}, "auto or host:port"),
        ({"cpus": 0}, "cpus is what every job asks for"),
        ({"cpus": 1.5}, r"a whole number, or a share of one below 1; got 1\.5"),
        ({"gpus": -1}, "gpus is what every job asks for"),
        ({"parallel": 0}, "at least 1; got 0"),
        ({"cpu": 2}, "Did you mean 'cpus'"),
    ],
)
def test_numbers_and_addresses_that_cannot_be(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Ray(**given)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(InputError, match=r'^Jobs on a cluster need ray: pip install "secateur\[ray\]"\.$'),
        Ray().begin(),
    ):
        pass


def test_an_address_where_nothing_listens_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (
        pytest.raises(InputError, match=f"No Ray cluster answers at {address}.*ray start --head"),
        Ray(address).begin(),
    ):
        pass
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=f"No Ray cluster answers at {address}"), Ray().begin():
        pass


def test_what_ray_says_of_other_versions_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: object, **__: object) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with Python 3.12\nThis process runs 3.11")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        pytest.raises(InputError, match=r"Cannot join the Ray cluster at auto: Version mismatch.*3\.12"),
        Ray().begin(),
    ):
        pass


def test_a_machine_with_other_code_or_without_the_folder_is_told(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text("{}")
    here, place = code_print(), remote.place_of(file, tmp_path)
    assert remote.look(here, place) == ""
    other = {**here, "torch": "1.0", "secateur": "0.0.1 (abc)"}
    assert "has other code than this process: secateur" in remote.look(other, place)
    assert f"torch {here['torch']} (here 1.0)" in remote.look(other, place)
    file.write_text("[]")
    assert f"does not see {file} as it is here" in remote.look(here, place)
    place = remote.place_of(file, tmp_path / "gone")
    assert f"has no folder {tmp_path / 'gone'}" in remote.look(here, place)
    assert differences(here, here) == []


def test_a_full_folder_ends_a_job_with_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(remote, "Process", full)
    command = Command("one", "talk", (), tmp_path, tmp_path / "one.log")
    (event,) = remote.watch(command, code_print(), remote.place_of(tmp_path / "x", tmp_path), {})
    assert event["reason"].startswith("The disk is full: cannot write in")


# -------------------------------------------------------------------------------------------------- a real cluster


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster whose nodes find the talking module."""
    pytest.importorskip("ray")
    tools = pytest.importorskip("ray.cluster_utils")
    folder = tmp_path_factory.mktemp("talk")
    (folder / "talk.py").write_text(TALK)
    paths = os.pathsep.join([str(Path(cluster.__file__).parents[2]), str(folder)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("OMP_NUM_THREADS", raising=False)
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}
        found = tools.Cluster(initialize_head=True, head_node_args=head)
        try:
            yield found
        finally:
            found.shutdown()


@pytest.fixture(scope="module")
def joined(nodes: Any) -> Iterator[Any]:
    """The same, joined once by the script itself, so that its workers are there for all tests."""
    import ray

    ray.init(nodes.address, log_to_driver=False, configure_logging=False)
    yield nodes
    ray.shutdown()


def run(nodes: Any, folder: Path, *names: str, on: Any = None, **asked: Any) -> list[tuple[str, Mapping[str, Any]]]:
    heard: list[tuple[str, Mapping[str, Any]]] = []

    def tell(name: str, event: Mapping[str, Any]) -> None:
        heard.append((name, event))
        if on is not None:
            on(name, event)

    commands = [Command(name, "talk", (name, str(folder)), folder, folder / f"{name}.log") for name in names]
    (folder / "plan.json").write_text("{}")
    with Ray(nodes.address, **asked).begin() as at:
        at(folder / "plan.json", folder)(commands, tell)
    return heard


def test_jobs_run_with_what_they_ask_for(joined: Any, tmp_path: Path) -> None:
    heard = run(joined, tmp_path, "one", "two", parallel=1)
    assert [(name, event["what"]) for name, event in heard] == [
        ("one", "begin"), ("one", "ended"), ("two", "begin"), ("two", "ended"),
    ]  # fmt: skip
    assert not any(event.get("reason") for _, event in heard)
    assert heard[0][1]["cores"] == "1"


def test_more_than_any_machine_has_is_refused(joined: Any, tmp_path: Path) -> None:
    words = "No machine of the cluster has 64 CPUs and 2 GPUs.*the most are 1 CPUs and 0 GPUs.*--job-cpus"
    with pytest.raises(InputError, match=words):
        run(joined, tmp_path, "one", cpus=64, gpus=2)


def test_a_node_with_other_code_stops_all_before_any_job(
    joined: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "code_print", lambda: {**code_print(), "torch": "1.0"})
    with pytest.raises(
        InputError, match=r"Node .* of the cluster has other code than this process: torch .* \(here 1\.0"
    ):
        run(joined, tmp_path, "one")
    assert not list(tmp_path.glob("*.begun"))


def test_whoever_stops_stops_the_jobs(joined: Any, tmp_path: Path) -> None:
    def on(name: str, event: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(joined, tmp_path, "wait", on=on)
    heard = run(joined, tmp_path, "next")
    assert json.loads(json.dumps(heard[-1][1])) == {"what": "ended", "reason": ""}, "its place is free again"


def test_a_job_whose_node_dies_goes_on_on_another(joined: Any, tmp_path: Path) -> None:
    second = joined.add_node(num_cpus=2, object_store_memory=80 * 2**20)

    def on(name: str, event: Mapping[str, Any]) -> None:
        if event["what"] == "begin" and second in joined.worker_nodes:
            joined.add_node(num_cpus=2, object_store_memory=80 * 2**20)
            joined.remove_node(second, allow_graceful=False)
        if event["what"] == "lost":  # before, the job could end in what is left of the node
            (tmp_path / "go").touch()

    heard = run(joined, tmp_path, "wait", cpus=2, on=on)
    assert [event["what"] for _, event in heard] == ["begin", "lost", "begin", "ended"]
    assert heard[1][1]["reason"] == "the machine that it ran on is gone"
    assert heard[-1][1]["reason"] == ""
