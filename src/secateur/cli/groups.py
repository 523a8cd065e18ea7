"""Options that several commands have, in groups: one class says them once, and a command takes the class."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from secateur.cli import completion
from secateur.cli.lazy import Lazy
from secateur.cli.options import (
    Data,
    Energy,
    Epochs,
    Ignore,
    Latency,
    LatencyBatch,
    LatencyThreads,
    Macs,
    Model,
    Only,
    Params,
    Quiet,
    RatioOf,
    Ratios,
    Runtime,
    Seed,
    Sets,
    Shape,
    Size,
    Std,
    TaskName,
    Tolerance,
    Trust,
    Use,
    Weights,
)
from secateur.core.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from secateur import jobs
    from secateur.cli.commands import networks, pruning
    from secateur.jobs import Ray
else:
    networks, pruning = Lazy("secateur.cli.commands.networks"), Lazy("secateur.cli.commands.pruning")
    jobs = Lazy("secateur.jobs")

__all__ = [
    "AimOptions",
    "ClockOptions",
    "CutOptions",
    "FileOptions",
    "JobOptions",
    "OpenOptions",
    "RepairOptions",
    "RunOptions",
    "TuneOptions",
    "grouped",
]

F = TypeVar("F", bound=Callable[..., None])


@dataclass(frozen=True)
class OpenOptions:
    """How a network is opened."""

    weights: Weights = None
    input_shape: Shape = None
    trust: Trust = False
    use: Use = None

    def shape(self) -> tuple[int, ...] | None:
        """The shape of one input, where it was given."""
        return networks.parse_shape(self.input_shape)

    def open(self, model: str, *, on_disk: bool = False) -> networks.Opened:
        """The network of that name, or of that folder; what was assumed of its input is said."""
        opened = networks.open_network(
            model, weights=self.weights, shape=self.shape(), trust=self.trust, on_disk=on_disk
        )
        networks.tell_assumed(opened)
        return opened


@dataclass(frozen=True)
class AimOptions:
    """How much goes: a ratio is the share removed, std a threshold, every other amount is what is kept."""

    ratio: Ratios = None
    ratio_of: RatioOf = "units"
    std: Std = None
    params: Params = None
    macs: Macs = None
    energy: Energy = None
    size: Size = None
    latency: Latency = None
    runtime: Runtime = None
    batch: LatencyBatch = 1
    threads: LatencyThreads = 1
    tolerance: Tolerance = None

    def refuse(self, option: str) -> None:
        """Raises :class:`InputError` where anything was said besides an option that says it all."""
        given = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]
        if given:
            raise InputError(f"Give {option} or --{given[0].replace('_', '-')}, not both: each says how much goes.")

    def options(self) -> dict[str, Any]:
        """The arguments of :func:`secateur.prune`: a ratio, a threshold, or a target."""
        where = {"runtime": self.runtime, "batch": self.batch, "threads": self.threads}
        ratio = pruning.parse_aim(self.ratio)
        target = pruning.target(ratio, self.std, params=self.params, macs=self.macs, energy=self.energy, size=self.size,
                                latency=self.latency, where=where)  # fmt: skip
        return {"ratio": ratio, "ratio_of": self.ratio_of, "std": self.std, "target": target,
                "tolerance": self.tolerance}  # fmt: skip


@dataclass(frozen=True)
class CutOptions:
    """How channels are chosen and cut."""

    criterion: Annotated[
        str | None,
        typer.Option(help="What decides, see `secateur criteria`.", show_default="l2; of language models wanda",
                     autocompletion=completion.criteria),
    ] = None  # fmt: skip
    scope: Annotated[
        str | None,
        typer.Option(
            help="Rank within each group (local), block, kind of group (isomorphic), in all (global); uniform."
        ),
    ] = None
    round_to: Annotated[
        str | None, typer.Option(help="Widths become multiples of this; auto: the runtime's step.", metavar="STEP")
    ] = None
    min_units: Annotated[int, typer.Option(help="Every group keeps at least so many units.")] = 1
    only: Only = None
    ignore: Ignore = None
    granularity: Annotated[
        str, typer.Option(help="Of heads and groups: whole, within, auto, or even (pieces stay of one size).")
    ] = "auto"
    backend: Annotated[str, typer.Option(help="auto, module or graph.")] = "auto"
    also: Annotated[
        list[str] | None,
        typer.Option(help="Further method that has to work too, called as forward is; repeat it.", metavar="METHOD"),
    ] = None
    part: Annotated[
        list[str] | None,
        typer.Option(help="Submodule that alone is traced and cut, as it is called; repeat it.", metavar="MODULE"),
    ] = None

    def options(self, opened: networks.Opened) -> dict[str, Any]:
        """The arguments of :func:`secateur.prune`."""
        return {
            **dataclasses.asdict(self),
            "round_to": pruning.parse_step(self.round_to),
            "ignore": self.ignore or (),
            "also": dict.fromkeys(self.also or (), opened.called_with),
        }


@dataclass(frozen=True)
class RunOptions:
    """What runs of recipes take: their network, data, seed and settings."""

    out: Annotated[Path | None, typer.Option(help="New folder for everything that is made.", metavar="FOLDER")] = None
    model: Model = None
    weights: Weights = None
    data: Data = None
    task: TaskName = None
    epochs: Epochs = None
    seed: Seed = None
    set_: Sets = None
    quiet: Quiet = False
    trust: Trust = False
    use: Use = None

    def options(self) -> dict[str, Any]:
        """What takes the place of the recipe's own."""
        return {"model": self.model, "weights": self.weights, "data": self.data, "task": self.task,
                "epochs": self.epochs, "seed": self.seed, "use": self.use or ()}  # fmt: skip


