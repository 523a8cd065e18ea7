from __future__ import annotations

from secateur.report import Results, write_report
from secateur.report.deployed import deployed_table
from secateur.report.page import read_results
from secateur.timing import Spread
from secateur.timing.results import EntrantResult


def at(median: float) -> Spread:
    return Spread(median, median, median, median, median, 9)


DENSE = EntrantResult(
    "dense", "litert", params=853_018, bytes=3_450_000, ms=at(8.0), quality={"top1": 90.0, "loss": 0.31}, samples=500
)
PRUNED = EntrantResult(
    "pruned", "litert", "int8", 400_000, 456_700, 0.02, at(2.0), at(4.0),
    quality={"top1": 89.25, "loss": 0.3456}, samples=500,
)  # fmt: skip
FAILED = EntrantResult("pruned", "executorch", params=400_000, problem="the operator <b>aten.odd</b> has no rule")


def test_one_row_per_network_runtime_and_precision() -> None:
    table = deployed_table(Results(deployed=(DENSE, PRUNED, FAILED)))
    assert table is not None
    assert table.headers == ("", "Top-1 accuracy", "Loss", "Time per image", "Speed-up", "Parameters", "Size")
    assert table.rows == (
        ("Dense, LiteRT float", "90.00 %", "0.3100", "8.00 ms", "–", "853,018", "3.450 MB"),
        ("Pruned, LiteRT int8", "89.25 %", "0.3456", "2.00 ms", "4.00×", "400,000", "0.457 MB"),
        ("Pruned, ExecuTorch float", "–", "–", "does not run", "–", "400,000", "–"),
    )


def test_columns_without_a_figure_are_left_out() -> None:
    table = deployed_table(Results(deployed=(EntrantResult("dense", "pytorch", params=10, bytes=1_000_000),)))
    assert table is not None
    assert table.headers == ("", "Parameters", "Size")
    assert table.rows == (("Dense, PyTorch float", "10", "1.000 MB"),)
    assert deployed_table(Results()) is None


def test_the_page_holds_the_table_and_survives_json(tmp_path) -> None:  # type: ignore[no-untyped-def]
    results = Results(deployed=(DENSE, PRUNED, FAILED))
    again = read_results(results.model_dump(mode="json"))
    assert again.deployed == results.deployed
    page = write_report(again, tmp_path / "report.html").read_text()
    assert "Where it runs" in page
    assert "on 500 test images" in page
    assert "Pruned, LiteRT int8" in page
    assert "<b>aten.odd" not in page
