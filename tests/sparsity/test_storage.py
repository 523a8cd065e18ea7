"""The compressed file: bit for bit, of its real size, and refused when damaged."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import secateur
from secateur.core.errors import InputError, WeightsError
from secateur.core.types import call
from secateur.models import create
from secateur.sparsity import compress, decompress, share_weights, sparsify
from secateur.sparsity.coding import GAP, Coded, decode, deflate, encode, inflate
from secateur.sparsity.storage import MAGIC
from zoo import ZOO


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(n == m and x.dtype == y.dtype and x.numpy().tobytes() == y.numpy().tobytes() for (n, x), (m, y) in pairs)


class Odd(nn.Module):
    """Shared, empty, half-precision and whole-number tensors, and a layer of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(9, 9)
        self.second = nn.Linear(9, 9)
        self.second.weight = self.first.weight
        self.half = nn.Linear(7, 5).half()
        self.dead = nn.Linear(40, 40)
        nn.init.zeros_(self.dead.weight)
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("nothing", torch.zeros(0, 4))


@pytest.mark.parametrize("name", ["lenet300", "lenet5", "resnet_digits", "odd"])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.99])
def test_the_file_gives_the_clustered_network_back(name: str, ratio: float, tmp_path: Path) -> None:
    def make() -> nn.Module:
        return Odd() if name == "odd" else create(name)

    model = sparsify(make(), ratio=ratio, ignore=["dead"] if name == "odd" else ()).model
    small = compress(model, tmp_path / "net.sdc", bits=4)
    expected = share_weights(model, 4)
    assert same_bits(small.model, expected)
    back = decompress(small.path, make())
    assert same_bits(back, expected)
    tensors = decompress(small.path)
    assert all(torch.equal(tensors[n], t) for n, t in expected.state_dict().items() if n in tensors)


def test_the_size_is_that_on_disk_and_close_to_the_entropy(tmp_path: Path) -> None:
    model = sparsify(create("lenet300"), ratio=0.92).model
    small = compress(model, tmp_path / "net.sdc", bits=5)
    assert small.bytes == (tmp_path / "net.sdc").stat().st_size == len((tmp_path / "net.sdc").read_bytes())
    assert small.dense_bytes == 266_610 * 4
    assert small.ratio == small.dense_bytes / small.bytes
    layers = {layer.name: layer for layer in small.layers}
    assert layers["fc1.weight"].left == 18_816
    assert layers["fc1.weight"].values <= 32
    # What is stored beside the streams (header, digest) is little.
    assert 0 < small.bytes - sum(layer.bytes for layer in small.layers) < 1500
    for name in ("fc1.weight", "fc2.weight"):
        assert _entropy_bytes(small.model.get_parameter(name)) <= layers[name].bytes
        assert layers[name].bytes <= 1.06 * _entropy_bytes(small.model.get_parameter(name)) + 100 + 4 * 32


def _entropy_bytes(weight: torch.Tensor) -> float:
    """Σ −log₂ p over the gaps and over the values: what no symbol code can beat."""
    flat = weight.detach().numpy().reshape(-1)
    places = np.flatnonzero(flat)
    total = 0.0
    for symbols in (np.diff(places, prepend=-1), flat[places]):
        _, counts = np.unique(symbols, return_counts=True)
        total += float(-(counts * np.log2(counts / counts.sum())).sum()) / 8
    return total


def test_sparser_and_coarser_is_smaller(tmp_path: Path) -> None:
    model = create("lenet300")
    sizes = [
        compress(sparsify(model, ratio=ratio).model, tmp_path / "net.sdc", bits=bits).bytes
        for ratio, bits in ((0.0, 8), (0.0, 4), (0.5, 4), (0.9, 4), (0.98, 4), (0.98, 2))
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)
    assert sizes[0] < 266_610 * 1.1  # 8 bits a weight


def test_trained_shared_weights_are_kept_exactly(tmp_path: Path) -> None:
    model = share_weights(sparsify(create("lenet5"), ratio=0.9).model, 5)
    assert same_bits(compress(model, tmp_path / "net.sdc", bits=5).model, model)


def test_layers_that_are_left_out_are_stored_as_they_are(tmp_path: Path) -> None:
    model = create("lenet5")
    small = compress(model, tmp_path / "net.sdc", bits={"conv*": 8, "fc*": 3}, ignore=["fc2"])
    assert torch.equal(small.model.fc2.weight, model.fc2.weight)
    assert [layer.values > 0 for layer in small.layers if layer.name.endswith("weight")] == [True, True, True, False]
    assert same_bits(decompress(small.path, create("lenet5")), small.model)


def test_a_network_that_lost_channels_first(tmp_path: Path) -> None:
    model, images = create("lenet5").eval(), torch.randn(2, 1, 28, 28)
    channels = secateur.prune(model, images, ratio=0.5)
    channels.save(tmp_path / "artifact")
    small = compress(sparsify(channels.model, ratio=0.8).model, tmp_path / "net.sdc")
    back = decompress(small.path, secateur.load(tmp_path / "artifact", model=create("lenet5")).model)
    assert torch.equal(back(images), small.model.eval()(images))


