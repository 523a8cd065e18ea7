"""The proof at smaller images: as good as at the full size, and never in the place of it where they differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from secateur.core.errors import VerificationError
from secateur.surgery.dense import Dense
from secateur.surgery.inputs import smaller_images
from zoo import settle


class Image(nn.Module):
    """Two convolutions and a way to put them together."""

    def __init__(self, between: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Linear(8, 4)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.between(self.a(x)))
        return self.head(y.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture
def heights(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Heights of all images that the masked dense network ran on."""
    seen: list[int] = []
    whole = Dense._computed

    def computed(self: Dense, args: Any, kwargs: Any, *, sharp: bool) -> Any:
        seen.append(args[0].shape[2])
        return whole(self, args, kwargs, sharp=sharp)

    monkeypatch.setattr(Dense, "_computed", computed)
    return seen


def test_large_images_are_looked_at_smaller(heights: list[int]) -> None:
    pruned = secateur.prune(settle(Image()), torch.randn(2, 3, 224, 224), ratio=0.5)
    assert pruned.backend == "module"
    assert pruned.verification is not None
    assert pruned.verification.proven
    assert set(heights) == {64}


@pytest.mark.parametrize("size", [32, 96, 127])
def test_small_images_are_looked_at_as_they_are(size: int, heights: list[int]) -> None:
    secateur.prune(settle(Image()), torch.randn(2, 3, size, size), ratio=0.5)
    assert set(heights) == {size}


def test_a_kernel_that_is_larger_than_the_smaller_image_takes_the_next_size(heights: list[int]) -> None:
    network = settle(Image(lambda y: F.avg_pool2d(y, 25, 1)))  # 16 wide at a width of 32
    secateur.prune(network, torch.randn(1, 3, 224, 224), ratio=0.5)
    assert heights[-1] == 96


def test_another_way_at_smaller_images_is_not_what_is_proven(heights: list[int]) -> None:
    """At the full size it takes a fixed number of channels, which the module back end cannot cut."""

    def between(y: Tensor) -> Tensor:
        if y.shape[2] > 60:
            a, b = y.split([4, 4], 1)
        else:
            a, b = y.chunk(2, 1)
        return torch.cat([a.relu(), b], 1)

    pruned = secateur.prune(settle(Image(between)), torch.randn(1, 3, 224, 224), ratio=0.5)
    assert pruned.backend == "graph"
    assert 224 in heights
    assert pruned.model(torch.randn(2, 3, 224, 224)).shape == (2, 4)


def test_a_cut_that_is_wrong_at_the_full_size_alone_is_noticed() -> None:
    """The pruned network's code knows how many channels there were, and adds something at large images then."""

    class Knows(Image):
        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            if y.shape[1] < 8 and y.shape[2] > 60:
                y = y.exp()
            return self.head(self.b(y).mean((2, 3)))  # type: ignore[no-any-return]

    with pytest.raises(VerificationError):
        secateur.prune(settle(Knows()), torch.randn(1, 3, 224, 224), ratio=0.5, backend="module")


def test_what_the_smaller_image_does_not_move_is_looked_at_whole(heights: list[int]) -> None:
    """Only the lower right corner enters the output."""

    class Corner(Image):
        def forward(self, x: Tensor) -> Tensor:
            y = self.b(self.a(x).relu())
            return self.head(y[:, :, 40:, 40:].sum((2, 3)))  # type: ignore[no-any-return]

    pruned = secateur.prune(settle(Corner()), torch.randn(1, 3, 224, 224), ratio=0.5)
    assert pruned.verification is not None
    assert pruned.verification.proven
    assert 224 in heights


def test_smaller_images_keep_the_user_s_values_and_no_more_samples_than_needed() -> None:
    from secateur.graph.trace import trace

    x = torch.randn(9, 3, 300, 224)
    (small, _), (larger, _) = smaller_images(trace(settle(Image()), x))
    assert torch.equal(small[0], x[:4, :, :96, :32])
    assert torch.equal(larger[0], x[:4, :, :128, :96])


def test_a_graph_that_knows_the_size_is_freed_for_the_smaller_image(heights: list[int]) -> None:
    """Heights and widths that its code computes with would make every smaller image fail."""

    class Sized(Image):
        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            y = F.interpolate(self.b(y.relu()), size=y.shape[2:])
            return self.head(y.mean((2, 3)))  # type: ignore[no-any-return]

    pruned = secateur.prune(settle(Sized()), torch.randn(1, 3, 224, 224), ratio=0.5)
    assert pruned.backend == "module"
    assert set(heights) == {64}
