"""`secateur measure`: several networks side by side, in every runtime, timed in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from secateur.cli.commands import measured
from secateur.cli.commands.networks import Opened, labelled, open_network, open_run, tell_assumed, tell_random
from secateur.cli.commands.show import console
from secateur.core.batches import resize
from secateur.core.errors import InputError, SecateurError, first_line
from secateur.core.progress import working
from secateur.cost.counts import count
from secateur.exports.entered import entered
from secateur.runtimes import RUNTIMES, Runtime, installed
from secateur.runtimes.formats import file_bytes, readers
from secateur.timing import Entrant, Measurement, Timing, latency, measurement
from secateur.timing.entrants import compared_with, stem
from secateur.timing.quality import scores
from secateur.timing.results import results

if TYPE_CHECKING:
    from secateur.task import Task
    from secateur.train import Evaluation

__all__ = ["MeasureRequest", "choose", "measure"]

_CALIBRATION = 256


@dataclass(frozen=True)
class MeasureRequest:
    """How `measure` measures.

    Attributes:
        runtimes: Where; installed ones.
        batches: Images per call.
        threads: Threads inside an operator.
        rounds: Rounds at most.
        budget_s: Seconds for all rounds.
        backward: Whether to time the backward pass in PyTorch.
        processes: Fresh processes per network and setting; 0 for this one.
        int8: Whether to write int8 files too.
        images: Test samples for the metrics; ``None`` for all.
    """

    runtimes: tuple[str, ...]
    batches: tuple[int, ...] = (1, 32)
    threads: int = 1
    rounds: int = 30
    budget_s: float = 20.0
    backward: bool = True
    processes: int = 1
    int8: bool = False
    images: int | None = None


def choose(names: Sequence[str]) -> tuple[str, ...]:
    """Runtimes by name; without names every installed one but those that are slow to start (``compiled``).

    Raises:
        UnknownNameError: With the nearest names.
        InputError: A named one is not installed; with the command that installs it.
    """
    for name in names:
        RUNTIMES[name].need(f"The runtime {name!r}")
    here = (RUNTIMES[name] for name in RUNTIMES)
    found = names or [one.name for one in here if installed(one) and not one.slow_to_start]
    return tuple(sorted(dict.fromkeys(found), key=lambda name: (name != "pytorch", name)))


def measure(
    sources: Sequence[str],
    plan: MeasureRequest,
    *,
    weights: str | None = None,
    shape: tuple[int, ...] | None = None,
    data: str | None = None,
    task_name: str | None = None,
    trust: bool = False,
) -> None:
    """Measures what ``sources`` name and prints it; the first one is what the others are compared with."""
    files = [source for source in sources if _readers(source)]
    networks = _open(sources, weights, shape, trust)
    for network in networks:
        tell_assumed(network)
    inputs = networks[0].inputs if networks else _inputs_of(shape)
    _check(networks, files, inputs)
    task = labelled(networks, data, inputs, task=task_name)
    if plan.int8 and task is None:
        raise InputError("--int8 needs images to calibrate on: --data DATA (or the folder of a run, which has them).")
    show, reference = console(), _reference(sources, networks)
    numbers = {n.name: measurement(n.model, n.inputs, count(n.model, n.inputs)) for n in networks}
    show.print(measured.sizes(numbers, {file: file_bytes(file) for file in files}))
    show.print()
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder, working("Writing networks", after_s=0) as now:
        found = []
        for one in _ready(networks, files, inputs, plan, Path(folder), task, trust):
            found.append(one)
            now(f"Writing networks: {one.label} for {one.runtime} is done")
        now(f"Timing {len({(one.label, one.runtime) for one in found})} networks in shuffled rounds")
        timings = _timings(found, inputs, plan, reference)
        now("Scoring networks")
        like = networks[0].model if networks else None
        wanted: dict[str, Any] = {"samples": plan.images, "threads": plan.threads, "like": like}
        scored = scores(found, task, **wanted) if task is not None else {}
    _tell(found, timings, plan, reference=reference, numbers=numbers, scored=scored, task=task)
    if scored:
        tell_random(networks)


def _tell(
    found: Sequence[Entrant],
    timings: Sequence[Timing],
    plan: MeasureRequest,
    *,
    reference: str,
    numbers: Mapping[str, Measurement],
    scored: Mapping[tuple[str, str], Evaluation],
    task: Task | None,
) -> None:
    params = {name: m.params for name, m in numbers.items() if m.params is not None}
    lines = results(found, timings, reference=reference, params=params, evaluations=scored)
    show = console()
    if any(line.difference is not None or line.quality or line.problem for line in lines):
        show.print(measured.runs(lines, *((task.metrics, task.unit) if task is not None else ())))
        show.print()
    if timings:
        show.print(measured.times(timings, reference))
        show.print()
    failed = [line for line in lines if line.problem]
    measured.foot(timings, [line.runtime for line in lines], plan.threads, failed, reference)


def _open(sources: Sequence[str], weights: str | None, shape: tuple[int, ...] | None, trust: bool) -> list[Opened]:
    """Opens all but the files; a run's folder alone stands for its dense and its pruned network."""
    if len(sources) == 1 and (Path(sources[0]) / "recipe.yaml").is_file():
        return open_run(Path(sources[0]), trust=trust)
    names = [source for source in sources if not _readers(source)]
    return [open_network(n, weights=None if Path(n).is_dir() else weights, shape=shape, trust=trust) for n in names]


