"""The command line: argument parsing only; `secateur.cli.commands` does the work.

Heavy modules are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from secateur.cli import completion
from secateur.cli import export as cli_export
from secateur.cli import lists as cli_lists
from secateur.cli import runs as cli_runs
from secateur.cli import sparse as cli_sparse
from secateur.cli.options import (
    Energy,
    Ignore,
    Latency,
    LatencyBatch,
    LatencyThreads,
    Macs,
    Only,
    Params,
    Ratio,
    Runtime,
    Shape,
    Size,
    Source,
    Trust,
    Use,
    Weights,
    examples,
)
from secateur.core.errors import SecateurError
from secateur.core.plugins import PluginWarning
from secateur.core.processes import TERMINATED, Terminated, end_on_sigterm, forks_follow, imports_from_nowhere

__all__ = ["app", "main"]

app = typer.Typer(
    name="secateur",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Makes trained PyTorch networks smaller and faster by pruning: exact, verified, measured.",
    epilog="Start here: [bold]secateur run transfer-channel --out runs/first[/bold]",
)


def _version(wanted: bool) -> None:
    if wanted:
        from secateur import __version__

        print(f"secateur {__version__}")
        raise typer.Exit


@app.callback()
def _everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error (works anywhere).")] = False,
) -> None:
    """Options of every command, dealt with before it runs."""


cli_runs.register(app)


@app.command(
    epilog=examples(
        "prune resnet56 --weights r56.safetensors --ratio 0.5 --out small",
        "prune torchvision:resnet50 --macs 50% --scope global --out small",
        "prune torchvision:resnet18 --latency 0.5 --runtime onnxruntime --out small",
        "prune resnet56 --weights r56.pt --ratio 0.5 --criterion taylor --data cifar10:cifar.tar --out small",
        "prune mine.nets:build --params 1.2M --input-shape 1,28,28 --out small",
    )
)
def prune(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Network name, or the folder of a run.", autocompletion=completion.models),
    ],
    out: Annotated[Path, typer.Option(help="New folder for the artifact.", metavar="FOLDER")],
    weights: Weights = None,
    ratio: Ratio = None,
    params: Params = None,
    macs: Macs = None,
    energy: Energy = None,
    size: Size = None,
    latency: Latency = None,
    runtime: Runtime = None,
    batch: LatencyBatch = 1,
    threads: LatencyThreads = 1,
    criterion: Annotated[
        str, typer.Option(help="What decides, see `secateur criteria`.", autocompletion=completion.criteria)
    ] = "l2",
    scope: Annotated[
        str | None, typer.Option(help="Rank within each group (local), block, or over all (global).")
    ] = None,
    round_to: Annotated[
        str | None, typer.Option(help="Widths become multiples of this; auto: the runtime's step.", metavar="STEP")
    ] = None,
    min_units: Annotated[int, typer.Option(help="Every group keeps at least so many units.")] = 1,
    only: Only = None,
    ignore: Ignore = None,
    granularity: Annotated[str, typer.Option(help="Of heads and groups: whole, within, or auto.")] = "auto",
    backend: Annotated[str, typer.Option(help="auto, module or graph.")] = "auto",
    also: Annotated[
        list[str] | None,
        typer.Option(help="Further method that has to work too, called as forward is; repeat it.", metavar="METHOD"),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data set for criteria that need images.", metavar="DATA")] = None,
    images: Annotated[int, typer.Option(help="How many of its training images.")] = 256,
    input_shape: Shape = None,
    trust: Trust = False,
    use: Use = None,
) -> None:
    """Prunes a network without training, verifies the cut, and saves it."""
    from secateur.cli.commands import pruning
    from secateur.cli.commands.networks import open_network, parse_shape

    where = {"runtime": runtime, "batch": batch, "threads": threads}
    goal = pruning.target(ratio, params=params, macs=macs, energy=energy, size=size, latency=latency, where=where)
    opened = open_network(model, weights=weights, shape=parse_shape(input_shape), trust=trust)
    options: dict[str, Any] = {"criterion": criterion, "ratio": ratio, "target": goal, "scope": scope}
    options |= {
        "round_to": pruning.parse_step(round_to),
        "min_units": min_units,
        "only": only,
        "ignore": ignore or (),
        "granularity": granularity,
        "backend": backend,
        "also": dict.fromkeys(also or (), opened.inputs),
        "data": pruning.calibration(opened, data, images),
    }
    pruning.prune(opened, out, **options)


@app.command(
    epilog=examples(
        "recover resnet56 --weights r56.safetensors --data cifar10:cifar.tar.gz --macs 50% --out small",
        "recover resnet56 --weights r56.safetensors --data cifar10:c.tar --latency 50% --runtime openvino --out fast",
        "recover runs/first --ratio 0.5 --criterion l2 --method batch_norm --out small",
    )
)
def recover(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Network name, or the folder of a run.", autocompletion=completion.models),
    ],
    out: Annotated[Path, typer.Option(help="New folder for the artifact.", metavar="FOLDER")],
    weights: Weights = None,
    data: Annotated[str | None, typer.Option(help="Data set, if MODEL is not a run.", metavar="DATA")] = None,
    images: Annotated[int, typer.Option(help="How many training images, without labels.")] = 512,
    ratio: Ratio = None,
    params: Params = None,
    macs: Macs = None,
    energy: Energy = None,
    size: Size = None,
    latency: Latency = None,
    runtime: Runtime = None,
    batch: LatencyBatch = 1,
    threads: LatencyThreads = 1,
    criterion: Annotated[
        str | None,
        typer.Option(help="What decides; by default what a repair makes good.", autocompletion=completion.criteria),
    ] = None,
    method: Annotated[str, typer.Option(help="least_squares, scale, bias, batch_norm or merge.")] = "least_squares",
    only: Only = None,
    ignore: Ignore = None,
    input_shape: Shape = None,
    trust: Trust = False,
    use: Use = None,
) -> None:
    """Prunes a network and repairs it without labels, gradients or training."""
    from secateur.cli.commands import pruning, recovering
    from secateur.cli.commands.networks import open_network, parse_shape

    where = {"runtime": runtime, "batch": batch, "threads": threads}
    goal = pruning.target(ratio, params=params, macs=macs, energy=energy, size=size, latency=latency, where=where)
    opened = open_network(model, weights=weights, shape=parse_shape(input_shape), trust=trust)
    recovering.recover(opened, out, data=data, images=images, method=method, criterion=criterion, ratio=ratio,
                       target=goal, only=only, ignore=ignore or ())  # fmt: skip


cli_sparse.register(app)


@app.command(epilog=examples("inspect resnet56", "inspect torchvision:mobilenet_v3_large --ignore features.0"))
def inspect(
    model: Source,
    weights: Weights = None,
    only: Only = None,
    ignore: Ignore = None,
    input_shape: Shape = None,
    trust: Trust = False,
    use: Use = None,
) -> None:
    """Shows what of a network can be cut together, its size, and what is pinned and why."""
    from secateur.cli.commands import pruning
    from secateur.cli.commands.networks import open_network, parse_shape

    opened = open_network(model, weights=weights, shape=parse_shape(input_shape), trust=trust)
    pruning.inspect(opened, only=only, ignore=ignore or ())


@app.command(
    epilog=examples(
        "measure runs/first",
        "measure runs/first --int8 --runtimes onnxruntime --runtimes litert",
        "measure resnet56 resnet20 --batch 1 --batch 64 --threads 2 --runtimes pytorch",
        "measure dense.onnx pruned.onnx pruned.tflite --input-shape 3,32,32",
    )
)
def measure(
    networks: Annotated[
        list[str],
        typer.Argument(metavar="A [B]…", help="Network names, folders of runs or artifacts, network files."),
    ],
    weights: Weights = None,
    runtimes: Annotated[
        list[str] | None,
        typer.Option(help="Where; repeatable. [default: every installed one but compiled]", metavar="NAME"),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data set: accuracy and loss in every runtime too.")] = None,
    images: Annotated[int | None, typer.Option(help="Test images for that. [default: all]", min=1)] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantised too, where a runtime has it.")] = False,
    batch: Annotated[list[int] | None, typer.Option(help="Images per call; repeatable. [default: 1, 32]")] = None,
    threads: Annotated[int, typer.Option(help="Threads inside an operator.")] = 1,
    rounds: Annotated[int, typer.Option(help="Rounds in which each network is timed once.")] = 30,
    seconds: Annotated[float, typer.Option(help="Time for all rounds together.")] = 20.0,
    processes: Annotated[
        int, typer.Option(help="Fresh processes for each network, one after the other; 0: in this one.", min=0)
    ] = 1,
    backward: Annotated[bool, typer.Option(help="Time the backward pass too (PyTorch).")] = True,
    input_shape: Shape = None,
    trust: Trust = False,
    use: Use = None,
) -> None:
    """Compares networks in every runtime: size, memory, accuracy, and time measured in turn."""
    from secateur.cli.commands import measuring
    from secateur.cli.commands.networks import parse_shape

    plan = measuring.Plan(measuring.choose(runtimes or ()), tuple(batch or (1, 32)), threads, rounds, seconds,
                          backward=backward, processes=processes, int8=int8, images=images)  # fmt: skip
    measuring.measure(networks, plan, weights=weights, shape=parse_shape(input_shape), data=data, trust=trust)


cli_export.register(app)
cli_lists.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; exits with 0, 2 for bad input, 130 after Ctrl-C and 143 after SIGTERM."""
    end_on_sigterm()
    forks_follow()
    with imports_from_nowhere(), warnings.catch_warnings():
        warnings.showwarning = partial(_warn, warnings.showwarning)
        _run(list(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> NoReturn:
    debug = "--debug" in arguments
    if not debug:  # PyTorch's words about its own future say nothing to whoever runs a command
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
    try:
        code = app(args=[a for a in arguments if a != "--debug"], prog_name="secateur", standalone_mode=False)
    except SecateurError as error:
        if debug:
            raise
        sys.exit(_fail(str(error)))
    except BrokenPipeError:  # the reader of a pipe, like `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort) as stop:
        terminated = isinstance(stop, Terminated) or isinstance(stop.__cause__, Terminated)
        sys.exit(TERMINATED if terminated else 130)
    except Exception as error:
        words = getattr(error, "format_message", None)  # a mistake in the arguments, as Typer words it
        if words is None or debug:
            raise
        context = getattr(error, "ctx", None)
        command = getattr(context, "command_path", None) or "secateur"
        text = words().strip()
        if text:  # there is none without any command, when the help has been shown
            _fail(f"{text}{'' if text[-1] in '.?' else '.'} See `{command} --help`.")
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _warn(others: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:
    """A plug-in that is left out is told in one line; it is nobody's line of code that is wrong."""
    if not issubclass(category, PluginWarning):
        return others(message, category, *where)
    from secateur.cli.commands.show import error

    error(str(message), label="Note")


def _fail(message: str) -> int:
    from secateur.cli.commands.show import error

    error(message)
    return 2
