"""The script of a bundle, run in a process that has neither PyTorch nor Secateur, and held against the network."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.core.batches import tensors
from secateur.core.errors import ExportError
from secateur.core.modes import evaluating
from secateur.core.processes import with_scratch
from secateur.exports.calibration import LEAST_SNR_DB
from secateur.runtimes.parity import label_matches
from secateur.task.detection.decoding import detections

__all__ = ["Trial", "tried"]

_TIMEOUT = 600
"""Seconds that the script may take for a few dozen images."""

_SHADE = 1.01 / 255
"""Filters of Pillow and PyTorch round differently: by one shade of a pixel."""

_PROBE = """
import runpy, sys
sys.modules.update(dict.fromkeys(("torch", "torchvision", "secateur")))  # importing one is an error now
script, out, *images = sys.argv[1:]
sys.argv = [script, *images]
space = runpy.run_path(script, run_name="__main__")
import numpy as np
found = {}
for number, path in enumerate(images):
    found[f"{number}.x"] = x = space["prepare"](path)
    made = space["network"](x)
    found |= {f"{number}.{place}": array for place, array in enumerate(made)}
    if "boxes" in space:
        rows = [[label, score, *box] for label, box, score in space["boxes"](made[0][0], made[1][0])]
        found[f"{number}.boxes"] = np.array(rows, np.float32).reshape(-1, 6)
np.savez(out, **found)
"""


@dataclass(frozen=True)
class Trial:
    """What came out of it.

    Attributes:
        images: How many images were tried.
        max_difference: Largest |script − PyTorch| over all outputs, on what the script prepared, divided by the
            largest |PyTorch| of that output (or by 1 where that is smaller).
        snr_db: Signal-to-noise ratio of the same, in decibels; infinite without any difference.
        same_labels: Share of the images whose most probable class is the one that PyTorch says, through the task's own
            preparation; of detectors, of the boxes' classes.
        shades: Largest difference of what the script prepared from what the task did, in shades of 0 to 255.
        said: What the script printed.
    """

    images: int
    max_difference: float
    snr_db: float
    same_labels: float
    shades: float
    said: str


def tried(
    folder: Path,
    model: nn.Module,
    samples: Sequence[tuple[Path, Tensor]],
    std: Sequence[float],
    tolerance: float | None,
) -> Trial:
    """Runs ``run.py`` of a folder on images and compares.

    Args:
        folder: The bundle.
        model: What went into its file.
        samples: Files, and what the task makes of them.
        std: By which the preparation divides, per channel.
        tolerance: Allowed difference; ``None`` for an int8 file, whose signal-to-noise ratio is judged.

    Raises:
        ExportError: The script ends with an error, prepares images otherwise than the task, computes something else
            than the network, or chooses other boxes than Secateur.
    """
    found, said = _ran(folder, [file for file, _ in samples])
    worst, signal, noise, same, labels, shades = 0.0, 0.0, 0.0, 0, 0, 0.0
    divided = torch.tensor(std).view(1, -1, 1, 1)
    for number, (_, wanted) in enumerate(samples):
        prepared = torch.from_numpy(found[f"{number}.x"])
        if prepared.shape != wanted.shape:
            raise ExportError(f"run.py prepares inputs of {tuple(prepared.shape)}, the task of {tuple(wanted.shape)}.")
        shades = max(shades, float(((prepared - wanted) * divided).abs().max()))
        own, through = _outputs(model, prepared), _outputs(model, wanted)
        outputs = [torch.from_numpy(found[f"{number}.{place}"]) for place in range(len(own))]
        for a, b in zip(own, outputs, strict=True):
            worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp(min=1)))
            signal, noise = signal + float(a.square().sum()), noise + float((a - b).square().sum())
        matches = _boxes(found, number, outputs) if f"{number}.boxes" in found else None
        equal = label_matches(through[0], outputs[0]) if matches is None else _best(through[1], outputs[1])
        same, labels = same + int(equal.sum()), labels + equal.numel()
    snr = 10 * np.log10(signal / noise) if noise and signal else float("inf")
    _judge(worst, snr, shades, tolerance)
    return Trial(len(samples), worst, float(snr), same / labels if labels else 1.0, 255 * shades, said)


def _judge(worst: float, snr: float, shades: float, tolerance: float | None) -> None:
    if shades > _SHADE:
        raise ExportError(
            f"run.py prepares images otherwise than the task: pixels differ by up to {255 * shades:.1f} shades of 255. "
            "No folder was made."
        )
    if tolerance is not None and not worst <= tolerance:
        raise ExportError(
            f"run.py differs from the network by {worst:.3g} (allowed: {tolerance:.3g}). No folder was made."
        )
    if tolerance is None and not snr >= LEAST_SNR_DB:
        raise ExportError(
            f"What run.py computes has a signal-to-noise ratio of {snr:.1f} dB against the network (at least "
            f"{LEAST_SNR_DB:g} is asked for). No folder was made. Calibrate on more images like those it will see."
        )


def _ran(folder: Path, images: Sequence[Path]) -> tuple[Mapping[str, NDArray[Any]], str]:
    with tempfile.TemporaryDirectory(prefix="secateur-") as place:
        probe, out = Path(place) / "probe.py", Path(place) / "found.npz"
        probe.write_text(_PROBE)
        command = [sys.executable, str(probe), str(folder / "run.py"), str(out), *(str(p.resolve()) for p in images)]
        environment = {**with_scratch(), "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, cwd=place, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=_TIMEOUT
            )
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"run.py took more than {_TIMEOUT} s for {len(images)} images.") from error
        if done.returncode or not out.is_file():
            last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
            raise ExportError(f"run.py does not run without PyTorch: {last[:300]}. No folder was made.")
        with np.load(out, allow_pickle=False) as found:
            return dict(found), done.stdout


def _outputs(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    with evaluating(model), torch.no_grad():
        return [tensor.float().cpu() for tensor in tensors(model(inputs.to(device)))]


def _best(wanted: Tensor, found: Tensor) -> Tensor:
    """Of the boxes that PyTorch is surer of than not showing them, whether their best class is the same."""
    sure = wanted.amax(2) > 0.25
    return (wanted.argmax(2) == found.argmax(2))[sure]


def _boxes(found: Mapping[str, NDArray[Any]], number: int, outputs: Sequence[Tensor]) -> bool:
    """Checks that the script chooses, of its own outputs, the boxes that Secateur would choose.

    Raises:
        ExportError: It does not.
    """
    (wanted,) = detections(outputs[0], outputs[1])
    rows = np.column_stack([wanted.labels.numpy(), wanted.scores.numpy(), wanted.corners.numpy()])
    made = found[f"{number}.boxes"]
    if made.shape != rows.shape or not np.allclose(_sorted(made), _sorted(rows), atol=1e-4):
        raise ExportError(
            f"run.py chooses other boxes in image {number} ({len(made)}) than Secateur ({len(rows)}). No folder was "
            "made."
        )
    return True


def _sorted(rows: NDArray[Any]) -> NDArray[Any]:
    return rows[np.lexsort(rows.T)]
