from __future__ import annotations

import json

import pytest

from secateur.core.errors import InputError
from secateur.timing import Machine, Measurement, Timing, machine
from secateur.timing.measurement import scored
from secateur.timing.records import Record


def timing(**changes: object) -> Timing:
    values: dict[str, object] = {
        "model": "dense",
        "runtime": "pytorch",
        "direction": "forward",
        "batch": 1,
        "threads": 1,
        "mode": "eval",
        "calls": 2,
        "samples_ms": (1.0, 2.5),
    }
    return Timing(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("record", [timing(), Measurement(params=3, quality={"top1": 50.0}), machine()])
def test_records_come_back_from_json(record: Record) -> None:
    assert type(record).from_json(json.loads(json.dumps(record.to_json()))) == record


def test_unknown_and_bad_fields_are_named() -> None:
    data = timing().to_json()
    with pytest.raises(InputError, match="Timing has no colour; its fields are model, runtime"):
        Timing.from_json({**data, "colour": "red"})
    with pytest.raises(InputError, match=r"Timing\.batch cannot be read"):
        Timing.from_json({**data, "batch": "many"})


def test_machine_names_what_matters() -> None:
    here = machine()
    assert here.cores >= 1
    assert here.threads >= 1
    assert {"torch", "secateur"} <= set(here.versions)
    assert isinstance(here, Machine)


def test_measurement_netscore_needs_all_parts() -> None:
    assert Measurement(params=10, macs=10).netscore is None
    assert scored(10.0, 1_000_000, 1_000_000_000) == pytest.approx(40)
    assert scored(None, 1, 1) is scored(0.0, 1, 1) is scored(10.0, None, 1) is None
