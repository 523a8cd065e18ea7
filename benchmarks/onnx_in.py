"""Real ONNX files of others, pruned to half their MACs in the file itself.

Run: python benchmarks/onnx_in.py [NAME ...]
Needs: pip install --no-deps --target DIRECTORY rapidocr-onnxruntime silero-vad, and SECATEUR_ONNX_FILES=DIRECTORY

Each file is read, cut (half of the multiply-accumulates stay, by l2), proven in double precision, written, and compared
in ONNX Runtime with the network and with the dense file whose removed entries are zero, at the given sizes and at
others where the file takes them. Nothing is trained: how much accuracy a cut costs is not measured here. A file that
is refused is in the table with the words. Writes results/onnx_in.json after every file, goes on where it was stopped,
and puts the table into docs/onnx.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from records import into_docs, read, table, write

import secateur
from secateur.core.errors import SecateurError
from secateur.models.onnx_file import OnnxNetwork, read_onnx

DOCS = Path(__file__).resolve().parents[1] / "docs/onnx.md"
_OCR, _VAD = "rapidocr_onnxruntime/models", "silero_vad/data"
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "PP-OCRv4 detection": (f"{_OCR}/ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 320, 320)}),
    "PP-OCRv4 recognition": (f"{_OCR}/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 160)}),
    "PP-OCR direction": (f"{_OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}),
    "silero VAD, sequence": (f"{_VAD}/silero_vad_16k_sequence.onnx", {"input": (4, 576)}),
    "silero VAD, 16 kHz": (f"{_VAD}/silero_vad_openvino_16k.onnx", {}),
    "silero VAD, opset 15": (f"{_VAD}/silero_vad_16k_op15.onnx", {"input": (1, 512)}),
    "silero VAD": (f"{_VAD}/silero_vad.onnx", {"input": (1, 512)}),
}


def one(name: str, folder: Path) -> dict[str, Any]:
    """What comes of one file."""
    place, sizes = FILES[name]
    row: dict[str, Any] = {"name": name, "file": Path(place).name, "bytes": (folder / place).stat().st_size}
    try:
        network = read_onnx(folder / place, sizes)
        small = secateur.prune(network, macs=0.5)
        with tempfile.TemporaryDirectory() as out:
            check = secateur.export(small, Path(out) / "small.onnx")
    except SecateurError as error:
        return row | {"refused": str(error).replace(str(folder / place), Path(place).name)}
    proof = small.verification
    return row | {
        "params": (small.before.params, small.after.params),
        "macs": (small.before.macs, small.after.macs),
        "bytes_after": check.bytes,
        "error": None if proof is None else proof.max_relative_error,
        "own_file": isinstance(small.model, OnnxNetwork),
        "from_network": check.max_difference,
        "from_masked": check.masked_difference,
        "batches": check.batches,
        "runtime": check.runtime,
    }


def show(rows: list[dict[str, Any]]) -> str:
    """The table, and what was refused."""
    head = ("file", "parameters", "MACs a sample", "bytes", "error, float64", "from PyTorch", "from the masked file")
    cut = [r for r in rows if "refused" not in r]
    lines = [
        (
            r["name"], _pair(r["params"]), _pair(r["macs"]), _pair((r["bytes"], r["bytes_after"])), f"{r['error']:.0e}",
            f"{r['from_network']:.0e}", "–" if r["from_masked"] is None else f"{r['from_masked']:.0e}",
        )
        for r in cut
    ]  # fmt: skip
    text = table(head, lines)
    refused = [f"- {r['name']}: {r['refused']}" for r in rows if "refused" in r]
    return text + ("\n\nRefused:\n\n" + "\n".join(refused) if refused else "")


def _pair(pair: tuple[int, int] | list[int]) -> str:
    before, after = pair
    return f"{before:,} → {after:,} ({after / before:.0%})"


def main(names: list[str]) -> None:
    """Runs what is missing."""
    folder = Path(os.environ.get("SECATEUR_ONNX_FILES", "onnx-files"))
    rows = read("onnx_in")
    for name in names or list(FILES):
        if any(row["name"] == name for row in rows):
            continue
        if not (folder / FILES[name][0]).is_file():
            print(f"{name}: not there (SECATEUR_ONNX_FILES={folder})")
            continue
        rows.append(one(name, folder))
        rows.sort(key=lambda row: list(FILES).index(row["name"]))
        write("onnx_in", rows, macs=0.5, criterion="l2")
        print(name, rows[-1] if "refused" in rows[-1] else "cut")
    into_docs(DOCS, "onnx-in", show(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
