"""Products of matrices, and what is a product in disguise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.models.onnx_file.node import OnnxNode
from secateur.models.onnx_file.registry import reads

__all__: list[str] = []


@reads("MatMul", names={"B": "weight"})
def _matmul(node: OnnxNode, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@reads("Gemm", names={"B": "weight", "C": "bias"})
def _gemm(node: OnnxNode, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """α·A'·B' + β·C."""
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    a = a.t() if node.attribute("transA", 0) else a
    plain = alpha == 1.0 and (c is None or (beta == 1.0 and c.ndim == 1))
    if plain and node.attribute("transB", 0) and (c is None or c.shape[0] == b.shape[0]):
        return F.linear(a, b, c)
    b = b.t() if node.attribute("transB", 0) else b
    product = a @ b if alpha == 1.0 else (a @ b) * alpha
    if c is None or beta == 0.0:
        return product
    return product + (c if beta == 1.0 else c * beta)


@reads("Einsum")
def _einsum(node: OnnxNode, *operands: Tensor) -> Tensor:
    return torch.einsum(node.attribute("equation"), *operands)
