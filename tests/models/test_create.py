"""Networks by name: parameter counts against the literature, options, and errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.core.errors import InputError, UnknownNameError, WeightsError
from secateur.models import MODELS, create

SMALL = [name for name in MODELS if MODELS[name].shape[1] <= 32 and "110" not in name]


def params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("lenet300", 266_610),
        ("lenet5", 431_080),
        ("resnet20", 269_722),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("resnet56b", 855_770),
        ("vgg16_bn_cifar", 14_728_266),
        ("vgg19_bn_cifar", 20_040_522),
    ],
)
def test_parameter_counts(name: str, count: int) -> None:
    assert params(create(name)) == count


@pytest.mark.parametrize(("name", "count"), [("alexnet", 61_100_840), ("vgg16_bn", 138_365_992)])
def test_imagenet_parameter_counts(name: str, count: int) -> None:
    with torch.device("meta"):
        assert params(create(name)) == count


@pytest.mark.parametrize("name", SMALL)
def test_every_small_network_runs_in_both_modes(name: str) -> None:
    model = create(name, classes=7)
    images = torch.randn(2, *MODELS[name].shape)
    assert model.train()(images).shape == (2, 7)
    first, second = model.eval()(images), model(images)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "resnet20b", "resnet_digits", "vgg_digits", "vgg16_bn_cifar"])
def test_networks_export_with_a_dynamic_batch(name: str) -> None:
    model = create(name).eval()
    shape = MODELS[name].shape
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (torch.randn(3, *shape),), dynamic_shapes=({0: batch},))
    images = torch.randn(5, *shape)
    torch.testing.assert_close(program.module()(images), model(images))


def test_imagenet_forms_have_torchvision_names() -> None:
    for name in ("alexnet", "vgg19_bn"):
        with torch.device("meta"):
            ours, theirs = create(name).state_dict(), create(f"torchvision:{name}").state_dict()
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_option_a_shortcut_subsamples_and_pads() -> None:
    shortcut = create("resnet20").layer2[0].shortcut
    images = torch.randn(2, 16, 8, 8)
    out = shortcut(images)
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], images[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_libraries(name: str) -> None:
    model = create(name, classes=5).eval()
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 5)
    assert params(create(name)) == 11_689_512


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet65", "resnet56"), ("torchvision:resnet19", "resnet18"), ("timm:resnet17", "resnet18")],
)
def test_unknown_names_offer_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"'{near}'"):
        create(name)


def test_unknown_library_weights() -> None:
    with pytest.raises(UnknownNameError, match="IMAGENET1K_V1"):
        create("torchvision:resnet18", weights="IMAGENET1K_V9")
    with pytest.raises(InputError, match="pretrained"):
        create("timm:resnet18", weights="a1_in1k")


def test_an_option_that_is_not_taken() -> None:
    with pytest.raises(InputError, match="width"):
        create("resnet20", width=3)


def test_missing_weights_file() -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors"):
        create("resnet20", weights="nowhere.safetensors")


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    text = """
    from torch import nn
    def net(num_classes=3): return nn.Sequential(nn.Flatten(), nn.Linear(4, num_classes))
    def fixed(): return nn.Linear(4, 3)
    def wrong(): return 7
    """
    lines = [line[4:] for line in text.splitlines()]
    (tmp_path / "my_net_for_tests.py").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_net_for_tests", raising=False)
    return "my_net_for_tests"


def test_a_users_factory_in_the_current_folder(user_module: str) -> None:
    assert create(f"{user_module}:net", classes=6)(torch.zeros(1, 4)).shape == (1, 6)
    assert create(f"{user_module}:fixed").out_features == 3
    assert str(Path.cwd()) not in sys.path


def test_a_users_factory_that_does_not_fit(user_module: str) -> None:
    with pytest.raises(InputError, match="num_classes"):
        create(f"{user_module}:fixed", classes=2)
    with pytest.raises(InputError, match=r"int.*Module"):
        create(f"{user_module}:wrong")
    with pytest.raises(UnknownNameError, match="'net'"):
        create(f"{user_module}:nett")
    with pytest.raises(UnknownNameError, match="no_such_module_here"):
        create("no_such_module_here:net")
