"""A detector in ONNX Runtime with its decoding in the graph, dense and pruned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import secateur
from darknet_cases import settled
from secateur.core.errors import InputError
from secateur.data.boxes import letterbox, load_boxes
from secateur.models import create
from secateur.task.detection import DecodedDetector, decode, detections


def detector() -> nn.Module:
    """An untrained network with scores on both sides of a half."""
    network = settled(create("yolov3_tiny", classes=3))
    for scale in network.detections:
        nn.init.uniform_(network.layers[str(scale.layer - 1)].conv.bias, -1, 1)
    return network


@pytest.mark.parametrize("cut", [False, True])
def test_boxes_in_onnx_runtime(shared: Path, tmp_path: Path, cut: bool) -> None:
    runtime = pytest.importorskip("onnxruntime")
    data = load_boxes(shared / "data/bccd-voc.tar", cache_dir=tmp_path / "cache", faulty="mend")
    real = letterbox(data.test[0].pixels, 160)[None].float() / 255
    network = detector()
    small = secateur.prune(network, real, ratio=0.4).model if cut else network
    secateur.export(DecodedDetector(small).eval(), real, tmp_path / "detector.onnx", check_inputs=real)
    session = runtime.InferenceSession(str(tmp_path / "detector.onnx"), providers=["CPUExecutionProvider"])
    (name,) = (i.name for i in session.get_inputs())
    for batch in (real, torch.cat([real, real.flip(3)])):
        found = [torch.from_numpy(np.asarray(v)) for v in session.run(None, {name: batch.numpy()})]
        with torch.no_grad():
            wanted = decode(small(batch), network.detections, (160, 160))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-2)
        for one, other in zip(detections(*found), detections(*wanted), strict=True):
            assert len(other) > 3
            assert one.labels.tolist() == other.labels.tolist()
            torch.testing.assert_close(one.corners, other.corners, rtol=1e-4, atol=1e-2)


def test_a_graph_is_told_its_scales() -> None:
    network, x = detector(), torch.rand(1, 3, 64, 64)
    graph = secateur.prune(network, x, ratio=0.3, backend="graph")
    with pytest.raises(InputError, match=r"scales=dense.detections"):
        DecodedDetector(graph)
    corners, scores = DecodedDetector(graph, network.detections)(x)
    assert corners.shape == (1, 60, 4)
    assert scores.shape == (1, 60, 3)
    with pytest.raises(InputError, match="for Linear"):
        DecodedDetector(nn.Linear(2, 2))
