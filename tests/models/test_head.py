"""New heads: the right layer goes, the rest stays, the input is left untouched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.core.errors import InputError
from secateur.models import create, replace_head


def test_only_the_head_changes() -> None:
    dense = create("resnet20")
    model = replace_head(dense, 4)
    assert dense.linear.out_features == 10
    assert model.linear.out_features == 4
    kept = {k: v for k, v in dense.state_dict().items() if not k.startswith("linear")}
    assert all(torch.equal(model.state_dict()[k], v) for k, v in kept.items())
    assert model.conv1.weight.data_ptr() != dense.conv1.weight.data_ptr()


def test_an_added_dense_layer() -> None:
    model = replace_head(create("torchvision:resnet18"), 10, hidden=128)
    assert [type(m) for m in model.fc] == [nn.Linear, nn.ReLU, nn.Linear]
    assert (model.fc[0].in_features, model.fc[0].out_features, model.fc[2].out_features) == (512, 128, 10)


def test_a_convolution_as_the_head() -> None:
    model = replace_head(create("torchvision:squeezenet1_1"), 3).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_side_heads_are_no_heads() -> None:
    model = replace_head(create("torchvision:googlenet", init_weights=False), 6)
    assert model.fc.out_features == 6
    assert model.aux2.fc2.out_features == 1000


def test_a_network_that_pools_already_gets_the_new_head_alone() -> None:
    dense = create("vgg_digits")
    model = replace_head(dense, 4, pool=True).eval()
    images = torch.randn(2, 1, 8, 8)
    pooled = dense.eval().features(images).mean((2, 3))
    torch.testing.assert_close(model(images), model.classifier(pooled))
    assert model(images).shape == (2, 4)


def test_a_whole_classifier_becomes_pooling_and_one_layer() -> None:
    model = replace_head(create("alexnet"), 5, pool=True).eval()
    assert isinstance(model.classifier, nn.Linear)
    images = torch.randn(2, 3, 96, 96)
    pooled = model.features(images).mean((2, 3))
    torch.testing.assert_close(model(images), model.classifier(pooled), rtol=1e-4, atol=1e-6)


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    model = create("lenet300")
    state = torch.get_rng_state()
    first, second = replace_head(model, 4, seed=1), replace_head(model, 4, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.fc3.weight, second.fc3.weight)
    assert not torch.equal(first.fc3.weight, replace_head(model, 4, seed=2).fc3.weight)


def test_no_head_to_replace() -> None:
    with pytest.raises(InputError, match="no linear layer"):
        replace_head(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), 4)
    with pytest.raises(InputError, match="pool=False"):
        replace_head(create("resnet20"), 4, pool=True)
    with pytest.raises(InputError, match=r"classes.* of at least 1; got 0"):
        replace_head(create("resnet20"), 0)
