"""Files of others: PP-OCR and silero, cut in the file and proven in ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import secateur
from secateur.core.errors import InputError
from secateur.models.onnx_file import OnnxNetwork, read_onnx

FOLDER = os.environ.get("SECATEUR_ONNX_FILES", "")
OCR, VAD = "rapidocr_onnxruntime/models", "silero_vad/data"
FILES: dict[str, Any] = {
    f"{OCR}/ch_PP-OCRv4_det_infer.onnx": {"x": (1, 3, 64, 64)},
    f"{OCR}/ch_PP-OCRv4_rec_infer.onnx": {"x": (1, 3, 48, 64)},
    f"{OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx": {"x": (1, 3, 48, 192)},
    f"{VAD}/silero_vad_16k_sequence.onnx": {"input": (3, 576)},
    f"{VAD}/silero_vad_openvino_16k.onnx": {},
}


def there(name: str) -> Path:
    path = Path(FOLDER, name)
    if not FOLDER or not path.is_file():
        pytest.skip(
            "needs the files of two packages: pip install --no-deps --target DIRECTORY rapidocr-onnxruntime "
            "silero-vad, and SECATEUR_ONNX_FILES=DIRECTORY"
        )
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_half_of_the_macs_in_the_file_itself(name: str, tmp_path: Path) -> None:
    path = there(name)
    small = secateur.prune(read_onnx(path, FILES[name]), macs=0.5)
    assert isinstance(small.model, OnnxNetwork)
    assert small.verification is not None
    assert small.verification.proven
    assert 0.49 < small.after.macs / small.before.macs < 0.51
    check = secateur.export(small, tmp_path / "small.onnx")
    assert check.max_difference < 1e-3
    if "rec" not in name:  # its normalisations count the channels that are left
        assert check.masked_difference is not None
        assert check.masked_difference < 1e-3
    assert check.bytes < 0.65 * path.stat().st_size


@pytest.mark.parametrize("name", ["silero_vad.onnx", "silero_vad_16k_op15.onnx"])
def test_control_flow_is_said_to_be_that(name: str) -> None:
    with pytest.raises(InputError, match="'If', which is control flow"):
        read_onnx(there(f"{VAD}/{name}"))
