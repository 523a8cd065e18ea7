"""Steps that hand the result over: export it for a runtime, write the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from torch import nn

from secateur.core.batches import resize
from secateur.core.errors import InputError
from secateur.exports import ExportCheck, export
from secateur.exports.scored import scored
from secateur.recipe.results import collect
from secateur.recipe.schema import Settings
from secateur.recipe.steps.base import STEPS, Context, State, Step, StepResult
from secateur.report import write_report
from secateur.runtimes.formats import writer
from secateur.task import ModelMetadata

__all__ = ["Export", "ExportSettings", "Report", "ReportSettings"]


class ExportSettings(Settings):
    """How the network is exported.

    Attributes:
        to: Formats: ``onnx`` (as ``model.onnx``), ``openvino`` (``model.xml``), ``litert`` (``model.tflite``),
            ``executorch`` (``model.pte``) and ``pt2`` (``model.pt2``).
        int8: Whether to write quantised files too (``model-int8.onnx``), in the formats that have them.
        calibration: Training images to quantise with.
        images: Test samples on which each file is compared with PyTorch.
        scored: Test samples for the metrics of each file in its runtime; 0 for none.
    """

    to: tuple[str, ...] = Field(default=("onnx",), min_length=1)
    int8: bool = False
    calibration: int = Field(default=256, ge=1)
    images: int = Field(default=64, ge=1)
    scored: int = Field(default=10_000, ge=0)

    @field_validator("to")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            writer(name)
        return tuple(dict.fromkeys(names))


class Export(Step[ExportSettings]):
    """Exports the pruned network (the dense one where nothing was pruned), checked and scored on real images."""

    summary = "write the network for its runtime, checked on test images"
    config = ExportSettings
    compared = False

    def check(self, config: ExportSettings) -> None:
        """Asks for the packages of every format, before the run begins."""
        for to in config.to:
            writer(to).need(f"steps.export.to: {to}", int8=config.int8 and writer(to).int8)
        if config.int8 and not any(writer(to).int8 for to in config.to):
            raise InputError(f"steps.export.int8: none of the formats {', '.join(config.to)} has int8 files.")

    def run(self, context: Context, state: State, config: ExportSettings) -> tuple[State, StepResult]:
        """Writes ``model.onnx`` and the like into the run's folder."""
        model = state.network
        checks: list[dict[str, Any]] = []
        summary: dict[str, Any] = {}
        for to, int8 in _files(config):
            check = _exported(context, model, config, to, int8)
            checks.append({**check.to_json(), "path": Path(check.path).name})
            kept = ("bytes", "max_difference", "same_labels", "snr_db")
            name = f"{to}_int8" if int8 else to
            found = {**{key: getattr(check, key) for key in kept}, **check.quality}
            summary |= {f"{name}_{key}": value for key, value in found.items() if value is not None}
        return state, StepResult(summary=summary, report={"exports": checks})


def _files(config: ExportSettings) -> list[tuple[str, bool]]:
    """Formats to write, each with whether it is the int8 file."""
    return [(to, int8) for to in config.to for int8 in (False, True) if not int8 or (config.int8 and writer(to).int8)]


def _exported(context: Context, model: nn.Module, config: ExportSettings, to: str, int8: bool) -> ExportCheck:
    inputs = context.inputs(config.images, split="test")
    file = context.folder / f"model{'-int8' if int8 else ''}{writer(to).suffix}"
    calibration = context.inputs(config.calibration) if int8 else None
    check = export(model, resize(inputs, 1), file, to=to, calibration=calibration, check_inputs=inputs,
                   metadata=ModelMetadata.of(context.task))  # fmt: skip
    return scored(check, context.task, samples=config.scored, like=model)


class ReportSettings(Settings):
    """The report has no settings."""


class Report(Step[ReportSettings]):
    """Writes the report of everything before it."""

    summary = "write report.html"
    config = ReportSettings
    compared = False

    def run(self, context: Context, state: State, config: ReportSettings) -> tuple[State, StepResult]:
        """Writes ``report.html`` into the run's folder."""
        results = collect(context.recipe, context.about, context.folder, context.results)
        write_report(results, context.folder / "report.html")
        return state, StepResult()


STEPS.add("export", Export())
STEPS.add("report", Report())
