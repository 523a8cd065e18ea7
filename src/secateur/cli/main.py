"""The command line: argument parsing only; `secateur.cli.commands` does the work.

What does the work is imported when it is first used, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import secateur
from secateur.cli import completion
from secateur.cli import experts as cli_experts
from secateur.cli import export as cli_export
from secateur.cli import inspection as cli_inspection
from secateur.cli import lists as cli_lists
from secateur.cli import runs as cli_runs
from secateur.cli import searching as cli_searching
from secateur.cli import sensitivity as cli_sensitivity
from secateur.cli import shards as cli_shards
from secateur.cli import sparse as cli_sparse
from secateur.cli import vocabulary as cli_vocabulary
from secateur.cli.groups import AimOptions, ClockOptions, CutOptions, OpenOptions, RepairOptions, TuneOptions, grouped
from secateur.cli.lazy import Lazy
from secateur.cli.options import Ignore, Only, Source, TaskName, examples
from secateur.core.errors import SecateurError, SecateurWarning
from secateur.core.processes import TERMINATED, Terminated, end_on_sigterm, forks_follow, imports_from_nowhere

if TYPE_CHECKING:
    from secateur.cli.commands import layers as removing
    from secateur.cli.commands import measuring, pruning, recovering, shards, show
else:
    removing = Lazy("secateur.cli.commands.layers")
    measuring = Lazy("secateur.cli.commands.measuring")
    pruning = Lazy("secateur.cli.commands.pruning")
    recovering = Lazy("secateur.cli.commands.recovering")
    shards = Lazy("secateur.cli.commands.shards")
    show = Lazy("secateur.cli.commands.show")

__all__ = ["app", "main"]

app = typer.Typer(
    name="secateur",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Makes trained PyTorch networks smaller and faster by pruning: exact, verified, measured.",
    epilog="Start here: [bold]secateur run quickstart --out runs/first[/bold]",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"secateur {secateur.__version__}")
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
        "prune torchvision:resnet50 --ratio 'layer1.*=0.25' --ratio 'layer4.*=0.5' --out small",
        "prune torchvision:resnet18 --latency 0.5 --runtime onnxruntime --out small",
        "prune resnet56 --weights r56.pt --ratio 0.5 --criterion taylor --data cifar10:cifar.tar --out small",
        "prune hf:models/llama --data text:corpus.txt --ratio 0.2 --only '*.mlp.*' --out small",
        "prune hf:models/llama --on-disk --ratio 0.5 --only '*.mlp.*' --out small",
        "prune mine.nets:build --params 1.2M --input-shape 1,28,28 --out small",
    )
)
@grouped
def prune(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Network name, or the folder of a run.", autocompletion=completion.models),
    ],
    out: Annotated[Path, typer.Option(help="New folder for the artifact.", metavar="FOLDER")],
    aim: AimOptions,
    cut: CutOptions,
    opening: OpenOptions,
    data: Annotated[str | None, typer.Option(help="Data set for criteria that need images.", metavar="DATA")] = None,
    task: TaskName = None,
    images: Annotated[int, typer.Option(help="How many of its training samples.")] = 256,
    on_disk: Annotated[
        bool, typer.Option("--on-disk", help="Of hf:FOLDER: score and cut its files tensor by tensor, unproven.")
    ] = False,
) -> None:
    """Prunes a network without training, verifies the cut, and saves it."""
    amount = aim.options()
    opened = opening.open(model, on_disk=on_disk)
    if on_disk:
        shards.prune(opened, out, data=data, **amount, **cut.options(opened))
        return
    batches, loss = pruning.calibration(opened, data, images, task)
    pruning.prune(opened, out, data=batches, loss=loss, **amount, **cut.options(opened))


@app.command(
    epilog=examples(
        "recover resnet56 --weights r56.safetensors --data cifar10:cifar.tar.gz --macs 50% --out small",
        "recover resnet56 --weights r56.safetensors --data cifar10:c.tar --latency 50% --runtime openvino --out fast",
        "recover runs/first --ratio 0.5 --criterion l2 --method batch_norm --out small",
        "recover resnet56 --weights r56.safetensors --data cifar10:c.tar --macs 50% --tune --out small",
        "recover resnet56 --weights r56.safetensors --data cifar10:c.tar --metric -0.5 --out small",
    )
)
@grouped
def recover(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Network name, or the folder of a run.", autocompletion=completion.models),
    ],
    out: Annotated[Path, typer.Option(help="New folder for the artifact.", metavar="FOLDER")],
    aim: AimOptions,
    opening: OpenOptions,
    repair: RepairOptions,
    tuning: TuneOptions,
    data: Annotated[str | None, typer.Option(help="Data set, if MODEL is not a run.", metavar="DATA")] = None,
    task: TaskName = None,
    criterion: Annotated[
        str,
        typer.Option(
            help="What decides, see `secateur criteria`; of several, with commas, the best is kept.",
            autocompletion=completion.criteria,
        ),
    ] = "reconstruction",
    only: Only = None,
    ignore: Ignore = None,
    metric: Annotated[
        float | None,
        typer.Option(help="Instead of an amount: what may be lost of the task's metric, -0.5 for half a point."),
    ] = None,
) -> None:
    """Prunes a network and repairs it without labels; with --tune by gradients, too, else without any training."""
    if metric is not None:
        aim.refuse("--metric")
    recovering.recover(opening.open(model), out, data=data, task=task, images=repair.images,
                       repairing=repair.options(), tuning=tuning.options(), criterion=criterion,
                       aim=aim.options() if metric is None else {}, metric=metric, only=only,
                       ignore=ignore or ())  # fmt: skip


cli_sensitivity.register(app)
cli_searching.register(app)
cli_sparse.register(app)


@app.command(
    epilog=examples(
        "layers resnet56 --weights r56.safetensors",
        "layers resnet56 --count 9 --out shorter",
        "layers hf:models/llama --data text:corpus.txt --whole --count 4 --out shorter",
    )
)
@grouped
def layers(
    model: Source,
    opening: OpenOptions,
    out: Annotated[Path | None, typer.Option(help="Remove, into this new folder.", metavar="FOLDER")] = None,
    count: Annotated[int | None, typer.Option(help="How many branches go.", min=1)] = None,
    ratio: Annotated[float | None, typer.Option(help="Share of the branches that goes.")] = None,
    names: Annotated[list[str] | None, typer.Option(help="Branches that go; repeatable.", metavar="PATTERN")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Branches that stay; repeatable.", metavar="PATTERN")] = None,
    criterion: Annotated[
        str, typer.Option(help="auto, bn_scale, l1, l2, random, output_change (with --data) or one of your own.")
    ] = "auto",
    data: Annotated[
        str | None, typer.Option(help="Data set: layers go by the change of the output on it.", metavar="DATA")
    ] = None,
    task: TaskName = None,
    backend: Annotated[str, typer.Option(help="Surgery back end: auto, module or graph.")] = "auto",
    whole: Annotated[bool, typer.Option(help="Layers of a list (a transformer's) with all their branches.")] = False,
) -> None:
    """Lists a network's residual branches, or removes whole ones (their skips stay)."""
    amount = {"count": count, "ratio": ratio, "names": names or None}
    removing.layers(opening.open(model), out, criterion=criterion, amount=amount, ignore=ignore or (), backend=backend,
                    whole=whole, data=data, task=task)  # fmt: skip


