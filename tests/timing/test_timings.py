from __future__ import annotations

import numpy as np
import pytest

from secateur.core.errors import InputError
from secateur.timing import Timing, speedups, spread


def timing(model: str, *samples: float, batch: int = 1) -> Timing:
    return Timing(model, "pytorch", "forward", batch, 1, "eval", 1, samples)


def test_spread_is_that_of_numpy() -> None:
    values = np.random.default_rng(0).exponential(size=41)
    found = spread(values)
    assert found.median == pytest.approx(np.median(values))
    assert found.q05 == pytest.approx(np.quantile(values, 0.05))
    assert found.q95 == pytest.approx(np.quantile(values, 0.95))
    assert found.q05 < found.q25 < found.median < found.q75 < found.q95
    assert found.count == 41


def test_speedup_is_the_median_of_ratios_of_the_same_rounds() -> None:
    # The machine was ten times slower in the third round; the ratio of medians would say 20 / 6.
    dense, pruned = timing("dense", 10, 20, 200), timing("pruned", 5, 6, 100)
    (found,) = speedups([dense, pruned])
    assert found.ratio.median == 2.0
    assert (found.model, found.reference, found.batch) == ("pruned", "dense", 1)


def test_speedups_pair_equal_settings_only() -> None:
    found = speedups([timing("dense", 4), timing("pruned", 2), timing("pruned", 1, batch=8)])
    assert [entry.batch for entry in found] == [1]


def test_speedups_refuse_what_cannot_be_paired() -> None:
    with pytest.raises(InputError, match="'dense' has 2 rounds and 'pruned' 1"):
        speedups([timing("dense", 1, 2), timing("pruned", 1)])
    with pytest.raises(InputError, match=r"reference 'full'.*measured were: dense"):
        speedups([timing("dense", 1)], reference="full")
    with pytest.raises(InputError, match="at least one sample"):
        spread([])
