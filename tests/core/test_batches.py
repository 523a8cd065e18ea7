from __future__ import annotations

import pytest
import torch

from secateur.core.batches import batch_size, resize
from secateur.core.errors import InputError


def test_resize_repeats_and_cuts() -> None:
    inputs = torch.arange(6).reshape(3, 2)
    assert torch.equal(resize(inputs, 5), inputs[[0, 1, 2, 0, 1]])  # type: ignore[arg-type]
    assert torch.equal(resize(inputs, 1), inputs[:1])  # type: ignore[arg-type]


def test_resize_keeps_structure_and_what_is_no_batch() -> None:
    table = torch.zeros(7, 7)
    given = {"x": torch.zeros(2, 3), "extra": (table, [torch.ones(2)]), "flag": True}
    found = resize(given, 4)
    assert isinstance(found, dict)
    assert found["x"].shape == (4, 3)
    assert found["extra"][0] is table
    assert found["extra"][1][0].shape == (4,)
    assert found["flag"] is True
    positional = resize((torch.zeros(2, 3), torch.zeros(2)), 3)
    assert isinstance(positional, tuple)
    assert [t.shape[0] for t in positional] == [3, 3]


def test_bad_batches() -> None:
    with pytest.raises(InputError, match="no tensor with a batch"):
        batch_size((torch.tensor(1.0),))
    with pytest.raises(InputError, match="wanted 0, the example inputs hold 2"):
        resize(torch.zeros(2, 2), 0)
