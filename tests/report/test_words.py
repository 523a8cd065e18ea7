from __future__ import annotations

import pytest

from secateur.report import words


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (999_499, "999 k"), (999_500, "1.00 M"), (25_557_032, "25.6 M")],
)
def test_count_never_shows_four_digits(value: float, text: str) -> None:
    assert words.count(value) == text


def test_units() -> None:
    assert words.size(999) == "999 B"
    assert words.size(1_234_567) == "1.23 MB"
    assert words.milliseconds(9.996) == "10.0 ms"
    assert words.milliseconds(0.5) == "0.500 ms"
    assert words.duration(59.6) == "1 min 0 s"
    assert words.times(99.96) == "100×"


@pytest.mark.parametrize("text", [words.count, words.exact, words.size, words.milliseconds, words.duration])
def test_missing_numbers_are_a_dash(text: object) -> None:
    assert callable(text)
    assert text(None) == words.NOTHING


def test_dates() -> None:
    assert words.date("2026-01-02T23:30:00-01:00") == "3 January 2026, 00:30 UTC"
    assert words.date("2026-12-31T08:05:00") == "31 December 2026, 08:05"
    assert words.date("") == ""


def test_tiny() -> None:
    assert words.tiny(1e-5) == "10⁻⁵"
    assert words.tiny(9.96e-6) == "10⁻⁵"
    assert words.tiny(123.0) == "1.2 × 10²"
    assert words.tiny(float("nan")) == "NaN"
