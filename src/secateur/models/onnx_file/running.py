"""Files in ONNX Runtime, and how far apart two results are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import InputError, first_line
from secateur.models.onnx_file.proto import message

__all__ = ["SMALLEST", "TOLERANCE", "distance", "results", "watched"]

_SQUASHING = ("Sigmoid", "Softmax", "LogSoftmax", "HardSigmoid", "Tanh", "Clip")

SMALLEST = 0.01
"""Outputs that are all smaller than that are no measure."""

TOLERANCE = 1e-3
"""What two computations in float32 may differ by, relative to the largest value of an output."""


def results(content: bytes, names: Sequence[str], inputs: Sequence[Any]) -> list[Tensor]:
    """Outputs of a file in ONNX Runtime, on one thread.

    Args:
        content: The file.
        names: Its inputs.
        inputs: Their values.

    Raises:
        InputError: ONNX Runtime refuses the file or the inputs; the words are its own.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    fed = {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, inputs, strict=True)}
    try:
        # Falling back would print, and there is nothing to fall back on.
        opened = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
        taken = {entry.name for entry in opened.get_inputs()}
        found = opened.run(None, {name: array for name, array in fed.items() if name in taken})
    except Exception as error:  # onnxruntime raises a class of its own per status code
        raise InputError(f"ONNX Runtime cannot run the file: {first_line(error)}.") from error
    return [torch.as_tensor(array) for array in found]


def watched(content: bytes) -> bytes:
    """The same file with more outputs: what goes into the nodes that make its outputs."""
    import onnx

    model = message(content, "the file")
    outputs = {value.name for value in model.graph.output}
    constant = {tensor.name for tensor in model.graph.initializer} | {value.name for value in model.graph.input}
    constant |= {name for node in model.graph.node if node.op_type == "Constant" for name in node.output}
    last = [node for node in model.graph.node if outputs & set(node.output)]
    for name in dict.fromkeys(node.input[0] for node in last if node.op_type in _SQUASHING):
        if name not in outputs | constant:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    found: bytes = model.SerializeToString()
    return found


def distance(ours: Tensor, theirs: Tensor, least: float = SMALLEST) -> float:
    """Largest difference, relative to the largest value (or ``least``); of whole numbers the share that is not equal.

    ONNX Runtime's sigmoid is good to 1e-7 whatever its value, so that outputs that are all small are no measure.

    >>> distance(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    1.0
    """
    if ours.shape != theirs.shape:
        return float("inf")
    if not ours.numel():
        return 0.0
    a, b = ours.detach().cpu(), theirs.detach().cpu()
    if not a.is_floating_point():
        return float((a.long() != b.long()).double().mean())
    a, b = a.double(), b.double()
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, 0.0, (a - b).abs()).max()
    scale = torch.where(b.isfinite(), b.abs(), 0.0).max()
    return float(difference / max(float(scale), least))
