"""int8 files: what they may be quantised on, and what is too far from the network to be one."""

from __future__ import annotations

from secateur.core.batches import batch_size, tensors
from secateur.core.errors import ExportError, InputError
from secateur.core.types import ExampleInputs
from secateur.runtimes import Runtime
from secateur.runtimes.formats import writers
from secateur.runtimes.parity import Agreement

__all__ = ["LEAST_SNR_DB", "check_calibration", "judge_int8"]

LEAST_SNR_DB = 3.0
"""Below this, half of what the file says is noise: a broken quantisation, not a rough one.

What falls below was calibrated on the wrong images or holds an operator that int8 breaks.
"""


def check_calibration(runtime: Runtime, calibration: ExampleInputs, example_inputs: ExampleInputs) -> None:
    """Checks that the format has int8 files and that the samples fit the network.

    Raises:
        InputError: There is no int8 for the format, or the samples have another shape, none, or NaN in them.
    """
    if not runtime.int8:
        offered = [to for to, one in writers().items() if one.int8]
        raise InputError(
            f"calibration=… asks for int8, and there are no int8 files of the format {runtime.format!r}; there are of "
            f"{', '.join(offered)}."
        )
    wanted = [tuple(tensor.shape[1:]) for tensor in tensors(example_inputs)]
    found = [tuple(tensor.shape[1:]) for tensor in tensors(calibration)]
    if wanted != found:
        raise InputError(
            f"The calibration samples have the shapes {found}, the example inputs {wanted} (both without the batch). "
            "Calibrate on samples prepared as the network gets them."
        )
    if not batch_size(calibration):
        raise InputError("There is no calibration sample; int8 needs some, best a few hundred real ones.")
    if any(tensor.is_floating_point() and not tensor.isfinite().all() for tensor in tensors(calibration)):
        raise InputError("There are NaN or infinite values in the calibration samples; int8 needs finite ones.")


def judge_int8(found: Agreement, to: str) -> None:
    """Refuses a quantised file that has little to do with the network.

    Raises:
        ExportError: Its outputs lie below :data:`LEAST_SNR_DB`.
    """
    if not found.snr_db >= LEAST_SNR_DB:
        raise ExportError(
            f"The int8 {to} file has a signal-to-noise ratio of {found.snr_db:.1f} dB against the network (at least "
            f"{LEAST_SNR_DB:g} is asked for; {found.same_labels:.1%} of the labels agree; largest difference "
            f"{found.max_difference:.3g}, at output {found.output}). No file was written. Calibrate on images like "
            "those it will see, and more of them, or export it in float32."
        )
