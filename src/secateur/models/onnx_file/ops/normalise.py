"""Normalisations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.models.onnx_file.node import OnnxNode
from secateur.models.onnx_file.registry import Refused, reads

__all__: list[str] = []


_SCALE = {"scale": "weight", "B": "bias", "bias": "bias", "Scale": "weight"}
_MEANS = {"input_mean": "running_mean", "mean": "running_mean", "input_var": "running_var", "var": "running_var"}


@reads("BatchNormalization", buffers=tuple(_MEANS), names=_SCALE | _MEANS)
def _batch_norm(node: OnnxNode, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """By the file's statistics; in train mode by the batch's own, as the network was trained."""
    if any(node.outputs[1:]) or node.attribute("training_mode", 0):
        raise Refused("normalises by the batch's own statistics (training mode): export the network in eval mode")
    momentum = 1.0 - node.attribute("momentum", 0.9)
    return F.batch_norm(x, mean, var, scale, bias, node.training, momentum, node.attribute("epsilon", 1e-5))


@reads("InstanceNormalization", names=_SCALE)
def _instance_norm(node: OnnxNode, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=node.attribute("epsilon", 1e-5))


@reads("LayerNormalization", names=_SCALE)
def _layer_norm(node: OnnxNode, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    if any(node.outputs[1:]):
        raise Refused("gives the means that it normalises by")
    axis = node.attribute("axis", -1)
    return F.layer_norm(x, list(x.shape[axis:]), scale, bias, node.attribute("epsilon", 1e-5))


@reads("RMSNormalization", names=_SCALE)
def _rms_norm(node: OnnxNode, x: Tensor, scale: Tensor) -> Tensor:
    return F.rms_norm(x, list(x.shape[node.attribute("axis", -1) :]), scale, node.attribute("epsilon", 1e-5))


@reads("GroupNormalization", names=_SCALE)
def _group_norm(node: OnnxNode, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Of version 21: one factor a channel. That of version 18 (one a group) ONNX itself has taken back."""
    return F.group_norm(x, node.attribute("num_groups"), scale, bias, node.attribute("epsilon", 1e-5))


@reads("LRN")
def _lrn(node: OnnxNode, x: Tensor) -> Tensor:
    size = node.attribute("size")
    if size % 2 == 0:
        raise Refused("normalises over an even number of channels")
    alpha, beta, bias = node.attribute("alpha", 1e-4), node.attribute("beta", 0.75), node.attribute("bias", 1.0)
    return F.local_response_norm(x, size, alpha, beta, bias)


@reads("LpNormalization")
def _lp_norm(node: OnnxNode, x: Tensor) -> Tensor:
    power: Any = node.attribute("p", 2)
    return F.normalize(x, float(power), node.attribute("axis", -1), eps=1e-30)


@reads("MeanVarianceNormalization")
def _mean_variance(node: OnnxNode, x: Tensor) -> Tensor:
    axes = list(node.attribute("axes", (0, 2, 3)))
    centred = x - x.mean(axes, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(axes, keepdim=True) + 1e-9)