def _inputs_of(shape: tuple[int, ...] | None) -> Tensor:
    import torch

    if shape is None:
        raise InputError("--input-shape is needed to run a file alone: the shape of one sample, like 3,32,32.")
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


def _check(networks: Sequence[Opened], files: Sequence[str], inputs: Tensor) -> None:
    names = [*(network.name for network in networks), *files]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} is given twice.")
    for file in files:
        if not Path(file).is_file():
            raise InputError(f"There is no file {file!r}.")
    for network in networks:
        if network.inputs.shape != inputs.shape:
            first, other = (tuple(t.shape[1:]) for t in (inputs, network.inputs))
            raise InputError(
                f"{network.name} takes samples of shape {other} and {networks[0].name} of {first}; "
                "to compare them give both the same with --input-shape."
            )


def _reference(sources: Sequence[str], networks: Sequence[Opened]) -> str:
    return stem(sources[0]) if _readers(sources[0]) else networks[0].name


def _ready(
    networks: Sequence[Opened],
    files: Sequence[str],
    inputs: Tensor,
    plan: MeasureRequest,
    folder: Path,
    task: Task | None,
    trust: bool,
) -> Iterator[Entrant]:
    """Writes the networks for every runtime, and asks the files which batch sizes they take."""
    calibration = task.sample(_CALIBRATION) if plan.int8 and task is not None else None
    checked = inputs if task is None else task.sample(32, split="test")
    models = {network.name: network.model for network in networks}
    made = entered(models, checked, folder, runtimes=plan.runtimes, batches=plan.batches, calibration=calibration)
    for one in made:
        yield _tried(one, inputs, plan) if RUNTIMES[one.runtime].slow_to_start else one
    for file in files:
        yield from _given(file, _readers(file)[0], inputs, plan, trust)


def _readers(source: str) -> tuple[Runtime, ...]:
    """What opens a network file; nothing for a source that is none."""
    return readers(Path(source).suffix)


def _given(file: str, runtime: Runtime, inputs: Tensor, plan: MeasureRequest, trust: bool) -> list[Entrant]:
    """A file as entrants for the batch sizes that it takes."""
    program = runtime.open(Path(file), plan.threads, trust=trust)
    found, refusal = [], ""
    for batch in sorted({1, *plan.batches}):
        try:
            program.prepare(resize(inputs, batch))
            found.append(Entrant(stem(file), Path(file), runtime.name, batch, trust, bytes=file_bytes(file)))
        except SecateurError as error:
            refusal = refusal or str(error)
    if not found:
        raise InputError(refusal)
    return found


def _tried(entrant: Entrant, inputs: Tensor, plan: MeasureRequest) -> Entrant:
    """The entrant, or the reason why it does not run: a compiler may be missing."""
    runtime = RUNTIMES[entrant.runtime]
    try:
        runtime.open(entrant.network, plan.threads, trust=entrant.trust)(resize(inputs, 1))
    except Exception as error:  # the compiler's own classes are private
        return replace(entrant, problem=f"It fails in {runtime.title}: {first_line(error)}")
    return entrant


def _timings(
    found: Sequence[Entrant], inputs: Tensor, plan: MeasureRequest, reference: str
) -> tuple[Timing, ...]:  # fmt: skip
    entrants = [one for one in found if not one.problem and one.batch in (None, *plan.batches)]
    if not entrants:
        return ()
    options: dict[str, Any] = {"batches": plan.batches, "threads": plan.threads, "rounds": plan.rounds}
    options |= {"budget_s": plan.budget_s, "backward": plan.backward, "processes": plan.processes}
    return latency(compared_with(reference, entrants), inputs, **options)