@pytest.mark.parametrize("places", [[], [0], [999], [255, 256, 511, 999], list(range(0, 1000, 7)), [254], [765]])
def test_gaps_longer_than_a_symbol(places: list[int]) -> None:
    stays = np.zeros(1000, bool)
    stays[places] = True
    codes = np.arange(len(places)) % 13
    coded = encode(codes, stays)
    got_codes, got_stays = decode(coded, 1000, 13, "w")
    assert np.array_equal(got_stays, stays)
    assert np.array_equal(got_codes, codes)


def test_fillers_by_hand() -> None:
    stays = np.zeros(600, bool)
    stays[[3, 3 + 1 + 255, 599]] = True  # gaps of 3, 255 and 339
    coded = encode(np.array([0, 1, 2]), stays)
    symbols = inflate(coded.gaps, 5, "w")
    assert list(symbols) == [3, GAP, 0, GAP, 339 - 255]


# ---------------------------------------------------------------------------------------------------- damage


@pytest.fixture
def file(tmp_path: Path) -> Path:
    compress(sparsify(create("lenet300"), ratio=0.9).model, tmp_path / "net.sdc", bits=3)
    return tmp_path / "net.sdc"


def test_every_damaged_byte_is_noticed(file: Path) -> None:
    content = file.read_bytes()
    for place in [*range(0, 60), *range(60, len(content), 997), len(content) - 1]:
        changed = bytearray(content)
        changed[place] ^= 0x41
        file.write_bytes(changed)
        with pytest.raises(WeightsError, match=r"net\.sdc"):
            decompress(file)


