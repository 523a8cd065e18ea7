"""The notebooks run from top to bottom, and show pictures."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[1] / "examples/notebooks"
NEEDED = {"prune_and_repair": 2, "own_task": 2, "transformer": 1}
"""By notebook: how many pictures it shows."""


def test_they_are_all_there_and_bring_no_outputs() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(NEEDED)
    for path in NOTEBOOKS.glob("*.ipynb"):
        assert '"output_type"' not in path.read_text()


@pytest.mark.slow
@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("nbclient", "ipykernel", "matplotlib")),
    reason='not installed: pip install "secateur[notebooks]" nbclient',
)
@pytest.mark.parametrize("name", sorted(NEEDED))
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "transformer":
        pytest.importorskip("transformers")
    from nbclient import NotebookClient
    from nbformat import read

    source = Path(__file__).resolve().parents[1] / "src"  # the kernel is a process of its own
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(source), os.environ.get("PYTHONPATH", "")))))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == NEEDED[name]
