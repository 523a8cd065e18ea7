"""Darknet-53 and YOLOv3: published counts, a twin in timm, and the public file formats (files written here)."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.core.errors import InputError, UnknownNameError, WeightsError
from secateur.models import create
from secateur.models.darknet import Darknet, Residual, darknet53, from_cfg
from secateur.models.darknet_built_in import yolov3_cfg
from secateur.models.darknet_cfg import parse_cfg
from secateur.models.darknet_weights import load_darknet

CFG = """
[net]          # a comment
width=32
height=32
channels=2
learning_rate=0.1

[convolutional]
batch_normalize=1
filters=4
size=3
stride=2
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=6
size=1
activation=leaky
; another comment
[convolutional]
batch_normalize=1
filters=4
size=3
pad=1
activation=leaky

[shortcut]
from=-3
activation=linear

[convolutional]
filters=12
size=1
stride=1
pad=1
activation=linear

[yolo]
mask = 1,2
anchors = 1,2, 3,4, 5,6
classes=1
num=3

[route]
layers = -3

[upsample]
stride=2

[route]
layers = -1, -1

[convolutional]
filters=6
size=1
activation=linear

[yolo]
mask = 0
anchors = 1,2, 3,4, 5,6
classes=1
"""


@pytest.fixture
def cfg(tmp_path: Path) -> Path:
    path = tmp_path / "small.cfg"
    path.write_text(CFG)
    return path


def reference(x: Tensor, values: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    """The network of :data:`CFG`, written by hand."""
    w = {k: torch.from_numpy(v) for k, v in values.items()}

    def conv(x: Tensor, n: int, stride: int = 1) -> Tensor:
        x = F.conv2d(x, w[f"w{n}"], stride=stride, padding=w[f"w{n}"].shape[-1] // 2)
        x = F.batch_norm(x, w[f"mean{n}"], w[f"var{n}"], w[f"gamma{n}"], w[f"beta{n}"])
        return F.leaky_relu(x, 0.1)

    skip = conv(x, 0, stride=2)
    out = conv(conv(skip, 1), 2) + skip
    doubled = out.repeat_interleave(2, 2).repeat_interleave(2, 3)
    first = F.conv2d(out, w["w3"], w["bias3"])
    return first, F.conv2d(torch.cat([doubled, doubled], 1), w["w4"], w["bias4"])


def weights_file(path: Path, *, version: tuple[int, int] = (0, 2), extra: int = 0) -> dict[str, np.ndarray]:
    """Writes a ``.weights`` file for :data:`CFG` value by value."""
    rng, values = np.random.default_rng(0), {}
    seen = struct.pack("<q" if version >= (0, 2) else "<i", 7)
    content = struct.pack("<iii", *version, 0) + seen
    shapes = [(4, 2, 3, 3), (6, 4, 1, 1), (4, 6, 3, 3), (12, 4, 1, 1), (6, 8, 1, 1)]
    for n, shape in enumerate(shapes):
        for name in ("beta", "gamma", "mean", "var") if n < 3 else ("bias",):
            values[f"{name}{n}"] = (rng.random(shape[0]) + 0.5).astype("<f4")
            content += values[f"{name}{n}"].tobytes()
        values[f"w{n}"] = rng.standard_normal(shape).astype("<f4")
        content += values[f"w{n}"].tobytes()
    path.write_bytes(content + b"\0" * extra if extra >= 0 else content[:extra])
    return values


@pytest.mark.parametrize("version", [(0, 1), (0, 2), (0, 5)])
def test_cfg_and_weights_give_the_network_written_by_hand(cfg: Path, version: tuple[int, int]) -> None:
    values = weights_file(cfg.with_suffix(".weights"), version=version)
    model = create(str(cfg), weights=cfg.with_suffix(".weights")).eval()
    x = torch.randn(2, 2, 32, 32)
    got, want = model(x), reference(x, values)
    assert [tuple(g.shape) for g in got] == [(2, 12, 16, 16), (2, 6, 32, 32)]
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w)
    assert [d.anchors for d in model.detections] == [((3, 4), (5, 6)), ((1, 2),)]
    assert list(model.layers) == ["0", "3", "4", "5", "6", "7", "8", "9", "10"]


def test_backbone_files_are_cut_off_on_purpose(cfg: Path) -> None:
    path = cfg.with_suffix(".weights")
    values = weights_file(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: 20 + 4 * sum(v.size for k, v in values.items() if k[-1] in "012")])
    model = load_darknet(from_cfg(cfg), path, convolutions=3)
    assert np.array_equal(model.layers["3"].branch[1].conv.weight.detach().numpy(), values["w2"])


@pytest.mark.parametrize(("extra", "words"), [(-4, "is cut off"), (4, "is too long"), (-100_000, "no .weights file")])
def test_files_of_another_size_are_refused_and_nothing_is_loaded(cfg: Path, extra: int, words: str) -> None:
    weights_file(cfg.with_suffix(".weights"), extra=extra)
    model = from_cfg(cfg)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(WeightsError, match=words):
        load_darknet(model, cfg.with_suffix(".weights"))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_other_wrong_weights(cfg: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.weights"
    with pytest.raises(WeightsError, match="Cannot read"):
        load_darknet(from_cfg(cfg), path)
    path.write_bytes(b"PK\x03\x04" * 50)
    with pytest.raises(WeightsError, match="version numbers"):
        load_darknet(from_cfg(cfg), path)
    with pytest.raises(WeightsError, match="not Linear"):
        load_darknet(nn.Linear(2, 2), path)
    weights_file(path)
    content = bytearray(path.read_bytes())
    content[20:24] = struct.pack("<f", float("nan"))
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="NaN"):
        create(str(cfg), weights=path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[net]", "[nett]", r"section \(small.cfg, line 2\) named 'nett'.*'net'"),
        ("[net]          # a comment\nwidth=32\nheight=32\nchannels=2\nlearning_rate=0.1", "", r"\[net\] section"),
        ("[shortcut]", "[shortcutt]", "'shortcut'"),
        ("from=-3", "from=-30", "line 29: from=-30"),
        ("from=-3", "from=1", r"got \[4, 6\] channels"),
        ("filters=6\nsize=1\nactivation=leaky", "filters=many\nsize=1\nactivation=leaky", "'many'"),
        ("filters=6\nsize=1\nactivation=leaky", "size=1\nactivation=leaky", "has no 'filters'"),
        ("activation=linear\n\n[convolutional]", "activation=linar\n\n[convolutional]", "'linear'"),
        ("classes=1\nnum=3", "classes=3", "wants 16 channels"),
        ("stride=2\n\n[route]", "scale=2\n\n[route]", "scale=2"),
        ("width=32", "width", "line 3: wanted"),
        ("[upsample]", "[net]", "middle of the file"),
    ],
)
def test_wrong_cfg_files_name_the_line(cfg: Path, old: str, new: str, words: str) -> None:
    assert old in CFG
    cfg.write_text(CFG.replace(old, new, 1))
    with pytest.raises(InputError, match=words):
        create(str(cfg))


def test_a_cfg_that_is_none(tmp_path: Path, cfg: Path) -> None:
    with pytest.raises(InputError, match="Cannot read"):
        create(str(tmp_path / "nowhere.cfg"))
    (tmp_path / "binary.cfg").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        create(str(tmp_path / "binary.cfg"))
    with pytest.raises(InputError, match="leave classes"):
        create(str(cfg), classes=3)
    assert issubclass(UnknownNameError, InputError)


@pytest.mark.parametrize(("size", "stride", "out"), [(2, 2, 4), (2, 1, 7), (5, 1, 7)])
def test_maxpool_is_darknets(size: int, stride: int, out: int) -> None:
    text = f"[net]\nchannels=1\n[maxpool]\nsize={size}\nstride={stride}"
    x = torch.randn(1, 1, 7, 7)
    padded = F.pad(x, ((size - 1) // 2, size - 1 - (size - 1) // 2) * 2, value=float("-inf"))
    want = F.max_pool2d(padded, size, stride)
    assert want.shape[-1] == out
    assert torch.equal(Darknet(parse_cfg(text))(x), want)
    with pytest.raises(InputError, match="size 3 and stride 2"):
        Darknet(parse_cfg("[net]\n[maxpool]\nsize=3\nstride=2"))


def test_yolov3_has_the_published_size_and_layers() -> None:
    """61,949,149 parameters: the figure that Darknet itself and its ports give for 80 classes."""
    with torch.device("meta"):
        model = create("yolov3")
    assert sum(p.numel() for p in model.parameters()) == 61_949_149
    assert [d.layer for d in model.detections] == [82, 94, 106]
    assert [d.anchors[0] for d in model.detections] == [(116, 90), (30, 61), (10, 13)]
    assert sum(isinstance(m, Residual) for m in model.modules()) == 23
    assert dict(model.steps)[86] == (85, 61)
    assert dict(model.steps)[98] == (97, 36)
    assert parse_cfg(yolov3_cfg(3))[-1].number("classes") == 3


def test_yolov3_gives_three_scales() -> None:
    with torch.no_grad():
        maps = create("yolov3", classes=1).eval()(torch.randn(1, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [(1, 18, 2, 2), (1, 18, 4, 4), (1, 18, 8, 8)]


def test_darknet53_is_timms() -> None:
    ours, theirs = darknet53().eval(), create("timm:darknet53").eval()
    assert sum(p.numel() for p in ours.parameters()) == 41_609_928
    for module in theirs.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = 0.1  # Darknet's; timm takes 0.01
    mine, other = ours.state_dict(), theirs.state_dict()
    pairs = zip(mine, other.values(), strict=True)
    ours.load_state_dict({name: value.reshape(mine[name].shape) for name, value in pairs})
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_channels_of_a_darknet_are_pruned_exactly(cfg: Path) -> None:
    weights_file(cfg.with_suffix(".weights"))
    model = create(str(cfg), weights=cfg.with_suffix(".weights")).eval()
    pruned = secateur.prune(model, torch.randn(2, 2, 32, 32), ratio=0.5)
    assert pruned.backend == "module"
    assert pruned.model.layers["3"].branch[0].conv.out_channels == 3


GREEDY = {
    "many weights": "[net]\nchannels=3\n[convolutional]\nfilters=1000000\nsize=9\n",
    "a wide image": "[net]\nchannels=3\nwidth=1000000\nheight=1000000\n[avgpool]\n",
    "many layers": "[net]\nchannels=3\n" + "[avgpool]\n" * 5000,
    "doubled widths": "[net]\nchannels=3\n" + "[route]\nlayers=-1,-1\n" * 60 + "[convolutional]\nfilters=1\n",
    "negative channels": "[net]\nchannels=-3\n[avgpool]\n",
    "no groups": "[net]\nchannels=3\n[convolutional]\nfilters=4\ngroups=0\n",
    "negative size": "[net]\nchannels=3\n[convolutional]\nfilters=4\nsize=-3\n",
    "no stride": "[net]\nchannels=3\n[convolutional]\nfilters=4\nstride=0\n",
    "wide padding": "[net]\nchannels=3\n[convolutional]\nfilters=4\npadding=99999999\n",
    "an option twice": "[net]\nchannels=3\n[convolutional]\nfilters=4\nfilters=5\n",
    "a number of many digits": "[net]\nchannels=" + "9" * 6000 + "\n[avgpool]\n",
    "large upsampling": "[net]\nchannels=3\n[upsample]\nstride=100000\n",
    "large pooling": "[net]\nchannels=3\n[maxpool]\nsize=99999\nstride=1\n",
    "NUL": "[net]\nchannels=3\0\n[avgpool]\n",
}


@pytest.mark.parametrize("text", GREEDY.values(), ids=GREEDY)
def test_files_that_want_too_much_are_refused_before_anything_is_built(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn, "Conv2d", lambda *_, **__: pytest.fail("memory was taken"))
    (tmp_path / "net.cfg").write_text(text)
    with pytest.raises(InputError) as error:
        create(str(tmp_path / "net.cfg"))
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_pipes_in_place_of_files(tmp_path: Path, cfg: Path) -> None:
    os.mkfifo(tmp_path / "net2.cfg")
    os.mkfifo(tmp_path / "net2.weights")
    with pytest.raises(InputError, match="named pipe"):
        from_cfg(tmp_path / "net2.cfg")
    with pytest.raises(WeightsError, match="named pipe"):
        load_darknet(create(str(cfg)), tmp_path / "net2.weights")
