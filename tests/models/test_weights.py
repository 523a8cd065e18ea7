"""Weights: what fits is loaded whole, what does not is named, and no code is run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from secateur.core.errors import WeightsError
from secateur.models import create, load_weights, read_weights


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("was-run"),))


@pytest.fixture
def state() -> dict[str, Tensor]:
    return dict(create("lenet300").state_dict())


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_the_shared_resnets_load(shared: Path, depth: int) -> None:
    path = shared / "models" / f"resnet{depth}-cifar10.safetensors"
    model = create(f"resnet{depth}", weights=path)
    assert torch.equal(model.linear.weight, read_weights(path)["linear.weight"])


@pytest.mark.parametrize("wrap", ["", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path, state: dict[str, Tensor], wrap: str, prefix: str) -> None:
    content: object = {prefix + name: value for name, value in state.items()}
    torch.save({wrap: content, "epoch": 3} if wrap else content, tmp_path / "w.pth")
    model = create("lenet300", weights=tmp_path / "w.pth")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_misfits_are_named_and_nothing_is_loaded(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state["fc2.weight"] = torch.zeros(5, 300)
    state["extra"] = state.pop("fc1.bias")
    save_file(state, tmp_path / "w.safetensors")
    model = create("lenet300")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        load_weights(model, tmp_path / "w.safetensors")
    text = str(error.value)
    assert "1 missing: fc1.bias" in text
    assert "1 unexpected: extra" in text
    assert "fc2.weight is (5, 300), the network wants (100, 300)" in text
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_nan_is_refused_by_name(state: dict[str, Tensor]) -> None:
    state["fc3.bias"] = torch.full((10,), float("nan"))
    with pytest.raises(WeightsError, match=r"fc3\.bias holds 10 NaN"):
        load_weights(create("lenet300"), state)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Evil()}, "evil.pt")
    with pytest.raises(WeightsError, match="run code"):
        create("lenet300", weights="evil.pt")
    assert not Path("was-run").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_damaged_files(tmp_path: Path, state: dict[str, Tensor], name: str) -> None:
    path = tmp_path / name
    if name.endswith("pt"):
        torch.save(state, path)
    else:
        save_file(state, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=name):
        read_weights(path)


@pytest.mark.parametrize("content", [b"", b"a: [1, 2\nb", b"\xff" * 40, b"."])
def test_files_that_are_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.pt"):
        read_weights(tmp_path / "w.pt")


def test_a_file_without_tensors(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="no state dict"):
        read_weights(tmp_path / "w.pt")