@dataclass(frozen=True)
class JobOptions:
    """Where the jobs of a comparison run."""

    jobs: Annotated[
        int | None,
        typer.Option(help="Processes at a time.", show_default="one per core; with --ray as many as there is room for"),
    ] = None
    ray: Annotated[
        str | None,
        typer.Option(help="Run the jobs on a Ray cluster: auto, or its head's address.", metavar="HOST:PORT"),
    ] = None
    job_cpus: Annotated[
        float | None, typer.Option(help="Cores that each job asks the cluster for.", show_default="1")
    ] = None
    job_gpus: Annotated[
        float | None, typer.Option(help="GPUs that each job asks the cluster for.", show_default="0")
    ] = None

    def executor(self) -> int | Ray | None:
        """The argument ``jobs`` of :func:`secateur.compare`."""
        if self.ray is not None:
            cpus, gpus = 1 if self.job_cpus is None else self.job_cpus, self.job_gpus or 0
            return jobs.Ray(self.ray, cpus=cpus, gpus=gpus, parallel=self.jobs)
        for option, value in (("--job-cpus", self.job_cpus), ("--job-gpus", self.job_gpus)):
            if value is not None:
                raise InputError(f"{option} is what jobs ask a cluster for; give --ray, too.")
        return self.jobs


@dataclass(frozen=True)
class RepairOptions:
    """How a cut is repaired."""

    images: Annotated[int, typer.Option(help="How many training samples, without labels.")] = 512
    method: Annotated[str, typer.Option(help="least_squares, scale, bias, batch_norm or merge.")] = "least_squares"
    match_variance: Annotated[
        str, typer.Option(help="Whether refitted layers get the dense network's variance: no, yes, auto (tries both).")
    ] = "no"
    layers: Annotated[
        str, typer.Option(help="Which layers are fitted: all behind the cut, or next (those that lose inputs).")
    ] = "all"
    memory: Annotated[
        int | None, typer.Option(help="Bytes of memory for fits and what waits between them.", metavar="BYTES")
    ] = None

    def options(self) -> dict[str, Any]:
        """The arguments of :func:`secateur.recover`."""
        known = {"no": False, "yes": True, "auto": "auto"}
        if self.match_variance not in known:
            raise UnknownNameError("value of --match-variance", self.match_variance, known)
        return {"method": self.method, "match_variance": known[self.match_variance], "layers": self.layers,
                "memory_bytes": self.memory}  # fmt: skip


