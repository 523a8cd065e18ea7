"""Entrants in processes of their own, so that no runtime's threads and memory disturb another's."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import nn

from secateur.core.batches import batch_size
from secateur.core.errors import InputError, SecateurError
from secateur.core.plugins import top_folder
from secateur.core.processes import with_scratch
from secateur.core.types import ExampleInputs
from secateur.runtimes import RUNTIMES
from secateur.runtimes.formats import source_of
from secateur.runtimes.writing import write_checked
from secateur.timing.entrants import Entrant
from secateur.timing.rounds import TimedCall

__all__ = ["Child", "Home", "ModuleFiles", "children", "home_of"]

_COMMAND = (sys.executable, "-P", "-m", "secateur.timing.child")  # -P: nothing is imported from where one stands
_STOP_S = 2.0
_ANSWER_S = 600.0  # importing a runtime takes seconds, and minutes where many others want the processor


class ModuleFiles:
    """Files of modules for as long as the block lasts, so that other processes can open them without a pickle."""

    def __init__(self) -> None:
        """Makes no folder before it is needed."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files: dict[tuple[int, str, int | None], Path | None] = {}

    def __enter__(self) -> ModuleFiles:
        """Nothing to do yet."""
        return self

    def __exit__(self, *details: object) -> None:
        """Removes the files."""
        if self._folder is not None:
            self._folder.cleanup()

    def of(self, entrants: Sequence[Entrant], inputs: ExampleInputs) -> tuple[Entrant, ...] | None:
        """The entrants with files in place of modules.

        Returns:
            ``None`` when a module cannot be written, or its runtime cannot be had in another process (one that was
            defined in a script or a notebook): then none shall go apart.
        """
        found = []
        for entrant in entrants:
            if home_of(entrant.runtime) is None:
                return None
            if isinstance(entrant.network, nn.Module):
                file = self._file(entrant.network, entrant.runtime, inputs)
                if file is None:
                    return None
                entrant = replace(entrant, network=file, trust=True)
            found.append(entrant)
        return tuple(found)

    def _file(self, model: nn.Module, runtime: str, inputs: ExampleInputs) -> Path | None:
        writer = source_of(RUNTIMES[runtime])
        if writer is None:
            return None
        for key in ((id(model), writer.name, None), (id(model), writer.name, batch_size(inputs))):
            if key in self._files:
                return self._files[key]
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="secateur-")
        path: Path | None = Path(self._folder.name) / f"{len(self._files)}{writer.suffix}"
        try:
            batch = write_checked(model, inputs, Path(str(path)), writer)
        except SecateurError:
            batch, path = None, None
        self._files[id(model), writer.name, batch] = path
        return path


@dataclass(frozen=True)
class Home:
    """Where the class of a runtime is from: what another process imports to have it too.

    Attributes:
        module: Its name.
        folder: Where imports find it; empty for a part of Secateur.
    """

    module: str
    folder: str = ""


def home_of(runtime: str) -> Home | None:
    """Where a runtime is from; ``None`` for one that no other process can import."""
    name = type(RUNTIMES[runtime]).__module__
    if name.partition(".")[0] == __name__.partition(".")[0]:
        return Home(name)
    module = sys.modules.get(name)
    if name == "__main__" or module is None or getattr(module, "__file__", None) is None:
        return None
    return Home(name, str(top_folder(module)))


class Child:
    """One process that holds one network; leaving the block ends it, whatever it is doing.

    Raises:
        InputError: The runtime refuses the file or the inputs, in its own words.
        SecateurError: The process died (with the last line it wrote) or gave no answer in time.
    """

    def __init__(
        self, name: str, *, timeout_s: float = _ANSWER_S, command: Sequence[str] = _COMMAND, threads: int = 1
    ) -> None:
        """Starts the process; it waits for a request."""
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
    entrants: Sequence[Entrant], inputs: ExampleInputs, threads: int = 1, *, timeout_s: float = _ANSWER_S
) -> Iterator[dict[str, TimedCall]]:
    """Gives every entrant a fresh process for the length of the block, and by its label a timed call that asks it.

    Only one of them computes at a time; the others wait for a request and use no processor.

    Args:
        entrants: Files, and what runs them.
        inputs: What each network is called with.
        threads: Threads inside an operator.
        timeout_s: Seconds for an answer, opening the network included.

    Raises:
        InputError: A runtime refuses its file or the inputs.
        SecateurError: A process died or gave no answer in time.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="secateur-")))
        torch.save(inputs, folder / "inputs.pt")
        held = {}
        for entrant in entrants:
            child = Child(f"{entrant.label} in {entrant.runtime}", timeout_s=timeout_s, threads=threads)
            held[entrant.label] = stack.enter_context(child)
            child.send(_request(entrant, threads) | {"inputs": str(folder / "inputs.pt")})
        for child in held.values():  # they opened their networks at the same time
            child.answer()
        yield {label: child.seconds for label, child in held.items()}


def _request(entrant: Entrant, threads: int) -> dict[str, Any]:
    home = home_of(entrant.runtime)
    if isinstance(entrant.network, nn.Module) or home is None:
        raise InputError(f"{entrant.label} in {entrant.runtime} cannot be timed in a process of its own.")
    file = str(entrant.network.resolve())
    return {"file": file, "runtime": entrant.runtime, "threads": threads, "trust": entrant.trust, "home": asdict(home)}
