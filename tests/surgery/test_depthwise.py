"""Depthwise convolutions in double precision against PyTorch's own."""

from __future__ import annotations

import itertools

import pytest
import torch

from secateur.surgery.depthwise import depthwise, is_depthwise

conv2d = torch.ops.aten.conv2d.default
KERNELS = ((3, 3), (1, 5), (7, 7), (2, 4))
CASES = [
    case for case in itertools.product((1, 2, 3), (0, 1, 3), (1, 2), KERNELS, ((9, 12), (4, 4)))
    if all(n + 2 * p > case[2] * (k - 1) for n, p, k in zip(case[4], (case[1], 1), case[3], strict=True))
]  # fmt: skip
"""Stride, padding, dilation, kernel and image, where the kernel is no larger than the padded image."""


@pytest.mark.parametrize(("stride", "padding", "dilation", "kernel", "size"), CASES)
def test_it_is_the_convolution(
    stride: int, padding: int, dilation: int, kernel: tuple[int, int], size: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, *size, dtype=torch.float64, generator=generator)
    weight = torch.randn(6, 1, *kernel, dtype=torch.float64, generator=generator)
    bias = torch.randn(6, dtype=torch.float64, generator=generator) if padding else None
    args = (x, weight, bias, [stride, 1], [padding, 1], [dilation, dilation], 6)
    assert torch.allclose(depthwise(conv2d, args), conv2d(*args), rtol=0, atol=1e-13)


def test_only_one_filter_for_each_channel_counts() -> None:
    x = torch.randn(1, 64, 8, 8, dtype=torch.float64)
    one = (x, torch.randn(64, 1, 3, 3, dtype=torch.float64), None, [1, 1], [1, 1], [1, 1], 64)
    two = (x, torch.randn(128, 1, 3, 3, dtype=torch.float64), None, [1, 1], [1, 1], [1, 1], 64)
    pairs = (x, torch.randn(64, 2, 3, 3, dtype=torch.float64), None, [1, 1], [1, 1], [1, 1], 32)
    assert is_depthwise(conv2d, one, {})
    assert not is_depthwise(conv2d, two, {})
    assert not is_depthwise(conv2d, pairs, {})
    assert not is_depthwise(conv2d, tuple(v.float() if isinstance(v, torch.Tensor) else v for v in one), {})
    assert not is_depthwise(torch.ops.aten.conv1d.default, one, {})
