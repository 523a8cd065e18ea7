from __future__ import annotations

from dataclasses import replace

import pytest

from secateur.core.types import Verification
from secateur.report import Results, view


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{WORD JOINER}", "")


def test_headline(results: Results) -> None:
    found = {card.title: card for card in view.cards(results)}
    assert list(found) == ["Top-1 accuracy", "Parameters", "MACs per sample", "Measured time", "Exactness"]
    assert (found["Top-1 accuracy"].value, found["Top-1 accuracy"].detail) == ("89.50 %", "−0.50 points")
    assert (found["Parameters"].before, found["Parameters"].value) == ("1.00 M", "500 k")
    assert found["Parameters"].detail == "compression ratio 2.00×"
    assert found["MACs per sample"].detail == "MAC reduction 2.50×"
    # ONNX Runtime at batch 1 goes before PyTorch and before larger batches.
    assert found["Measured time"].detail == "1.50× as fast, ONNX Runtime forward, batch 1"
    assert found["Exactness"].value == "2.0 × 10⁻⁷ ≤ 10⁻⁵"


def test_a_failed_proof_is_not_called_verified(results: Results) -> None:
    failed = results.model_copy(update={"verification": Verification(1e-2, 1e-5)})
    card = view.cards(failed)[-1]
    assert card.value == "10⁻² > 10⁻⁵"
    assert card.detail.startswith("NOT within tolerance")


def test_comparison_has_only_rows_with_values(results: Results) -> None:
    table = view.comparison(results)
    assert table is not None
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["Parameters"] == ("1,000,000", "500,000")
    assert rows["Compression ratio (dense / this)"] == ("1.00×", "2.00×")
    assert rows["MAC reduction (dense / this)"] == ("1.00×", "2.50×")
    # 20·log10(89.5² / √(0.5 · 0.04)) = 20·log10(8010.25 / 0.141421)
    assert rows["NetScore"][1] == "95.06"
    assert "Peak memory of one forward pass" not in rows
    assert not any(row.startswith("Energy") for row in rows)
    assert table.headers == ("", "Dense, adapted", "Pruned, fine-tuned")


def test_energy_is_called_an_estimate(results: Results) -> None:
    networks = [
        n.model_copy(update={"measurement": replace(n.measurement, energy_mj=e)})
        for n, e in zip(results.networks, (0.5, 0.2), strict=True)
    ]
    table = view.comparison(results.model_copy(update={"networks": tuple(networks)}))
    assert table is not None
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["Energy per sample (by a model, not measured)"] == ("0.500 mJ", "0.200 mJ")


def test_the_pruned_network_stands_beside_the_dense_one(results: Results) -> None:
    control = results.networks[0].model_copy(update={"label": "Control", "role": "control"})
    dense, pruned = results.networks
    table = view.comparison(results.model_copy(update={"networks": (control, dense, pruned)}))
    assert table is not None
    assert table.roles == ("", "dense", "pruned", "control")


def test_blocks_end_in_their_total(results: Results) -> None:
    table = view.blocks(results)
    assert table is not None
    assert table.total
    assert table.rows[0] == ("stem", "400,000", "300,000", "75.0 %")
    assert table.rows[-1] == ("Total", "1,000,000", "500,000", "50.0 %")


def test_latency_rows(results: Results) -> None:
    table = view.latency(results)
    assert table is not None
    assert table.headers == ("", "dense", "pruned", "speed-up of pruned")
    rows = [[plain(cell) for cell in row] for row in table.rows]
    assert [row[0] for row in rows] == [
        "PyTorch forward, batch 1",
        "ONNX Runtime forward, batch 32",
        "ONNX Runtime forward, batch 1",
    ]
    assert rows[0][1:] == ["11.0 ms (10.1–11.9)", "5.50 ms (5.05–5.95)", "2.00× (2.00–2.00)"]


def test_no_reference_no_speedup(results: Results) -> None:
    alone = results.model_copy(update={"latency": results.latency[1:2]})
    assert view.measured_speedups(alone) == ()
    table = view.latency(alone)
    assert table is not None
    assert table.headers == ("", "pruned")


def test_exports(results: Results) -> None:
    table = view.exports(results)
    assert table is not None
    assert table.rows[0][:3] == ("model.onnx", "2.10 MB", "3.0 × 10⁻⁷ (allowed 10⁻⁴)")
    assert table.rows[0][5:7] == ("–", "any")


@pytest.mark.parametrize("part", [view.blocks, view.comparison, view.latency, view.exports])
def test_empty_results_have_no_tables(part: object) -> None:
    assert callable(part)
    assert part(Results()) is None
    assert view.cards(Results()) == ()


def test_a_busy_machine_makes_no_claim(results: Results) -> None:
    """Neither the headline nor the picture has a speed-up where the dense network differs from itself."""
    latency = tuple(
        replace(t, again_ms=tuple(2 * ms for ms in t.samples_ms)) if t.model == "dense" else t for t in results.latency
    )
    busy = results.model_copy(update={"latency": latency})
    card = {card.title: card for card in view.cards(busy)}["Measured time"]
    assert card.detail == "machine busy, ONNX Runtime forward, batch 1"
    assert not card.worse
    table = view.latency(busy)
    assert table is not None
    assert all(row[-1].endswith(", busy") for row in table.rows)


def test_a_speed_up_beyond_the_work_is_marked(results: Results) -> None:
    latency = tuple(
        replace(t, samples_ms=tuple(ms / 10 for ms in t.samples_ms)) if t.model == "pruned" else t
        for t in results.latency
    )
    fast = results.model_copy(update={"latency": latency})
    card = {card.title: card for card in view.cards(fast)}["Measured time"]
    assert card.detail == "15.0× as fast, more than the MACs explain, ONNX Runtime forward, batch 1"


def test_what_got_worse_is_not_green(results: Results) -> None:
    assert {card.title: card.worse for card in view.cards(results)}["Top-1 accuracy"]


def test_channels_name_their_layers(results: Results) -> None:
    rows = view.channels(results)
    assert [(row.layer, row.before, row.after, row.kept) for row in rows] == [
        ("conv1", "16", "8", "50 %"),
        ("gone", "16", "0", "0 %"),
    ]
    assert [(row.dense_share, row.pruned_share) for row in rows] == [("100.00", "50.00"), ("100.00", "0.00")]
    assert view.channels(Results()) == ()
