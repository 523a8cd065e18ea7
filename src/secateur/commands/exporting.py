"""`secateur export` and `secateur report`: what is handed on."""

from __future__ import annotations

from pathlib import Path

from secateur.commands.networks import Opened
from secateur.commands.show import say, size
from secateur.recipe.files import disk_errors

__all__ = ["export", "report"]


def export(opened: Opened, path: Path, *, to: str | None) -> None:
    """Exports a network to ``path`` and says how well the file agrees with it."""
    from secateur.deploy import export as write

    to = to or path.suffix.removeprefix(".") or "onnx"
    with disk_errors(path.parent):
        check = write(
            opened.model,
            opened.inputs[:1],
            path,
            to=to,
            check_inputs=opened.inputs if opened.images is None else opened.images,
        )
    kind = "test images" if opened.images is not None else "random inputs"
    batch = "any batch size" if check.dynamic_batch else f"batch size {check.batches[0]} only"
    agreement = f"{100 * check.same_labels:.0f} % same labels, largest difference {check.max_difference:.1e}"
    say(
        f"{path}: {size(check.bytes)}, {check.format} for {batch}. "
        f"Checked with {check.runtime} on {check.images} {kind}: {agreement}."
    )


def report(folder: Path, picture: Path | None) -> None:
    """Writes ``report.html`` from the finished steps of a run, and a picture if one is asked for."""
    from secateur.recipe.files import write_json
    from secateur.recipe.folder import RunFolder
    from secateur.recipe.results import collect
    from secateur.report import picture as draw
    from secateur.report import write_report

    run = RunFolder.open(folder)
    results = collect(run.recipe(), run.about, folder, run.done())
    with disk_errors(folder):
        write_json(folder / "results.json", results)
        written = [write_report(results, folder / "report.html")]
        written += [draw(results, picture)] if picture is not None else []
    say(", ".join(map(str, written)))