@dataclass(frozen=True)
class TuneOptions:
    """Whether a repaired network is tuned, too."""

    tune: Annotated[
        bool, typer.Option("--tune", help="Then train towards the dense network: gradients, but no labels.")
    ] = False
    tune_seconds: Annotated[
        float | None, typer.Option(help="Stop tuning after this time, with the best so far.", metavar="SECONDS")
    ] = None

    def options(self) -> dict[str, Any] | None:
        """Some arguments of :func:`secateur.tune`; ``None`` where the network is not tuned."""
        if self.tune_seconds is not None and not self.tune:
            raise InputError("--tune-seconds bounds the tuning, which has to be asked for: give --tune, too.")
        return {"seconds": self.tune_seconds} if self.tune else None


@dataclass(frozen=True)
class ClockOptions:
    """How networks are timed."""

    batch: Annotated[list[int] | None, typer.Option(help="Images per call; repeatable.", show_default="1, 32")] = None
    threads: Annotated[int, typer.Option(help="Threads inside an operator.")] = 1
    rounds: Annotated[int, typer.Option(help="Rounds in which each network is timed once.")] = 30
    seconds: Annotated[float, typer.Option(help="Time for all rounds together.")] = 20.0
    processes: Annotated[
        int, typer.Option(help="Fresh processes for each network, one after the other; 0: in this one.", min=0)
    ] = 1
    backward: Annotated[bool, typer.Option(help="Time the backward pass too (PyTorch).")] = True


@dataclass(frozen=True)
class FileOptions:
    """What an exported file is, and what is written with it."""

    to: Annotated[
        str | None, typer.Option(help="The format (`secateur runtimes` lists them); by default what PATH ends in.")
    ] = None
    int8: Annotated[bool, typer.Option("--int8", help="Quantise weights and activations to 8 bits.")] = False
    integer: Annotated[
        bool,
        typer.Option("--integer", help="Quantise all of it, inputs and outputs too, for microcontrollers (litert)."),
    ] = False
    c_array: Annotated[
        bool, typer.Option("--c-array", help="Write it as a C array too (.h and .cc); goes with --integer.")
    ] = False
    bundle: Annotated[
        bool, typer.Option("--bundle", help="PATH becomes a folder with all that runs it: script, labels, README.")
    ] = False
    calibration: Annotated[
        str | None, typer.Option(help="Data set whose training images set the ranges of int8.", metavar="DATA")
    ] = None


def grouped(command: F) -> F:
    """Gives a command one option for every field of the classes above that it takes as arguments.

    >>> @grouped
    ... def show(model: str, how: OpenOptions) -> None:
    ...     print(model, how.weights, how.trust)
    >>> list(inspect.signature(show).parameters)
    ['model', 'weights', 'input_shape', 'trust', 'use']
    >>> show(model="lenet5", weights="lenet5.safetensors", trust=True)
    lenet5 lenet5.safetensors True
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind) and isinstance(kind, type)}
    parameters = list(_spread(inspect.signature(command), hints, groups))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        made = {name: kind(**{f.name: given.pop(f.name) for f in dataclasses.fields(kind) if f.name in given})
                for name, kind in groups.items()}  # fmt: skip
        command(**given, **made)

    run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run  # type: ignore[return-value]


def _spread(
    signature: inspect.Signature, hints: dict[str, Any], groups: dict[str, type]
) -> Iterator[inspect.Parameter]:
    for name, parameter in signature.parameters.items():
        if name not in groups:
            yield parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            continue
        kind = groups[name]
        fields = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default,
                                    annotation=fields[field.name])  # fmt: skip
