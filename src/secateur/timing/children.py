"""Networks in processes of their own, so that no runtime's threads and memory disturb another's."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import nn

from secateur.core.batches import batch_size
from secateur.core.errors import InputError, SecateurError
from secateur.core.processes import with_scratch
from secateur.core.types import ExampleInputs
from secateur.timing.entrants import Entrant
from secateur.timing.rounds import Contender

__all__ = ["Child", "Job", "ModuleFiles", "children"]

_COMMAND = (sys.executable, "-P", "-m", "secateur.timing.child")  # -P: nothing is imported from where one stands
_STOP_S = 2.0
_ANSWER_S = 600.0  # importing a runtime takes seconds, and minutes where many others want the processor


@dataclass(frozen=True)
class Job:
    """What a child opens: a file, the runtime that runs it, the threads inside an operator, whether it is trusted."""

    file: Path
    runtime: str
    threads: int
    trust: bool = False


class ModuleFiles:
    """Files of modules for as long as the block lasts, so that other processes can open them without a pickle."""

    def __init__(self) -> None:
        """Makes no folder before it is needed."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files: dict[tuple[int, int | None], Path | None] = {}

    def __enter__(self) -> ModuleFiles:
        """Nothing to do yet."""
        return self

    def __exit__(self, *details: object) -> None:
        """Removes the files."""
        if self._folder is not None:
            self._folder.cleanup()

    def jobs(self, entrants: Sequence[Entrant], inputs: ExampleInputs, threads: int) -> dict[str, Job] | None:
        """Jobs of the entrants by name; ``None`` when a module cannot be exported (then none shall go apart)."""
        found = {}
        for entrant in entrants:
            network = entrant.network
            file = self._file(network, inputs) if isinstance(network, nn.Module) else network
            if file is None:
                return None
            found[entrant.name] = Job(file, entrant.runtime, threads, file is not network or entrant.trust)
        return found

    def _file(self, model: nn.Module, inputs: ExampleInputs) -> Path | None:
        for key in ((id(model), None), (id(model), batch_size(inputs))):
            if key in self._files:
                return self._files[key]
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="secateur-")
        path = Path(self._folder.name) / f"{len(self._files)}.pt2"
        batch, written = _export(model, inputs, path)
        self._files[id(model), batch] = written
        return written


def _export(model: nn.Module, inputs: ExampleInputs, path: Path) -> tuple[int | None, Path | None]:
    """Writes a module; returns the only batch size that the file takes, and the file (``None`` if it failed)."""
    from secateur.export import export  # it needs this package

    try:
        check = export(model, inputs, path, to="pt2")
    except SecateurError:
        return None, None
    return (None if check.dynamic_batch else batch_size(inputs)), path


class Child:
    """One process that holds one network; leaving the block ends it, whatever it is doing.

    Raises:
        InputError: The runtime refuses the file or the inputs, in its own words.
        SecateurError: The process died (with the last line it wrote) or gave no answer in time.
    """

    def __init__(
        self, name: str, *, timeout_s: float = _ANSWER_S, command: Sequence[str] = _COMMAND, threads: int = 1
    ) -> None:
        """Starts the process; it waits for its job."""
        self.name, self.timeout_s = name, timeout_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            list(command), stdin=pipe, stdout=pipe, stderr=self._errors, env=with_scratch() | limits, bufsize=0
        )
        self._pending = b""

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def __enter__(self) -> Child:
        """Nothing to do: the process runs already."""
        return self

    def __exit__(self, *details: object) -> None:
        """Ends the process: asks first, then insists."""
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._errors.close()

    def send(self, request: Mapping[str, Any]) -> None:
        """Hands over a request without waiting for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except OSError:
            raise self._died() from None

    def answer(self) -> dict[str, Any]:
        """Waits for the answer to the last request."""
        found: dict[str, Any] = json.loads(self._line())
        if "error" in found:
            kind = InputError if found["bad_input"] else SecateurError
            text = found["error"].partition(": ")[2] if found["bad_input"] else found["error"]
            raise kind(f"{self.name} cannot be timed in a process of its own: {text}")
        return found

    def seconds(self, calls: int) -> float:
        """Mean seconds of ``calls`` calls in a row."""
        self.send({"calls": calls})
        return float(self.answer()["seconds"])

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        end = monotonic() + self.timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, end - monotonic())):
                    raise SecateurError(
                        f"The process that times {self.name} gave no answer within {self.timeout_s:g} s; it was ended."
                    )
                part = os.read(self._process.stdout.fileno(), 65536)
                if not part:
                    raise self._died()
                self._pending += part
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _died(self) -> SecateurError:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        last = f"; its last words: {lines[-1]}" if lines else ""
        return SecateurError(f"The process that times {self.name} ended with code {code}{last}")


@contextmanager
def children(
    jobs: Mapping[str, Job], inputs: ExampleInputs, *, timeout_s: float = _ANSWER_S
) -> Iterator[dict[str, Contender]]:
    """Gives every network a fresh process for the length of the block, and a contender that asks it.

    Only one of them computes at a time; the others wait for a request and use no processor.

    Args:
        jobs: What to open, by name.
        inputs: What each network is called with.
        timeout_s: Seconds for an answer, opening the network included.

    Raises:
        InputError: A runtime refuses its file or the inputs.
        SecateurError: A process died or gave no answer in time.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="secateur-")))
        torch.save(inputs, folder / "inputs.pt")
        held = {}
        for name, job in jobs.items():
            child = Child(f"{name} in {job.runtime}", timeout_s=timeout_s, threads=job.threads)
            held[name] = stack.enter_context(child)
            request = {"file": str(job.file.resolve()), "runtime": job.runtime, "threads": job.threads}
            request["trust"] = job.trust
            held[name].send(request | {"inputs": str(folder / "inputs.pt")})
        for child in held.values():  # they opened their networks at the same time
            child.answer()
        yield {name: child.seconds for name, child in held.items()}
