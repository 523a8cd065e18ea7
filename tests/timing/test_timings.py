from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from secateur.core.errors import InputError
from secateur.timing import Timing, speedups, spread
from secateur.timing.timings import busy, doubt


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


def test_a_network_that_differs_from_itself_is_doubted() -> None:
    straying = replace(timing("dense", 4.0, 4.0, 4.0), again_ms=(2.0, 2.0, 2.0))
    (found,) = speedups([straying, timing("pruned", 2.0, 2.0, 2.0)])
    assert found.ratio.median == 2
    assert found.doubt == "dense against itself came out 2.00 times as fast"
    (sentence,) = busy([straying])
    assert sentence.startswith("The machine was busy while times were taken (pytorch forward, batch 1: dense against")
    calm = replace(straying, again_ms=(4.1, 3.9, 4.0))
    assert speedups([calm, timing("pruned", 2.0, 2.0, 2.0)])[0].doubt == ""
    assert busy([calm]) == []


def test_a_crowded_machine_is_doubted() -> None:
    crowded = replace(timing("dense", 4.0), again_ms=(4.0,), others=1.25, crowded=True)
    assert doubt(crowded) == "other programs kept 1.2 processors busy and left none idle"
    assert Timing.from_json(crowded.to_json()) == crowded


def test_records_from_before_have_nothing_against_them() -> None:
    old = {k: v for k, v in timing("dense", 4.0).to_json().items() if k not in ("again_ms", "others", "crowded")}
    assert doubt(Timing.from_json(old)) == ""
