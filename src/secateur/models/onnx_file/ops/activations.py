"""Activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.models.onnx_file.host import Host, beside
from secateur.models.onnx_file.node import OnnxNode
from secateur.models.onnx_file.registry import Refused, reads

__all__: list[str] = []


@reads("Relu")
def _relu(node: OnnxNode, x: Tensor) -> Tensor:
    return torch.relu(x)


@reads("LeakyRelu")
def _leaky(node: OnnxNode, x: Tensor) -> Tensor:
    return F.leaky_relu(x, node.attribute("alpha", 0.01))


@reads("PRelu", numbers=True)
def _prelu(node: OnnxNode, x: Tensor, slope: Any) -> Tensor:
    below: Tensor = beside(slope, x) * torch.relu(-x)
    return torch.relu(x) - below


@reads("ThresholdedRelu")
def _thresholded(node: OnnxNode, x: Tensor) -> Tensor:
    return F.threshold(x, node.attribute("alpha", 1.0), 0.0)


@reads("Sigmoid")
def _sigmoid(node: OnnxNode, x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@reads("HardSigmoid")
def _hard_sigmoid(node: OnnxNode, x: Tensor) -> Tensor:
    return torch.clamp(x * node.attribute("alpha", 0.2) + node.attribute("beta", 0.5), 0.0, 1.0)


@reads("HardSwish")
def _hard_swish(node: OnnxNode, x: Tensor) -> Tensor:
    return F.hardswish(x)


@reads("Tanh")
def _tanh(node: OnnxNode, x: Tensor) -> Tensor:
    return torch.tanh(x)


@reads("Softplus")
def _softplus(node: OnnxNode, x: Tensor) -> Tensor:
    return F.softplus(x)


@reads("Softsign")
def _softsign(node: OnnxNode, x: Tensor) -> Tensor:
    return F.softsign(x)


@reads("Elu")
def _elu(node: OnnxNode, x: Tensor) -> Tensor:
    return F.elu(x, node.attribute("alpha", 1.0))


@reads("Celu")
def _celu(node: OnnxNode, x: Tensor) -> Tensor:
    return F.celu(x, node.attribute("alpha", 1.0))


@reads("Selu")
def _selu(node: OnnxNode, x: Tensor) -> Tensor:
    alpha, gamma = node.attribute("alpha", 1.6732632), node.attribute("gamma", 1.0507009)
    grown: Tensor = F.elu(x, alpha) * gamma
    return grown


@reads("Gelu")
def _gelu(node: OnnxNode, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.attribute("approximate", "none"))


@reads("Mish")
def _mish(node: OnnxNode, x: Tensor) -> Tensor:
    return F.mish(x)


@reads("Softmax", "LogSoftmax")
def _softmax(node: OnnxNode, x: Tensor) -> Tensor:
    function: Callable[..., Tensor] = torch.softmax if node.operator == "Softmax" else torch.log_softmax
    axis = node.attribute("axis", -1 if node.opset >= 13 else 1)
    if node.opset >= 13 or axis in (-1, x.ndim - 1):
        return function(x, axis)
    # Before version 13 everything from the axis on is one dimension.
    return function(x.flatten(axis), -1).reshape(x.shape)


@reads("Clip", numbers=True)
def _clip(node: OnnxNode, x: Any, low: Any = None, high: Any = None) -> Any:
    low = Host(node.attribute("min")) if low is None and "min" in node.attributes else low
    high = Host(node.attribute("max")) if high is None and "max" in node.attributes else high
    ends = [None if end is None else _end(end) for end in (low, high)]
    if isinstance(x, Host):
        return x.of(lambda v: min(max(v, -math.inf if ends[0] is None else ends[0]), ends[1] or math.inf))
    return x if ends == [None, None] else torch.clamp(x, *ends)


def _end(end: Any) -> Any:
    if not isinstance(end, Host):
        raise Refused("clips at values that are computed from the data")
    return end.number
