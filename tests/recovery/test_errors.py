"""What is small when two networks compute the same."""

from __future__ import annotations

import pytest
import torch

from secateur.recovery.errors import Relative


def test_the_relative_error_is_over_the_variance_of_all_that_was_seen() -> None:
    torch.manual_seed(0)
    wanted = [[torch.randn(5, 3) * 4 + 7, torch.randn(5, 2)], [torch.randn(9, 3) * 4 + 7, torch.randn(9, 2)]]
    error = Relative()
    for batch in wanted:
        error.see(batch)
    got = [t + 0.5 for t in wanted[1]]
    parts = [0.25 / torch.cat([b[k] for b in wanted]).var(correction=0) for k in (0, 1)]
    assert float(error(got, wanted[1])) == pytest.approx(float(sum(parts)) / 2, rel=1e-4)


def test_whole_numbers_do_not_count_and_a_constant_is_no_division_by_zero() -> None:
    error, wanted = Relative(), [torch.ones(4, 2), torch.arange(4)]
    error.see(wanted)
    assert float(error(wanted, [wanted[0], wanted[1] + 1])) == 0
