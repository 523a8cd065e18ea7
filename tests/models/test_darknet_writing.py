"""Darknet files that are written: read again bit for bit, by a reader of the tests' own, and by OpenCV where it can."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from darknet_cases import RESIDUAL, settled
from secateur.core.errors import ExportError, InputError, WeightsError
from secateur.models import DarknetHeader, create, read_header, write_darknet
from secateur.models.darknet import Convolution, Darknet
from secateur.models.darknet_built_in import mini_yolov3_cfg, yolov3_cfg, yolov3_tiny_cfg
from secateur.models.darknet_cfg import parse_cfg, write_cfg

from .test_networks_darknet import CFG, weights_file


@pytest.fixture
def network() -> Darknet:
    model = settled(Darknet(parse_cfg(RESIDUAL)))
    assert isinstance(model, Darknet)
    return model


def by_hand(cfg: str, weights: bytes, x: Tensor) -> list[Tensor]:
    """Runs Darknet files with nothing of the project's: lines, bytes and functions of PyTorch."""
    sections: list[tuple[str, dict[str, str]]] = []
    for line in filter(None, (line.strip() for line in cfg.splitlines())):
        if line.startswith("["):
            sections.append((line.strip("[]"), {}))
        else:
            key, _, value = line.partition("=")
            sections[-1][1][key] = value
    values, start = np.frombuffer(weights[20:], "<f4"), 0

    def take(*shape: int) -> Tensor:
        nonlocal start
        start += int(np.prod(shape))
        return torch.from_numpy(values[start - int(np.prod(shape)) : start].copy()).reshape(shape)

    found, layers = [], []
    for kind, options in sections[1:]:
        before = layers[-1] if layers else x
        numbers = [int(n) for n in options.get("from", options.get("layers", "")).split(",") if n]
        sources = [layers[n] for n in numbers]  # negative ones count back here too
        if kind == "convolutional":
            n, k, stride = (int(options[key]) for key in ("filters", "size", "stride"))
            groups = int(options.get("groups", 1))
            norm = options.get("batch_normalize") == "1"
            beta, *rest = (take(n) for _ in range(4 if norm else 1))
            weight = take(n, before.shape[1] // groups, k, k)
            out = F.conv2d(before, weight, stride=stride, padding=k // 2, groups=groups)
            if norm:
                gamma, mean, var = (v[:, None, None] for v in rest)
                out = gamma * (out - mean) / (var + 1e-5).sqrt()
            out = out + beta[:, None, None]
            before = F.leaky_relu(out, 0.1) if options["activation"] == "leaky" else out
        elif kind == "shortcut":
            before = before + sources[0]
        elif kind == "route":
            before = torch.cat(sources, 1)
        elif kind == "upsample":
            before = before.repeat_interleave(2, 2).repeat_interleave(2, 3)
        elif kind == "yolo":
            found.append(before)
        layers.append(before)
    assert start == len(values)
    return found


def same(one: object, other: object) -> None:
    assert isinstance(one, tuple)
    assert isinstance(other, tuple)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("version", [(0, 1), (0, 2), (0, 5)])
def test_files_that_are_read_are_written_bit_for_bit(tmp_path: Path, version: tuple[int, int]) -> None:
    cfg, weights = tmp_path / "a.cfg", tmp_path / "a.weights"
    cfg.write_text(CFG)
    weights_file(weights, version=version)
    header = read_header(weights)
    assert header == DarknetHeader(*version, 0, 7)
    write_darknet(create(str(cfg), weights=weights), tmp_path / "b.cfg", tmp_path / "b.weights", header=header)
    assert (tmp_path / "b.weights").read_bytes() == weights.read_bytes()
    one, other = (parse_cfg(path.read_text()) for path in (cfg, tmp_path / "b.cfg"))
    assert [(s.kind, s.options) for s in one] == [(s.kind, s.options) for s in other]


@pytest.mark.parametrize("name", ["yolov3_tiny", "mini_yolov3"])
def test_built_in_networks_come_back(tmp_path: Path, name: str) -> None:
    model, x = settled(create(name, classes=2)), torch.rand(1, 3, 64, 64)
    write_darknet(model, tmp_path / "a.cfg", tmp_path / "a.weights")
    again = create(str(tmp_path / "a.cfg"), weights=tmp_path / "a.weights").eval()
    with torch.no_grad():
        same(model(x), again(x))


def test_channels_and_layers_that_were_cut(tmp_path: Path, network: Darknet) -> None:
    """Two of four residual blocks, then channels: written, run by hand, and read again."""
    x = torch.rand(2, 3, 32, 32)
    fewer = secateur.remove_layers(network, x, count=2)
    small = secateur.prune(fewer, ratio=0.4)
    assert small.backend == "module"
    write_darknet(small, tmp_path / "a.cfg", tmp_path / "a.weights")
    text, content = (tmp_path / "a.cfg").read_text(), (tmp_path / "a.weights").read_bytes()
    assert text.count("[shortcut]") == 2
    assert "learning_rate=0.001" in text
    assert "layers=-1, 4" in text, "layer 10 is layer 4 now"
    filters = [s.number("filters") for s in parse_cfg(text) if s.kind == "convolutional"]
    assert filters == [5, 10, 5, 10, 19, 10, 19, 18, 5, 10, 9]
    assert len(content) == 20 + 4 * sum(v.numel() for n, v in small.model.state_dict().items() if "batches" not in n)
    with torch.no_grad():
        wanted = small(x)
        for one, other in zip(wanted, by_hand(text, content, x), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        same(wanted, create(str(tmp_path / "a.cfg"), weights=tmp_path / "a.weights").eval()(x))


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_layers(tmp_path: Path, network: Darknet, count: int) -> None:
    x = torch.rand(1, 3, 32, 32)
    small = secateur.remove_layers(network, x, count=count)
    write_darknet(small, tmp_path / "a.cfg", tmp_path / "a.weights")
    with torch.no_grad():
        same(small(x), create(str(tmp_path / "a.cfg"), weights=tmp_path / "a.weights").eval()(x))


def test_layers_alone_and_other_precisions(tmp_path: Path, network: Darknet) -> None:
    write_darknet(network.double().train(), tmp_path / "only.cfg")
    assert network.training
    assert [p.name for p in tmp_path.iterdir()] == ["only.cfg"]
    assert parse_cfg((tmp_path / "only.cfg").read_text())[0].options == network.sections[0].options
    write_darknet(network, tmp_path / "a.cfg", tmp_path / "a.weights")
    values = [v for n, v in network.state_dict().items() if n.startswith("layers.0.") and "batches" not in n]
    first = np.frombuffer((tmp_path / "a.weights").read_bytes()[20:], "<f4")[:8]
    assert any(np.array_equal(first, v.float().numpy()) for v in values if v.shape == (8,))


def test_a_bias_before_a_normalisation_goes_into_its_mean(tmp_path: Path, network: Darknet) -> None:
    layer = network.layers["0"]
    assert isinstance(layer, Convolution)
    layer.conv.bias = nn.Parameter(torch.randn(8))
    write_darknet(network, tmp_path / "a.cfg", tmp_path / "a.weights")
    again, x = create(str(tmp_path / "a.cfg"), weights=tmp_path / "a.weights").eval(), torch.rand(1, 3, 32, 32)
    for one, other in zip(network(x), again(x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_folded_normalisation_is_a_bias(tmp_path: Path, network: Darknet) -> None:
    layer = network.layers["0"]
    assert isinstance(layer, Convolution)
    assert isinstance(layer.norm, nn.BatchNorm2d)
    layer.conv = nn.utils.fuse_conv_bn_eval(layer.conv, layer.norm)
    layer.norm = nn.Identity()
    write_darknet(network, tmp_path / "a.cfg", tmp_path / "a.weights")
    x = torch.rand(1, 3, 32, 32)
    same(network(x), create(str(tmp_path / "a.cfg"), weights=tmp_path / "a.weights").eval()(x))


def test_what_the_format_cannot_say(tmp_path: Path, network: Darknet) -> None:
    cfg, weights = tmp_path / "a.cfg", tmp_path / "a.weights"
    with pytest.raises(ExportError, match=r"yolov3_tiny.*got Linear"):
        write_darknet(nn.Linear(2, 2), cfg, weights)
    graph = secateur.prune(network, torch.rand(1, 3, 32, 32), ratio=0.3, backend="graph")
    with pytest.raises(ExportError, match="kept their class; got PrunedGraph"):
        write_darknet(graph, cfg, weights)
    network.layers["1"] = nn.Sequential(network.layers["1"], nn.Tanh())
    with pytest.raises(ExportError, match=r"layer 1 \(\[convolutional\]\): it is a Sequential now"):
        write_darknet(network, cfg, weights)
    assert not list(tmp_path.iterdir())


def test_what_computes_something_else_is_found_by_comparing(tmp_path: Path, network: Darknet) -> None:
    layer = network.layers["1"]
    assert isinstance(layer, Convolution)
    layer.activation = nn.ReLU()  # the .cfg says leaky
    with pytest.raises(ExportError, match=r"differs by \d"):
        write_darknet(network, tmp_path / "a.cfg")
    layer.activation = nn.LeakyReLU(0.1)
    assert isinstance(layer.norm, nn.BatchNorm2d)
    layer.norm.eps = 1e-3
    with pytest.raises(ExportError, match=r"differs by \d"):
        write_darknet(network, tmp_path / "a.cfg")
    layer.norm.eps = 1e-5
    layer.conv = nn.Conv2d(7, 16, 3, 2, 1, bias=False)
    with pytest.raises(ExportError, match="cannot say this network"):
        write_darknet(network, tmp_path / "a.cfg")


def test_places_that_cannot_be_written(tmp_path: Path, network: Darknet) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        write_darknet(network, tmp_path / "no/a.cfg")
    (tmp_path / "a").write_bytes(struct.pack("<iiii", 0, -2, 0, 0))
    with pytest.raises(WeightsError, match="version numbers"):
        read_header(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"ab")
    with pytest.raises(WeightsError, match="version numbers"):
        read_header(tmp_path / "a")


@pytest.mark.parametrize(
    ("cfg", "size"), [(yolov3_tiny_cfg(), 35_434_956), (yolov3_cfg(), 248_007_048)], ids=["yolov3-tiny", "yolov3"]
)
def test_files_have_the_public_ones_size(cfg: str, size: int) -> None:
    """``yolov3-tiny.weights`` and ``yolov3.weights`` as their authors give them: sizes in bytes."""
    with torch.device("meta"):
        state = Darknet(parse_cfg(cfg)).state_dict()
    assert 20 + 4 * sum(v.numel() for name, v in state.items() if "num_batches" not in name) == size


def test_the_small_networks() -> None:
    with torch.device("meta"):
        tiny, mini, full = (create(name) for name in ("yolov3_tiny", "mini_yolov3", "yolov3"))
    counts = [sum(p.numel() for p in model.parameters()) for model in (tiny, mini, full)]
    assert counts == [8_852_366, 14_447_709, 61_949_149]
    assert [d.anchors[0] for d in tiny.detections] == [(81, 82), (10, 14)]
    assert [d.anchors[0] for d in mini.detections] == [(116, 90), (30, 61), (10, 13)]
    backbone = sum(p.numel() for name, p in mini.named_parameters() if int(name.split(".")[1]) <= 102)
    assert 0.13 < backbone / 40_584_928 < 0.17, "of Darknet-53 without its classifier; the paper says 16 %"
    with torch.no_grad():
        shapes = [tuple(m.shape) for m in create("mini_yolov3", classes=1).eval()(torch.zeros(1, 3, 64, 64))]
    assert shapes == [(1, 18, 2, 2), (1, 18, 4, 4), (1, 18, 8, 8)]


def test_anchors_of_ones_own() -> None:
    anchors = [(3 * i, 4 * i) for i in range(1, 7)]
    model = create("yolov3_tiny", classes=2, anchors=anchors)
    assert [d.anchors for d in model.detections] == [tuple(anchors[3:]), tuple(anchors[:3])]
    with pytest.raises(InputError, match=r"yolov3_tiny\(anchors=…\) wants 6 pairs.*got \[\(3, 4\)"):
        create("yolov3_tiny", anchors=anchors[:5])
    with pytest.raises(InputError, match="wants 9 pairs"):
        create("mini_yolov3", anchors=[(0, 1)] * 9)


def test_an_untrained_scale_begins_at_its_anchors_and_expects_nothing() -> None:
    """Objectness 0.01, so that the many empty places do not drown what there is to learn."""
    network = create("yolov3_tiny", classes=2)
    last = network.layers["15"].conv.bias.reshape(3, 7)
    assert torch.sigmoid(last[:, 4]).tolist() == pytest.approx([0.01] * 3)
    assert last[:, [0, 1, 2, 3, 5, 6]].eq(0).all()
    with torch.no_grad():
        for output in network(torch.rand(2, 3, 96, 96)):
            assert output.reshape(2, 3, 7, -1)[:, :, 2:4].abs().max() < 1.5


def test_sections_are_written_as_they_are_read() -> None:
    for text in (yolov3_cfg(2), mini_yolov3_cfg(2)):
        assert write_cfg(parse_cfg(text)).strip() == text


@pytest.mark.parametrize(("name", "layers"), [("yolov3_tiny", 0), ("mini_yolov3", 6)])
def test_opencv_reads_a_pruned_network(tmp_path: Path, name: str, layers: int) -> None:
    """A reader of Darknet files that is none of ours: OpenCV's, which version 5 left out. Also groups and layers."""
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2.dnn, "readNetFromDarknet"):
        pytest.skip("this OpenCV reads no Darknet files; version 4 does")
    model, x = settled(create(name, classes=3)), torch.rand(1, 3, 96, 96)
    small = secateur.remove_layers(model, x, count=layers) if layers else model
    small = secateur.prune(small, x, ratio=0.4)
    write_darknet(small, tmp_path / "a.cfg", tmp_path / "a.weights")
    read = cv2.dnn.readNetFromDarknet(str(tmp_path / "a.cfg"), str(tmp_path / "a.weights"))
    read.setInput(x.numpy())
    rows = [torch.from_numpy(out) for out in read.forward(read.getUnconnectedOutLayersNames())]
    with torch.no_grad():
        maps = small(x)
    for found, output, scale in zip(rows, maps, model.detections, strict=True):
        raw = output.reshape(3, 8, -1)
        torch.testing.assert_close(found[:, 4], torch.sigmoid(raw[:, 4]).T.flatten(), rtol=1e-3, atol=1e-5)
        sizes = torch.exp(raw[:, 2:4]) * torch.tensor(scale.anchors)[:, :, None]
        torch.testing.assert_close(found[:, 2:4] * 96, sizes.permute(2, 0, 1).reshape(-1, 2), rtol=1e-3, atol=1e-3)


def test_one_path_for_both_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the same file"):
        write_darknet(create("yolov3_tiny", classes=1), tmp_path / "a", tmp_path / "a")
    assert not list(tmp_path.iterdir())
