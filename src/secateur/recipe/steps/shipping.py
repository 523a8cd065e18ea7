"""Steps that hand the result over: export it for a runtime, write the report."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from secateur.recipe.schema import Settings
from secateur.recipe.steps.base import STEPS, Context, State, Step, StepResult

__all__ = ["Export", "ExportSettings", "Report", "ReportSettings"]


class ExportSettings(Settings):
    """How the network is exported.

    Attributes:
        formats: ``onnx`` (as ``model.onnx``) and ``pt2`` (as ``model.pt2``).
        images: Test images on which each file is compared with PyTorch.
    """

    formats: tuple[Literal["onnx", "pt2"], ...] = Field(default=("onnx",), min_length=1)
    images: int = Field(default=64, ge=1)


class Export(Step[ExportSettings]):
    """Exports the pruned network (the dense one where nothing was pruned), checked on real images."""

    summary = "write the network for its runtime, checked on test images"
    config = ExportSettings

    def run(self, context: Context, state: State, config: ExportSettings) -> tuple[State, StepResult]:
        """Writes ``model.onnx`` or ``model.pt2`` into the run's folder."""
        from secateur.deploy import export

        model, images = state.models[state.current], context.images(config.images, split="test")
        checks: list[dict[str, Any]] = []
        summary: dict[str, Any] = {}
        for to in config.formats:
            file = f"model.{to}"
            check = export(model, images[:1], context.folder / file, to=to, check_inputs=images)
            checks.append({**check.to_json(), "path": file})
            summary |= {
                f"{to}_bytes": check.bytes,
                f"{to}_max_difference": check.max_difference,
                f"{to}_same_labels": check.same_labels,
            }
        return state, StepResult(summary=summary, report={"exports": checks})


class ReportSettings(Settings):
    """The report has no settings."""


class Report(Step[ReportSettings]):
    """Writes the report of everything before it."""

    summary = "write report.html"
    config = ReportSettings

    def run(self, context: Context, state: State, config: ReportSettings) -> tuple[State, StepResult]:
        """Writes ``report.html`` into the run's folder."""
        from secateur.recipe.results import collect
        from secateur.report import write_report

        results = collect(context.recipe, context.about, context.folder, context.results)
        write_report(results, context.folder / "report.html")
        return state, StepResult()


STEPS.add("export", Export())
STEPS.add("report", Report())
