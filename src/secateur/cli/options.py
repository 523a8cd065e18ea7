"""Options that several commands have, and the examples below their help."""

from __future__ import annotations

from typing import Annotated

import typer

from secateur.cli import completion
from secateur.core.plugins import use

__all__ = [
    "Data", "Energy", "Epochs", "Ignore", "Latency", "LatencyBatch", "LatencyThreads", "Macs", "Model", "Only",
    "Params", "Pattern", "Quiet", "RatioOf", "Ratios", "Runtime", "Seed", "Sets", "Shape", "Size", "Source", "Std",
    "Tolerance", "Trust", "Use", "Weights", "examples",
]  # fmt: skip


def _use(plugins: list[str] | None) -> list[str]:
    """Imports plug-ins while the options are read, so that what they bring is there before anything else is done."""
    for plugin in plugins or ():
        use(plugin)
    return plugins or []


Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Network name, or the folder of a run or artifact.", autocompletion=completion.models
    ),
]
Weights = Annotated[str | None, typer.Option(help="Weights: a .safetensors or state-dict file.", metavar="FILE")]
Shape = Annotated[str | None, typer.Option(help="Shape of one input, like 3,224,224.", metavar="C,H,W")]
Only = Annotated[list[str] | None, typer.Option(help="Prune only this module or pattern; repeatable.", metavar="NAME")]
Ignore = Annotated[
    list[str] | None, typer.Option(help="Leave this module or pattern alone; repeatable.", metavar="NAME")
]
Ratios = Annotated[
    list[str] | None,
    typer.Option(
        help="Share of the units to remove, in [0, 1); or LAYER=SHARE, repeatable; or a file of `sensitivity`.",
        metavar="SHARE",
    ),
]
RatioOf = Annotated[
    str, typer.Option(help="What --ratio is a share of: units, or with --scope block the params of every block.")
]
Std = Annotated[
    float | None,
    typer.Option(help="Units that score so many standard deviations below their group's mean go.", metavar="NUMBER"),
]
Params = Annotated[str | None, typer.Option(help="Parameters to keep: 0.5, 50%, 1.2M.", metavar="AMOUNT")]
Macs = Annotated[str | None, typer.Option(help="MACs to keep: 0.5, 50%, 1.2G.", metavar="AMOUNT")]
Energy = Annotated[str | None, typer.Option(help="Energy (by a model, in MACs) to keep: 0.5, 50%.", metavar="AMOUNT")]
Size = Annotated[str | None, typer.Option(help="Bytes of the weights to keep: 0.5, 50%, 3MB.", metavar="AMOUNT")]
Latency = Annotated[str | None, typer.Option(help="Time in --runtime to keep: 0.5, 50%, 12ms.", metavar="AMOUNT")]
Runtime = Annotated[
    str | None,
    typer.Option(help="Where --latency is measured: onnxruntime, openvino …", autocompletion=completion.runtimes),
]
LatencyBatch = Annotated[int, typer.Option(help="Samples per call that --latency is of.")]
LatencyThreads = Annotated[int, typer.Option(help="Threads that --latency is of.")]
Tolerance = Annotated[
    float | None,
    typer.Option(
        help="How far below the target needs no note.", show_default="0.01, of a latency 0.05", metavar="SHARE"
    ),
]
Pattern = Annotated[str | None, typer.Argument(metavar="[TEXT]", help="Show only lines with this in them.")]
Model = Annotated[
    str | None,
    typer.Option(help="Network instead of the recipe's.", metavar="NAME", autocompletion=completion.models),
]
Data = Annotated[
    str | None,
    typer.Option(help="Data set: name, name:path, or path.", metavar="DATA", autocompletion=completion.datasets),
]
TaskName = Annotated[
    str | None,
    typer.Option("--task", help="Kind of task: classification, detection …, or package.module:MyTask.",
                 metavar="TASK", autocompletion=completion.tasks),
]  # fmt: skip
Epochs = Annotated[int | None, typer.Option(help="Epochs of every step that trains.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting, like steps.prune.ratio=0.3.", metavar="KEY=VALUE")
]
Trust = Annotated[bool, typer.Option("--trust", help="Run code that the file or folder names: you know its source.")]
Use = Annotated[
    list[str] | None,
    typer.Option(
        "--use", callback=_use, is_eager=True, metavar="MODULE",
        help="Module or .py file that brings criteria, operators, steps … of your own; repeatable.",
    ),
]  # fmt: skip
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def examples(*lines: str) -> str:
    """The text below a command's help, with one example a line."""
    return "\n".join([f"[bold]Example{'s' * (len(lines) > 1)}[/bold]", *(f"  secateur {x}" for x in lines)])
