"""LeNet-300-100 and LeNet-5 in the Caffe form that pruning papers use (LeCun et al., 1998)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LeNet5", "LeNet300"]


class LeNet300(nn.Module):
    """784 → 300 → 100 → classes, fully connected; 266,610 parameters with 10 classes.

    >>> sum(p.numel() for p in LeNet300().parameters())
    266610
    """

    def __init__(self, classes: int = 10, *, inputs: int = 784) -> None:
        """``inputs`` is C·H·W of the images."""
        super().__init__()
        self.fc1 = nn.Linear(inputs, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, classes)."""
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))  # type: ignore[no-any-return]


class LeNet5(nn.Module):
    """Two 5×5 convolutions (20, 50) and 500 → classes, for 28×28; 431,080 parameters.

    >>> sum(p.numel() for p in LeNet5().parameters())
    431080
    """

    def __init__(self, classes: int = 10, *, in_channels: int = 1) -> None:
        """``in_channels`` is 1 for MNIST."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 28, 28) → (B, classes)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))  # type: ignore[no-any-return]
