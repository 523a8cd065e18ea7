from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.core.errors import InputError
from secateur.data import load
from secateur.exports.entered import entered
from secateur.runtimes.formats import file_bytes, readers
from secateur.timing import Timing, latency
from secateur.timing.entrants import Entrant, as_entrants, stem
from secateur.timing.quality import quality, scores
from secateur.timing.results import EntrantResult, results


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def test_a_name_and_its_suffix_say_network_and_runtime() -> None:
    net = nn.ReLU()
    models: dict[str, nn.Module | str | Path] = {"a": net, "a.onnx": "x/a.onnx", "b.pt2": Path("b.pt2")}
    found = as_entrants(models, ["pytorch"])
    assert [(e.name, e.runtime, e.batch) for e in found] == [
        ("a", "pytorch", None),
        ("a", "onnxruntime", None),
        ("b", "pytorch", None),
    ]
    assert found[0].network is net
    assert stem("nets/a.v1") == "nets/a.v1"
    assert readers(".txt") == ()


@pytest.mark.parametrize(
    ("models", "runtimes", "words"),
    [
        ({"a": "a.txt"}, ["pytorch"], r"'a.txt' has no suffix of a known network file \(.*\.onnx"),
        ({"a": nn.ReLU()}, ["onnxruntime"], r"'onnxruntime' runs files, 'a' is a module"),
        ({"a.pt2": "a.pt2", "a": nn.ReLU()}, ["pytorch"], r"two networks called 'a' in the runtime 'pytorch'"),
        ({"a": nn.ReLU()}, ["pytoch"], r"no runtime named 'pytoch'. Did you mean 'pytorch'"),
    ],
)
def test_what_cannot_take_part_is_named(models: Any, runtimes: list[str], words: str) -> None:
    with pytest.raises((InputError, Exception), match=words):
        as_entrants(models, runtimes)


def test_files_count_with_the_weights_beside_them(tmp_path: Path) -> None:
    for name, size in (("a.xml", 10), ("a.bin", 300), ("b.onnx", 7), ("b.onnx.data", 90), ("c.pte", 5), ("c.bin", 9)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert [file_bytes(tmp_path / name) for name in ("a.xml", "b.onnx", "c.pte")] == [310, 97, 5]


def test_every_network_is_written_for_every_runtime_or_says_why_not(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    nets = {"dense": network(), "odd": Odd()}
    found = list(entered(nets, torch.zeros(4, 1, 8, 8), tmp_path, runtimes=["pytorch", "onnxruntime"]))
    assert [(e.name, e.runtime, not e.problem) for e in found] == [
        ("dense", "pytorch", True),
        ("dense", "onnxruntime", True),
        ("odd", "pytorch", True),
        ("odd", "onnxruntime", False),
    ]
    written, failed = found[1], found[3]
    file = written.network
    assert isinstance(file, Path)
    assert written.bytes == file.stat().st_size
    assert written.difference is not None
    assert 0 <= written.difference < 1e-5
    assert "cannot be traced" in failed.problem
    assert failed.bytes is None
    with pytest.raises(InputError, match=r"'odd', which does not run in 'onnxruntime': .*cannot be traced"):
        latency(found, torch.zeros(1, 1, 8, 8))


def test_int8_stands_beside_float_where_a_runtime_has_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)).eval()
    images = torch.randn(64, 1, 8, 8)
    runtimes = ["pytorch", "onnxruntime"]
    found = list(entered({"a": net}, images[:8], tmp_path, runtimes=runtimes, calibration=images))
    assert [(e.label, e.runtime, e.problem) for e in found] == [
        ("a", "pytorch", ""),
        ("a", "onnxruntime", ""),
        ("a int8", "onnxruntime", ""),
    ]
    _, plain, small = found
    assert small.bytes is not None
    assert plain.bytes is not None
    assert small.bytes < 0.6 * plain.bytes  # a quarter of the weights' bytes, and what the graph takes
    assert small.difference is not None
    assert plain.difference is not None
    assert plain.difference < 1e-5 < small.difference < 0.1


def test_a_fixed_batch_size_takes_part_in_its_own_setting_only(tmp_path: Path) -> None:
    net = network()
    entrants = [Entrant("a", net, "pytorch"), Entrant("b", net, "pytorch", batch=2)]
    timings = latency(entrants, torch.zeros(1, 1, 8, 8), batches=(1, 2), backward=False, rounds=3)
    assert [(t.model, t.batch) for t in timings] == [("a", 1), ("a", 2), ("b", 2)]


@pytest.mark.parametrize("batch", [None, 70])
def test_scores_are_those_of_a_plain_loop(batch: int | None) -> None:
    data, net = load("digits", limit=300), network()
    images = data.normalise(data.test.images)  # type: ignore[attr-defined]
    labels = data.test.labels  # type: ignore[attr-defined]
    assert len(labels) % (batch or 32)  # the last batch is a smaller one
    with torch.no_grad():
        logits = net(images)
    found = quality(Entrant("a", net.train(), "pytorch", batch), data, data.test)
    assert found.samples == len(labels)
    assert found.top1 == pytest.approx(100 * float((logits.argmax(1) == labels).double().mean()))
    assert found.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert net.training


def test_the_same_images_score_everybody() -> None:
    data, net = load("digits", limit=300), network()
    found = [Entrant(n, net, "pytorch") for n in "ab"]
    failed = Entrant("c", net, "onnxruntime", problem="no")
    some = scores([*found, failed], data, samples=20)
    assert set(some) == {("a", "pytorch"), ("b", "pytorch")}
    assert {e.samples for e in some.values()} == {20}
    assert len({(e.top1, e.loss) for e in some.values()}) == 1
    assert scores(found, data, samples=0) == {}


def test_lines_join_what_was_measured() -> None:
    def timing(name: str, runtime: str, *samples: float, batch: int = 1) -> Timing:
        return Timing(name, runtime, "forward", batch, 1, "eval", 1, samples)

    found = [
        Entrant("dense", Path("1"), "litert", 1, bytes=400),
        Entrant("dense", Path("32"), "litert", 32, bytes=900),
        Entrant("pruned", Path("1"), "litert", 1, precision="int8", bytes=50, difference=0.01),
        Entrant("pruned", Path("32"), "litert", 32, precision="int8", bytes=60, difference=0.02),
        Entrant("pruned", nn.ReLU(), "openvino", problem="refused"),
    ]
    timings = [
        timing("dense", "litert", 8.0, 6.0, 9.0),
        timing("pruned int8", "litert", 2.0, 3.0, 2.0),
        timing("dense", "litert", 80.0, 60.0, 90.0, batch=32),
    ]
    params = {"dense": 100, "pruned": 40}
    dense, small, failed = results(found, timings, reference="dense", params=params, evaluations={})
    assert dense.ms is not None
    assert dense.ms.median == 8.0
    assert small.speedup is not None
    assert small.speedup.median == 4.0  # of 8/2, 6/3 and 9/2
    assert (small.params, small.bytes, small.difference, dense.speedup) == (40, 50, 0.02, None)
    assert (failed.ms, failed.problem) == (None, "refused")
    assert EntrantResult.from_json(small.to_json()) == small
    assert small.label == found[2].label == "pruned int8"
