"""OpenVINO on the CPU, and its own files: an ``.xml`` file with the weights in a ``.bin`` file beside it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

import torch
from torch import Tensor

from secateur.core.batches import chunks
from secateur.core.errors import ExportError, InputError
from secateur.core.types import ExampleInputs
from secateur.graph.export import Exported
from secateur.runtimes.base import Program, Runtime, runtime
from secateur.runtimes.files import METADATA, feed_in_order, head
from secateur.runtimes.onnxruntime import is_onnx, write_onnx

__all__ = ["OpenVINO"]


@runtime("openvino")
class OpenVINO(Runtime):
    """Opens OpenVINO's own files and ONNX files, and computes in float32.

    Left alone, OpenVINO silently takes bfloat16 on processors that have it.
    """

    title = "OpenVINO"
    summary = "OpenVINO on the CPU, in float32"
    packages = ("openvino", "onnx", "onnxscript")
    int8_packages = ("nncf",)
    extra = "openvino"
    step = 16
    suffixes = (".xml", ".onnx")
    script = """import openvino

compiled = openvino.compile_model(FILE, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def network(x):
    return list(compiled(x).values())"""

    def from_file(self, file: Path, threads: int) -> Program:
        """Opens a file; what it refuses is worded when inputs are prepared, outside the timed call."""
        if _is_xml(file) and not file.with_suffix(".bin").is_file():
            raise InputError(f"The weights of {str(file)!r} are missing: they lie beside it in {file.stem}.bin.")
        compiled = _compile(str(file), threads)
        request = compiled.create_infer_request()
        names = [port.get_any_name() for port in compiled.inputs]

        def prepare(inputs: ExampleInputs) -> Any:
            import openvino

            arrays = feed_in_order(inputs, names, file)
            held = [openvino.Tensor(array, shared_memory=True) for array in arrays]
            try:
                request.infer(held)  # a refusal is worded once, outside the timed call
            except RuntimeError as error:
                raise InputError(f"OpenVINO cannot run {str(file)!r} on these inputs: {_reason(error)}") from error
            return held

        def outputs(found: Any) -> list[Tensor]:
            return [torch.as_tensor(array) for array in found.values()]

        return Program(prepare, request.infer, outputs)

    def write_metadata(self, file: Path, text: str) -> None:
        """Into the ``rt_info`` of the ``.xml`` file, as an entry that OpenVINO's own ``get_rt_info`` finds."""
        xml = file.read_text(encoding="utf-8").rstrip()
        entry, end = f"<{METADATA} value={quoteattr(text)} />", "</net>"
        body = xml.removesuffix(end).rstrip()
        inner = body.removesuffix("</rt_info>")
        made = f"{inner}\t{entry}\n\t</rt_info>" if inner != body else f"{body}\n\t<rt_info>\n\t\t{entry}\n\t</rt_info>"
        file.write_text(f"{made}\n{end}\n", encoding="utf-8")

    def read_metadata(self, file: Path) -> str | None:
        """From the ``rt_info`` of the network, read without entities and without the weights."""
        return _RtInfo().read(file)

    def recognises(self, file: Path) -> bool:
        """By the XML, or as an ONNX file."""
        return _is_xml(file) or is_onnx(file)

    def parts(self, file: Path) -> tuple[Path, ...]:
        """The file, and the one that holds the weights."""
        return file, file.with_suffix(".bin")

    def convert(self, traced: Exported, file: Path) -> None:
        """Goes by way of ONNX, which keeps names and all sizes but the batch (a direct conversion frees them all)."""
        import openvino

        with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
            between = Path(folder) / "net.onnx"
            write_onnx(traced, between)
            # convert_model does the same as read_model and reports it to its makers.
            _save(openvino.Core().read_model(between), file)

    def quantise(self, dense: Path, calibration: ExampleInputs, batch: int | None, file: Path) -> None:
        """Quantises with NNCF: weights and activations to 8 bits, biases corrected for what that shifts."""
        os.environ.setdefault("NNCF_CI", "1")  # else every call is reported to its makers
        import nncf
        import openvino

        model = openvino.Core().read_model(dense)
        names = [port.get_any_name() for port in model.inputs]
        parts = [feed_in_order(part, names, dense) for part in chunks(calibration, batch or 1, fill=True)]
        samples = [dict(zip(names, arrays, strict=True)) for arrays in parts]
        _save(nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples)), file)


class _RtInfo:
    """Looks for one entry in the ``rt_info`` that lies directly in the network's element."""

    def __init__(self) -> None:
        self.path: list[str] = []
        self.found: str | None = None

    def read(self, file: Path) -> str | None:
        """The entry's value.

        Raises:
            InputError: The file has a document type, which OpenVINO's have not and which can do harm.
        """
        parser = expat.ParserCreate()

        def start(name: str, attributes: dict[str, str]) -> None:
            self.path.append(name)
            if self.path == ["net", "rt_info", METADATA]:
                self.found = attributes.get("value")

        def refuse(*_: object) -> None:
            raise InputError(f"{file} has a document type, which no file of OpenVINO has.")

        parser.StartElementHandler, parser.EndElementHandler = start, lambda name: self.path.pop()
        parser.StartDoctypeDeclHandler = refuse
        with file.open("rb") as opened:
            parser.ParseFile(opened)
        return self.found


def _is_xml(file: Path) -> bool:
    return head(file).startswith((b"<?xml", b"<net"))


def _save(model: Any, path: Path) -> None:
    """Writes an OpenVINO model with its weights as they are: by default they would be halved to float16.

    Raises:
        ExportError: The ending is not ``.xml``, which OpenVINO knows its files by.
    """
    import openvino

    if path.suffix != ".xml":
        raise ExportError(f"OpenVINO knows its files by their ending .xml; got the name {path.name!r}.")
    openvino.save_model(model, path, compress_to_fp16=False)


def _compile(path: str, threads: int) -> Any:
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # several pinned processes would share one core while another idles
    }
    try:
        core = openvino.Core()
        return core.compile_model(core.read_model(path), "CPU", options)
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot open {path!r}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The line of an OpenVINO message that says something: the others name lines of its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    plain = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (plain or lines or [type(error).__name__])[0]
