"""int8 files: what they may be quantised on, and what is too far from the network to be one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.batches import batch_size, chunks, tensors
from secateur.core.checks import run
from secateur.core.errors import ExportError, InputError
from secateur.core.modes import evaluating
from secateur.core.types import ExampleInputs
from secateur.runtimes import Runtime
from secateur.runtimes.formats import writers
from secateur.runtimes.parity import Agreement

__all__ = ["LEAST_SNR_DB", "check_calibration", "check_integer", "integer_part", "judge_int8"]

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


def check_integer(runtime: Runtime, calibration: ExampleInputs | None) -> None:
    """Checks that the format has full-integer files, and that there is something to quantise with.

    Raises:
        InputError: It has none, or there are no calibration samples.
    """
    if not runtime.integer:
        offered = [to for to, one in writers().items() if one.integer]
        raise InputError(
            f"integer=True asks for a file that computes in integers alone, which the format {runtime.format!r} has "
            f"none of; there are of {', '.join(offered)}."
        )
    if calibration is None:
        raise InputError(
            "integer=True needs samples that say how large the numbers get: calibration=… (--calibration DATA), a few "
            "hundred real ones."
        )


def integer_part(model: nn.Module, file: Path, runtime: Runtime, inputs: ExampleInputs) -> dict[str, Any]:
    """Checks that a file has no floating-point operator, and measures its error in quantisation steps.

    Returns:
        Fields of :class:`~secateur.exports.ExportCheck`.

    Raises:
        ExportError: An operator stayed in floating point; the message names it.
    """
    facts = runtime.integer_facts(file)
    if facts.floats:
        raise ExportError(
            f"integer=True: the operators {', '.join(sorted(set(facts.floats)))} cannot be quantised by "
            f"{runtime.title} and would compute in floating point. No file was written. Express them with others, or "
            "leave integer out."
        )
    program, apart = runtime.open(file, torch.get_num_threads(), trust=True), [torch.zeros(0)]
    with evaluating(model), torch.no_grad():
        for part in chunks(inputs, facts.inputs[0].shape[0], fill=True):
            wanted, found = tensors(run(model, part, "check_inputs")), program(part)
            ends = zip(wanted, found, facts.outputs, strict=True)
            apart += [(a.cpu() - b).abs().flatten() / end.scale for a, b, end in ends if end.scale]
    steps = torch.cat(apart)
    return {
        "integer": True,
        "mean_steps": float(steps.mean()),
        "largest_steps": float(steps.max()),
        "activations": facts.activations,
    }


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