@pytest.mark.parametrize("length", [0, 7, 20, 47, 5000, -1])
def test_files_that_end_early_are_refused(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(WeightsError, match=r"net\.sdc"):
        decompress(file)


def forged(file: Path, change: Any, body: bytes | None = None) -> None:
    """Rewrites the header with a digest that fits, as somebody with bad intent would."""
    content = file.read_bytes()
    packed, plain = struct.unpack("<II", content[8:16])
    entries = json.loads(inflate(content[16 : 16 + packed], plain, "header"))
    change(entries)
    text = json.dumps(entries).encode()
    coded = deflate(text)
    rest = content[16 + packed : -32] if body is None else body
    made = MAGIC + struct.pack("<II", len(coded), len(text)) + coded + rest
    file.write_bytes(made + hashlib.sha256(made).digest())


FORGERIES = {
    "shape too large": lambda e: e[0].update(shape=[2**30, 2**30]),
    "negative shape": lambda e: e[0].update(shape=[-784, -300]),
    "another shape": lambda e: e[0].update(shape=[784, 299]),
    "smaller shape": lambda e: e[0].update(shape=[3, 3]),
    "more symbols": lambda e: e[0].update(symbols=[e[0]["symbols"][0] + 1, e[0]["symbols"][1]]),
    "endless symbols": lambda e: e[0].update(symbols=[2**40, 2**40]),
    "short codebook": lambda e: e[0].update(values=e[0]["values"] - 1),
    "few values in the header": lambda e: e[0].update(values=[0.1, 0.2], bytes=e[0]["bytes"][1:]),
    "streams outside": lambda e: e[0].update(bytes=[2**40, 1]),
    "negative streams": lambda e: e[0].update(bytes=[-5, 10]),
    "one stream": lambda e: e[0].update(bytes=e[0]["bytes"][:1]),
    "unknown type": lambda e: e[0].update(dtype="object"),
    "no name": lambda e: e[0].pop("name"),
    "not a list": lambda e: e.append("x"),
    "left over": lambda e: e.pop(),
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
@pytest.mark.parametrize("known", [True, False])
def test_forged_headers_are_refused(file: Path, change: Any, known: bool) -> None:
    forged(file, change)
    with pytest.raises(WeightsError, match=r"net\.sdc"):
        decompress(file, create("lenet300") if known else None)


def made_of(path: Path, entries: Any, body: bytes = b"") -> Path:
    """A file whose header says what it likes, with the digest that belongs to it."""
    text = json.dumps(entries).encode()
    coded = deflate(text)
    made = MAGIC + struct.pack("<II", len(coded), len(text)) + coded + body
    path.write_bytes(made + hashlib.sha256(made).digest())
    return path


LAYER = {"name": "weight", "dtype": "float32"}
GREEDY: dict[str, Any] = {
    "zeros": [LAYER | {"shape": [2**31], "zero": True}],
    "gaps": [LAYER | {"shape": [2**31], "values": [0.5], "symbols": [1, 1], "bytes": [3, 3]}],
    "many": [LAYER | {"name": str(i), "shape": [2**20], "zero": True} for i in range(2000)],
    "overflow": [LAYER | {"shape": [2**61, 2**61], "zero": True}],
}


@pytest.mark.parametrize("entries", GREEDY.values(), ids=GREEDY)
def test_small_files_cannot_ask_for_much_memory(tmp_path: Path, entries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made_of(tmp_path / "net.sdc", entries)
    monkeypatch.setattr("secateur.sparsity.storage._tensor", lambda *_: pytest.fail("memory was taken"))
    with pytest.raises(WeightsError, match=r"net\.sdc wants .* bytes of memory"):
        decompress(path)
    with pytest.raises(WeightsError, match="does not fit the network"):
        decompress(path, nn.Linear(4, 4))


def test_a_network_of_zeros_alone_comes_back(tmp_path: Path) -> None:
    model = nn.Linear(7000, 7000, bias=False)
    nn.init.zeros_(model.weight)
    small = compress(model, tmp_path / "net.sdc")
    assert small.bytes < 300
    with pytest.raises(WeightsError, match="wants 196,000,000 bytes"):
        decompress(small.path)
    assert not decompress(small.path, model).weight.any()
    assert not decompress(small.path, largest=196_000_000)["weight"].any()


ODD: dict[str, Any] = {
    "one name twice": [LAYER | {"shape": [2], "zero": True}] * 2,
    "no list": {"a": 1},
    "a list of texts": ["x"],
    "half a size": [LAYER | {"shape": [2.5], "zero": True}],
    "sizes in words": [LAYER | {"shape": "22", "zero": True}],
    "many dimensions": [LAYER | {"shape": [1] * 100, "zero": True}],
    "nested": json.loads("[" * 400 + "]" * 400),
    "a type in a list": [LAYER | {"shape": [2], "dtype": ["float32"], "zero": True}],
}


@pytest.mark.parametrize("entries", ODD.values(), ids=ODD)
def test_odd_headers(tmp_path: Path, entries: Any) -> None:
    with pytest.raises(WeightsError, match=r"net\.sdc is damaged") as error:
        decompress(made_of(tmp_path / "net.sdc", entries))
    assert "\n" not in str(error.value)


def test_truth_values_are_0_or_1(tmp_path: Path) -> None:
    body = deflate(b"\x07")
    entry = {"name": "b", "dtype": "bool", "shape": [1], "bytes": [len(body)]}
    with pytest.raises(WeightsError, match="truth values"):
        decompress(made_of(tmp_path / "net.sdc", [entry], body))


def test_a_pipe_in_place_of_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.sdc")
    with pytest.raises(WeightsError, match="named pipe"):
        decompress(tmp_path / "net.sdc")


def test_files_with_the_values_in_the_header_are_still_read(tmp_path: Path) -> None:
    """As the first version wrote them."""
    layer = torch.nn.Linear(20, 4, bias=False)
    small = compress(layer, tmp_path / "net.sdc", bits=2)
    content = small.path.read_bytes()
    values = np.frombuffer(content, "<f4", 4, offset=16 + struct.unpack("<II", content[8:16])[0])
    assert sorted(small.model.weight.unique().tolist()) == values.tolist()  # type: ignore[union-attr, operator]
    streams = content[16 + struct.unpack("<II", content[8:16])[0] + 16 : -32]
    forged(small.path, lambda e: e[0].update(values=values.tolist(), bytes=e[0]["bytes"][1:]), body=streams)
    assert same_bits(decompress(small.path, layer), small.model)


def test_a_stream_that_unpacks_to_more_is_refused() -> None:
    bomb = deflate(bytes(10_000_000))
    assert len(bomb) < 20_000
    with pytest.raises(WeightsError, match="w is damaged"):
        decode(Coded(b"", bomb, (0, 1000)), 1000, 3, "w")


def test_a_file_of_another_network_names_the_tensor(file: Path) -> None:
    with pytest.raises(WeightsError, match=r"'conv1\.bias'.*missing in the file"):
        decompress(file, create("lenet5"))
    with pytest.raises(WeightsError, match=r"fc1\.weight.*\(300, 784\).*\(300, 64\)"):
        decompress(file, create("lenet300", inputs=64))


def test_other_bad_input(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.sdc"):
        decompress(tmp_path / "nowhere.sdc")
    (tmp_path / "text.sdc").write_text("hello" * 100)
    with pytest.raises(WeightsError, match="no compressed network"):
        decompress(tmp_path / "text.sdc")
    with pytest.raises(InputError, match="cannot be written"):
        compress(nn.Linear(3, 3), tmp_path / "no" / "folder.sdc")
    model = nn.Linear(3, 3)
    model.register_buffer("wave", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(InputError, match="complex64"):
        compress(model, tmp_path / "net.sdc")
    model = nn.Linear(3, 3)
    nn.init.constant_(model.weight, float("nan"))
    with pytest.raises(WeightsError, match="NaN"):
        compress(model, tmp_path / "net.sdc")


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_network_of_the_zoo_comes_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = ZOO[name]()
    found = sparsify(model, ratio=0.6, scope="global")
    small = compress(found.model, tmp_path / "net.sdc", bits=3)
    back = decompress(small.path, model)
    assert same_bits(back, small.model)
    assert all(not p[~found.masks[n]].any() for n, p in back.named_parameters() if n in found.masks)
    pairs = zip(outputs(back, inputs), outputs(small.model, inputs), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def outputs(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        return [t for t in tree_leaves(call(model.eval(), inputs)) if isinstance(t, torch.Tensor)]
