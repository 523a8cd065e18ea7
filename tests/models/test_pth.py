"""PyTorch's files, read by a reader of our own: the same tensors, and nothing else that a file may want."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import WeightsError
from secateur.models import create, read_weights

whole = torch.arange(60, dtype=torch.float32)


def tied() -> dict[str, Tensor]:
    return {"a": whole, "b": whole[12:24].view(3, 4), "c": whole[::5], "d": whole.view(6, 10).t()}


CONTENTS: dict[str, Callable[[], Any]] = {
    "network": lambda: create("resnet20").state_dict(),
    "parameters": lambda: dict(nn.Linear(3, 4).named_parameters()),
    "shared memory": tied,
    "types": lambda: {str(t): torch.ones(3, 2).to(t) for t in (torch.float16, torch.bfloat16, torch.float64, torch.int8,
                      torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.uint16,
                      torch.float8_e5m2)},
    "scalars and nothing": lambda: {"one": torch.tensor(3.0), "none": torch.zeros(0, 4),
                                    "wide": torch.ones(1).expand(3)},
    "buffers": lambda: {"x": nn.Buffer(torch.ones(2))},
    "checkpoint": lambda: {
        "state_dict": create("lenet300").state_dict(), "epoch": 3, "best": 0.5, "name": "x",
        "shape": torch.Size([2, 3]),
        "device": torch.device("cpu"), "dtype": torch.float32, "history": [(1, 2.0, None, True)], "raw": b"\xff\x00",
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"betas": (0.9, 0.99)}]},
    },
}  # fmt: skip


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("name", CONTENTS)
def test_the_same_tensors_as_by_pytorch(tmp_path: Path, name: str, new: bool) -> None:
    path = tmp_path / "w.pth"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(CONTENTS[name](), path, _use_new_zipfile_serialization=new)
        wanted = torch.load(path, weights_only=True)
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        assert (name, new) == ("types", False), "PyTorch's older form has not all types, and all else"
        return
    wanted = wanted.get("state_dict", wanted)
    found = read_weights(path)
    assert list(found) == list(wanted)
    for key, tensor in found.items():
        assert (tensor.dtype, tensor.shape, tensor.stride()) == (
            wanted[key].dtype, wanted[key].shape, wanted[key].stride())  # fmt: skip
        assert torch.equal(
            tensor.contiguous().reshape(-1).view(torch.uint8),
            wanted[key].detach().contiguous().reshape(-1).view(torch.uint8),
        )


@pytest.mark.parametrize("new", [True, False])
def test_shared_memory_stays_shared(tmp_path: Path, new: bool) -> None:
    torch.save(tied(), tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    found = read_weights(tmp_path / "w.pt")
    found["a"][12] = 99.0
    assert found["b"][0, 0] == 99.0


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(path: Path, content: dict[str, bytes] | list[tuple[str, bytes]], kind: int = zipfile.ZIP_STORED) -> Path:
    pairs = content.items() if isinstance(content, dict) else content
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", kind) as archive:
        warnings.simplefilter("ignore")
        for name, data in pairs:
            archive.writestr(name, data)
    return path


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, bytes]:
    torch.save({"w": torch.arange(100.0)}, tmp_path / "good.pth")
    return members(tmp_path / "good.pth")


def refused(path: Path, words: str) -> None:
    with pytest.raises(WeightsError, match=words) as error:
        read_weights(path)
    text = str(error.value)
    assert "\n" not in text
    assert "weights_only" not in text
    assert path.name in text


def test_two_members_of_one_name(tmp_path: Path, parts: dict[str, bytes]) -> None:
    twice = [*parts.items(), ("good/data.pkl", pickle.dumps({}))]
    refused(written(tmp_path / "w.pth", twice), "2 members named 'good/data.pkl'")
    refused(written(tmp_path / "w.pth", [*parts.items(), ("good/./data/0", b"x" * 400)]), "2 members named")
    refused(written(tmp_path / "w.pth", [*parts.items(), ("other/data.pkl", b"x")]), "2 members named data.pkl")


def test_members_that_are_not_stored_plainly(tmp_path: Path, parts: dict[str, bytes]) -> None:
    refused(written(tmp_path / "w.pth", parts, zipfile.ZIP_DEFLATED), "not stored as PyTorch stores it")
    content = bytearray(written(tmp_path / "w.pth", parts).read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = 0
        while (start := content.find(mark, start)) >= 0:
            content[start + place] |= 1
            start += 4
    (tmp_path / "w.pth").write_bytes(content)
    refused(tmp_path / "w.pth", "encrypted")


@pytest.mark.parametrize("held", [0, 4, 396, 404])
def test_storages_that_hold_less_or_more_than_they_say(tmp_path: Path, parts: dict[str, bytes], held: int) -> None:
    refused(written(tmp_path / "w.pth", parts | {"good/data/0": bytes(held)}), "which the file does not have")


def test_a_missing_storage(tmp_path: Path, parts: dict[str, bytes]) -> None:
    del parts["good/data/0"]
    refused(written(tmp_path / "w.pth", parts), "which the file does not have")


def test_another_byte_order(tmp_path: Path, parts: dict[str, bytes]) -> None:
    refused(written(tmp_path / "w.pth", parts | {"good/byteorder": b"big"}), "byte order")


class _Named:
    """What pickles as the function of a given name."""

    def __init__(self, name: str, module: str) -> None:
        self.__name__ = self.__qualname__ = name
        self.__module__ = module


class _Pickler(pickle._Pickler):
    """Writes calls of functions that need not exist, and storages outside of the pickle."""

    def save(self, thing: Any, save_persistent_id: bool = True) -> None:
        if isinstance(thing, _Named):
            self.write(b"c" + f"{thing.__module__}\n{thing.__name__}\n".encode())
            return
        if isinstance(thing, tuple) and thing and isinstance(thing[0], _Named):
            self.save(thing[0])
            self.save(thing[1:])
            self.write(b"R")
            return
        if isinstance(thing, tuple) and thing and thing[0] == "storage":
            self.write(b"(")
            for part in thing:
                self.save(part)
            self.write(b"tQ")
            return
        super().save(thing, save_persistent_id)


def pickled(thing: Any) -> bytes:
    out = io.BytesIO()
    _Pickler(out, 2).dump(thing)
    return out.getvalue()


FLOAT, REBUILD = _Named("FloatStorage", "torch"), _Named("_rebuild_tensor_v2", "torch._utils")


def tensor(shape: Any = (100,), strides: Any = (1,), offset: Any = 0, count: Any = 100, kind: Any = FLOAT) -> Any:
    return REBUILD, ("storage", kind, "0", "cpu", count), offset, shape, strides, False, {}


LIES: dict[str, tuple[Any, str]] = {
    "beyond its values": (tensor(shape=(101,)), "reaches beyond"),
    "behind its values": (tensor(offset=1), "reaches beyond"),
    "with long strides": (tensor(strides=(2,)), "reaches beyond"),
    "with strides that go back": (tensor(strides=(-1,)), "a tensor of shape"),
    "of a negative size": (tensor(shape=(-1,)), "a tensor of shape"),
    "of half a size": (tensor(shape=(1.5,)), "a tensor of shape"),
    "of many dimensions": (tensor(shape=(1,) * 1000, strides=(1,) * 1000), "without a storage"),
    "huge by repetition": (tensor(shape=(2**40,), strides=(0,)), "bytes of memory"),
    "huge by a claim": (tensor(count=2**40), "which the file does not have"),
    "of another type": (tensor(kind=_Named("DoubleStorage", "torch")), "which the file does not have"),
    "of odd bytes": (tensor(kind=_Named("LongStorage", "torch"), shape=(50,), count=50), ""),
    "of no storage": ((REBUILD, 1, 0, (1,), (1,), False, {}), "damaged"),
    "by a program": ((_Named("system", "os"), "touch was-run"), r"os\.system"),
    "by a submodule": ((_Named("_rebuild_tensor_v2.__globals__", "torch._utils"),), "__globals__"),
    "by evaluation": ((_Named("eval", "builtins"), "1"), r"builtins\.eval"),
    "by an import": ((_Named("import_module", "importlib"), "this"), "importlib"),
    "by codecs": ((_Named("encode", "_codecs"), "x", "rot13"), "the encoding rot13"),
    "by another class": ((_Named("_rebuild_from_type_v2", "torch._tensor"), _Named("x", "y"), 1, (), {}), r"y\.x"),
    "by a class without values": ((_Named("Parameter", "torch.nn.parameter"),), "without values"),
}


@pytest.mark.parametrize(("thing", "words"), LIES.values(), ids=LIES)
def test_tensors_that_lie(tmp_path: Path, parts: dict[str, bytes], thing: Any, words: str,
                          monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "w.pth", parts | {"good/data.pkl": pickled({"w": thing})})
    if words:
        refused(path, words)
    else:  # eight bytes for two values: as much as there is
        assert read_weights(path)["w"].dtype == torch.int64
    assert not Path("was-run").exists()


PICKLES = {
    "a memo of gigabytes": b"\x80\x02}r\xff\xff\xff\x7f.",
    "bytes of gigabytes": b"\x80\x04\x8e\x00\x00\x00\x00\x04\x00\x00\x00x.",
    "a bytearray of gigabytes": b"\x80\x05\x96\x00\x00\x00\x00\x04\x00\x00\x00x.",
    "a frame of gigabytes": b"\x80\x04\x95\x00\x00\x00\x00\x04\x00\x00\x00}.",
    "nested lists": b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".",
    "a nested key": b"\x80\x02}" + b")" + b"\x85" * 300_000 + b"K\x01s.",
    "many operations": b"\x80\x02" + b"N0" * 2_000_000 + b"}.",
    "an extension": b"\x80\x02\x82\x01.",
    "an instance": b"\x80\x02(cos\nsystem\no.",
    "text of an instance": b"(ios\nsystem\n.",
    "nothing on the stack": b"\x80\x020.",
    "two values": b"\x80\x02}}.",
    "attributes": b"\x80\x02](X\x01\x00\x00\x00aK\x01db.",
    "a call of data": b"\x80\x02}(tR.",
    "no end": b"\x80\x02}",
}


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
@pytest.mark.parametrize("new", [True, False])
def test_pickles_that_were_made_to_harm(tmp_path: Path, parts: dict[str, bytes], content: bytes, new: bool) -> None:
    path = tmp_path / "w.pth"
    if new:
        written(path, parts | {"good/data.pkl": content})
    else:
        head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + content + pickle.dumps([], 2))
    refused(path, r"damaged|no PyTorch file|could run code|no state dict")


@pytest.mark.parametrize("count", [-1, 2**60, 101])
def test_older_files_whose_values_lie_outside(tmp_path: Path, count: int) -> None:
    path = tmp_path / "w.pth"
    torch.save({"w": torch.arange(100.0)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert struct.unpack("<q", content[-408:-400]) == (100,)
    path.write_bytes(content[:-408] + struct.pack("<q", count) + content[-400:])
    refused(path, "lie outside|does not have")


def test_programs_and_pipes(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))  # type: ignore[no-untyped-call]
    refused(tmp_path / "script.pt", "TorchScript program")
    for name in ("pipe.pth", "pipe.safetensors"):
        os.mkfifo(tmp_path / name)
        refused(tmp_path / name, "named pipe")
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    refused(tmp_path / "loop.pth", "symbolic links")


def headed(text: str | bytes, body: bytes = b"") -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw + body


F32 = '"dtype":"F32"'
LYING_TENSORS = {
    "a header of gigabytes": struct.pack("<Q", 2**40) + b"{}",
    "no header": b"\0" * 8,
    "twice": headed(f'{{"a":{{{F32},"shape":[1],"data_offsets":[0,4]}},"a":{{{F32},"shape":[1],'
                    '"data_offsets":[0,4]}}', b"1234"),
    "overlapping": headed(f'{{"a":{{{F32},"shape":[2],"data_offsets":[0,8]}},"b":{{{F32},"shape":[2],'
                          '"data_offsets":[4,12]}}', b"1" * 12),
    "beyond the end": headed(f'{{"a":{{{F32},"shape":[9],"data_offsets":[0,36]}}}}', b"1234"),
    "backwards": headed(f'{{"a":{{{F32},"shape":[1],"data_offsets":[4,0]}}}}', b"1234"),
    "huge": headed(f'{{"a":{{{F32},"shape":[4611686018427387904,4],"data_offsets":[0,4]}}}}', b"1234"),
    "negative": headed(f'{{"a":{{{F32},"shape":[-1],"data_offsets":[0,4]}}}}', b"1234"),
    "an unknown type": headed('{"a":{"dtype":"OBJ","shape":[1],"data_offsets":[0,4]}}', b"1234"),
    "many dimensions": headed(f'{{"a":{{{F32},"shape":[{"1," * 999}1],"data_offsets":[0,4]}}}}', b"1234"),
    "nested": headed("[" * 5000 + "]" * 5000),
    "a list": headed("[]"),
    "texts": headed('{"a": "b"}'),
    "no text": headed(b"\xff\xfe"),
    "left over": headed("{}", b"x" * 100),
}  # fmt: skip


@pytest.mark.parametrize("content", LYING_TENSORS.values(), ids=LYING_TENSORS)
def test_safetensors_that_lie(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    refused(tmp_path / "w.safetensors", r"damaged|not JSON|not a readable")


def test_an_ordered_dict_of_attributes(tmp_path: Path) -> None:
    """A state dict carries ``_metadata``; attributes of any name change nothing."""
    state: Any = OrderedDict(w=torch.ones(2))
    state.shape = "not a shape"
    torch.save(state, tmp_path / "w.pt")
    assert torch.equal(read_weights(tmp_path / "w.pt")["w"], torch.ones(2))
