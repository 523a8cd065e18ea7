"""A process that holds one network and times calls of it when it is asked to; its parent is :mod:`.children`.

It speaks JSON, one object per line, on standard input and output. It ends when its input ends, so that it never
outlives its parent.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from secateur.core.processes import follow_parent

__all__ = ["main"]


def main() -> None:
    """Answers requests until the input ends: what to open, what to run it on, how many calls to time."""
    follow_parent()  # it may not look at its input for long
    answers = _own_output()
    try:
        for answer in _serve(_requests(sys.stdin)):
            _write(answers, answer)
    except Exception as error:  # the parent raises it again in its own words
        _write(answers, {"error": f"{type(error).__name__}: {error}", "bad_input": _is_bad_input(error)})
        sys.exit(1)


def _own_output() -> IO[str]:
    """Keeps standard output for the answers: what runtimes print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _requests(stream: IO[str]) -> Iterator[dict[str, Any]]:
    for line in stream:
        yield json.loads(line)


def _serve(requests: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    first = next(requests, None)
    if first is None:
        return
    run = _open(first)
    yield {"ready": True}
    for request in requests:
        yield {"seconds": run(int(request["calls"]))}


def _open(what: dict[str, Any]) -> Callable[[int], float]:
    """Opens the network; what the request says is what the process that started this one has decided."""
    import gc

    import torch

    from secateur.core.plugins import use
    from secateur.runtimes import RUNTIMES
    from secateur.timing.calls import program_call

    if what["runtime"] not in RUNTIMES:  # of the user's own
        use(what["home"]["module"], folder=Path(what["home"]["folder"]))
    torch.set_num_threads(what["threads"])
    inputs = torch.load(what["inputs"], weights_only=True)
    program = RUNTIMES[what["runtime"]].open(Path(what["file"]), what["threads"], trust=what["trust"])
    gc.disable()  # as with timeit: a collection would be charged to whoever ran then
    return program_call(program, inputs)


def _write(stream: IO[str], answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


def _is_bad_input(error: Exception) -> bool:
    from secateur.core.errors import SecateurError

    return isinstance(error, SecateurError)


if __name__ == "__main__":
    main()