cli_shards.register(app)
cli_experts.register(app)
cli_vocabulary.register(app)
cli_inspection.register(app)


@app.command(
    epilog=examples(
        "measure runs/first",
        "measure runs/first --int8 --runtimes onnxruntime --runtimes litert",
        "measure resnet56 resnet20 --batch 1 --batch 64 --threads 2 --runtimes pytorch",
        "measure dense.onnx pruned.onnx pruned.tflite --input-shape 3,32,32",
    )
)
@grouped
def measure(
    networks: Annotated[
        list[str],
        typer.Argument(metavar="A [B]…", help="Network names, folders of runs or artifacts, network files."),
    ],
    opening: OpenOptions,
    clock: ClockOptions,
    runtimes: Annotated[
        list[str] | None,
        typer.Option(help="Where; repeatable.", show_default="every installed one but compiled", metavar="NAME"),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data set: metrics and loss in every runtime too.")] = None,
    task: TaskName = None,
    images: Annotated[int | None, typer.Option(help="Test samples for that.", show_default="all", min=1)] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantised too, where a runtime has it.")] = False,
) -> None:
    """Compares networks in every runtime: size, memory, metrics, and time measured in turn."""
    wanted = measuring.MeasureRequest(
        measuring.choose(runtimes or ()), tuple(clock.batch or (1, 32)), clock.threads, clock.rounds, clock.seconds,
        backward=clock.backward, processes=clock.processes, int8=int8, images=images,
    )  # fmt: skip
    measuring.measure(networks, wanted, weights=opening.weights, shape=opening.shape(), data=data, task_name=task,
                      trust=opening.trust)  # fmt: skip


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
    """A plug-in that is left out, say, is told in one line; it is nobody's line of code that is wrong."""
    if not issubclass(category, SecateurWarning):
        return others(message, category, *where)
    show.error(str(message), label="Note")


def _fail(message: str) -> int:
    show.error(message)
    return 2
