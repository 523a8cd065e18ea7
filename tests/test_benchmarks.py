"""A few rows of the coverage benchmark, as CI runs them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks/coverage.py"


@pytest.mark.parametrize(
    "name", ["timm:test_vit", "timm:test_nfnet", "timm:test_efficientnet", "torchvision:shufflenet_v2_x0_5"]
)
def test_networks_come_out_exact(name: str) -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--one", "secateur", name], capture_output=True, text=True, check=True
    )
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["outcome"] == "exact", row.get("error")
    assert row["difference"] <= 1e-5
    assert row["params_left"] <= 0.6
