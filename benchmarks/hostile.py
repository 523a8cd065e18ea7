"""Bad input by kind, through Python and the command line: how each is answered.

Run: python benchmarks/hostile.py [KIND ...]

Kinds: arguments (every argument of every public function, one at a time, with the values in tests/hostile_values.py),
networks, inputs, plans, names, and commands (the command line, in this process; every tenth in one of its own). An
input is answered by a *clear error* (a SecateurError of one line; from the command line one sentence and status 2, with
nothing half-written left), *accepted rightly* (it works, and is usable in truth), or wrongly by a *traceback* (another
exception) or a *hang* (over 5 s; a process of its own has 60 s more for its start). Writes results/hostile.json,
and the table and every wrong answer into docs/hostile.md.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from records import into_docs, table, write
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import test_arguments as walk

import secateur
from hostile_values import WRONG
from secateur.core.errors import SecateurError

DOCS = Path(__file__).resolve().parents[1] / "docs/hostile.md"
LIMIT_S, START_S = 5.0, 60.0
CLEAR, TAKEN, TRACEBACK, HANG = "clear error", "accepted rightly", "traceback", "hang"
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

Case = tuple[str, Callable[[], Any]]


def answer(run: Callable[[], Any]) -> tuple[str, str, float]:
    """What comes of one input: the outcome, the words, the seconds."""
    start = time.perf_counter()
    try:
        run()
        outcome, words = TAKEN, ""
    except SecateurError as error:
        words = str(error)
        outcome = CLEAR if "\n" not in words.strip() else TRACEBACK
    except Exception as error:
        outcome, words = TRACEBACK, f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - start
    return (outcome if seconds <= LIMIT_S else HANG), words[:300], seconds


# ---------------------------------------------------------------------------------------------------- arguments


def arguments() -> Iterator[Case]:
    walk.PRUNED.save("artifact")
    secateur.compress(walk.net(), "there.sdc")
    for title, (function, valid) in walk.CASES.items():
        names = ["folder", "graph"] if title == "Pruned.save" else walk.parameters(function, valid)
        for name in names:
            for label, wrong in WRONG.items():
                yield (
                    f"{title}({name}={label})",
                    lambda f=function, v=valid, n=name, w=wrong: f(**{k: make() for k, make in v.items()} | {n: w()}),
                )


# ----------------------------------------------------------------------------------------------------- networks


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval()  # fmt: skip


class Odd(nn.Module):
    """The same network with something odd in its forward."""

    def __init__(self, forward: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.net, self.odd = cnn(), forward

    def forward(self, x: Any) -> Any:
        return self.odd(self.net, x)


def _holding(thing: Any) -> nn.Module:
    model = cnn()
    model.thing = thing
    return model


def _filled(name: str, value: float) -> nn.Module:
    model = cnn()
    with torch.no_grad():
        (dict(model.named_parameters()) | dict(model.named_buffers()))[name].flatten()[0:1].fill_(value)
    return model


def _normed(norm: Callable[[nn.Module], Any]) -> nn.Module:
    model = cnn().train()
    norm(model[3])
    model(X)
    return model.eval()


def _qat() -> nn.Module:
    model: Any = cnn().train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    model = torch.ao.quantization.prepare_qat(model)
    model(X)
    return model.eval()  # type: ignore[no-any-return]


def _kept() -> nn.Module:
    model = cnn()
    seen: list[Any] = []
    model[0].register_forward_hook(lambda m, i, o: seen.append(o))
    model.seen = seen
    model(X)
    return model


NETWORKS: dict[str, Callable[[], Any]] = {
    **{
        f"holds {n}": (lambda t=t: _holding(t()))
        for n, t in {
            "a lock": threading.Lock,
            "a queue": queue.Queue,
            "a file": lambda: Path(os.devnull).open(),  # noqa: SIM115
            "an activation": lambda: cnn()(X),
            "a thread": threading.Thread,
            "a generator": lambda: (i for i in range(2)),
            "bytes": io.BytesIO,
            "a module": lambda: torch,
            "itself": lambda: None,
        }.items()
    },
    **{
        f"{name} is {value}": (lambda n=name, v=value: _filled(n, v))
        for name in ("0.weight", "0.bias", "1.running_mean", "1.running_var", "7.weight")
        for value in (float("nan"), float("inf"), float("-inf"), -5.0)
    },
    **{f"in {dtype}": (lambda d=dtype: cnn().to(d)) for dtype in (torch.float16, torch.bfloat16, torch.float64)},
    "scripted": lambda: torch.jit.script(cnn()),
    "traced": lambda: torch.jit.trace(cnn(), X),
    "lazy": lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.Conv2d(4, 2, 1)),
    "quantised": lambda: torch.ao.quantization.quantize_dynamic(cnn(), {nn.Linear}, dtype=torch.qint8),
    "QAT": _qat,
    "hooks": _kept,
    "DataParallel": lambda: nn.DataParallel(cnn()),
    "compiled": lambda: torch.compile(cnn(), backend="eager"),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(cnn()),
    "meta": lambda: cnn().to("meta"),
    "empty": nn.Sequential,
    "without parameters": nn.ReLU,
    "spectral norm": lambda: _normed(nn.utils.parametrizations.spectral_norm),
    "old spectral norm": lambda: _normed(nn.utils.spectral_norm),
    "weight norm": lambda: _normed(nn.utils.parametrizations.weight_norm),
    "a class": lambda: nn.Linear,
    "a dict": lambda: cnn().state_dict(),
    "a list": lambda: [cnn()],
    "exported": lambda: torch.export.export(cnn(), (X,)),
}

FORWARDS: dict[str, Callable[[Any, Any], Any]] = {
    "raises": lambda n, x: 1 / 0,
    "gives None": lambda n, x: None,
    "gives a string": lambda n, x: "x",
    "gives its input": lambda n, x: x,
    "ignores its input": lambda n, x: n(torch.zeros_like(x)),
    "looks at values": lambda n, x: n(x) if float(n(x).sum()) > 0 else -n(x),
    "uses item": lambda n, x: n(x) * n(x).sum().item(),
    "uses NumPy": lambda n, x: n(x) * float(n(x).detach().numpy().sum()),
    "a size by values": lambda n, x: n(x)[n(x) > 0],
    "draws": lambda n, x: F.dropout(n(x), 0.5),
    "gives NaN": lambda n, x: n(x).log(),
    "gives infinity": lambda n, x: n(x) / 0,
    "writes its input": lambda n, x: n(x.mul_(2)),
    "raises KeyboardInterrupt's kin": lambda n, x: {}["x"],
    "prints": lambda n, x: n(x),
    "loops": lambda n, x: sum(n(x) for _ in range(3)),
    "in inference mode": torch.inference_mode()(lambda n, x: n(x)),
    "needs gradients": lambda n, x: torch.autograd.grad(n(x).sum(), x)[0],
}


def networks() -> Iterator[Case]:
    for name, make in NETWORKS.items():
        for title, verb in (
            ("prune", lambda m: secateur.prune(m, X, ratio=0.5)),
            ("count", lambda m: secateur.count(m, X)),
            ("purify", lambda m: secateur.purify(m, X)),
        ):
            yield f"{title}: {name}", lambda make=make, verb=verb: verb(make())
    for name, forward in FORWARDS.items():
        yield f"prune: forward {name}", lambda f=forward: secateur.prune(Odd(f), X, ratio=0.5)


# ------------------------------------------------------------------------------------------------ inputs and plans

INPUTS: dict[str, Callable[[], Any]] = {
    "other channels": lambda: X[:, :2],
    "too small": lambda: X[..., :2],
    "no batch": lambda: X[0],
    "batch of none": lambda: X[:0],
    "whole numbers": lambda: X.long(),
    "double": lambda: X.double(),
    "half": lambda: X.half(),
    "complex": lambda: X.cfloat(),
    "bool": lambda: X > 0,
    "NaN": lambda: X * float("nan"),
    "infinity": lambda: X * float("inf"),
    "zeros": lambda: X * 0,
    "on meta": lambda: X.to("meta"),
    "sparse": lambda: X.to_sparse(),
    "not contiguous": lambda: X.transpose(2, 3),
    "with gradients": lambda: X.clone().requires_grad_(),
    "expanded": lambda: X[:1].expand(4, -1, -1, -1),
    "NumPy": lambda: X.numpy(),
    "a list of lists": lambda: X.tolist(),
    "two": lambda: (X, X),
    "nested": lambda: ((X,),),
    "wrong keyword": lambda: {"y": X},
    "keyword": lambda: {"input": X},
    "empty": lambda: (),
    "empty dict": lambda: {},
    "None": lambda: None,
    "a string": lambda: "x",
    "a number": lambda: 3,
    "a shape": lambda: (2, 3, 8, 8),
    "a generator": lambda: (x for x in X),
    "a batch of pairs": lambda: [(X, torch.zeros(2))],
    "quantised": lambda: torch.quantize_per_tensor(X, 0.1, 0, torch.quint8),
    "huge": lambda: X * 1e38,
    "tiny": lambda: X * 1e-38,
}


def inputs() -> Iterator[Case]:
    verbs: dict[str, Callable[[Any], Any]] = {
        "prune": lambda x: secateur.prune(cnn(), x, ratio=0.5), "analyse": lambda x: secateur.analyse(cnn(), x),
        "reconstruction": lambda x: secateur.prune(cnn(), X, ratio=0.5, criterion="reconstruction", data=x),
        "removable": lambda x: secateur.removable(cnn(), x),
    }  # fmt: skip
    for name, make in INPUTS.items():
        for title, verb in verbs.items():
            yield f"{title}: {name}", lambda make=make, verb=verb: verb(make())


def plans() -> Iterator[Case]:
    good = secateur.prune(cnn(), X, ratio=0.5).plan.to_dict()
    values = {
        "nothing": None,
        "a number": 3,
        "a text": "x",
        "a list": [1],
        "an empty dict": {},
        "a dict": {"0.weight": 1},
        "other dimension": {"0.weight": {"9": [0]}},
        "out of range": {"0.weight": {"0": [0, 99]}},
        "descending": {"0.weight": {"0": [3, 1]}},
        "negative": {"0.weight": {"0": [-1]}},
        "none kept": {"0.weight": {"0": []}},
        "text for numbers": {"0.weight": {"0": ["a"]}},
        "unknown": {"nope": {"0": [0]}},
        "partly": {"0.weight": {"0": [0, 1]}},
        "huge": {"0.weight": {"0": [10**30]}},
    }
    for key in ("format", "keep", "dense_shapes", "provenance", "parts", "removed", "replaced", "indices"):
        for name, value in values.items():
            damaged = {**good, key: value}
            yield f"{key}: {name}", lambda d=damaged: secateur.apply(cnn(), secateur.Plan.from_dict(d), X)
    for text in ("", "x", "[]", "null", "{}", '{"format": 9}', "[" * 50, "\x00", "1e999"):
        yield f"text {text[:12]!r}", lambda t=text: secateur.Plan.from_json(t)
    yield (
        "another network",
        lambda: secateur.apply(nn.Sequential(nn.Linear(3, 2)), secateur.Plan.from_dict(good), torch.zeros(1, 3)),
    )


def names() -> Iterator[Case]:
    for option in ("criterion", "scope", "backend", "granularity", "of", "round_to"):
        for value in ("", "l", "L2", "modul", "graf", "globall", "x" * 300, "l2 ", "../x", "\n"):
            yield f"{option}={value!r}", lambda o=option, v=value: secateur.prune(cnn(), X, ratio=0.5, **{o: v})
    for option in ("only", "ignore", "groups"):
        for value in (["nope"], ["0.weigth"], [""], ["*"], ["["], "0", "7", ["0", "nope"], [], ["?"], ["7*"]):
            yield f"{option}={value!r}", lambda o=option, v=value: secateur.prune(cnn(), X, ratio=0.5, **{o: v})


# ------------------------------------------------------------------------------------------------------ commands


def files() -> dict[str, str]:
    """Bad files in the present folder, by name."""
    Path("empty").touch()
    Path("junk").write_bytes(os.urandom(2000))
    Path("folder").mkdir(exist_ok=True)
    Path("text.yaml").write_text("a: [1, 2\nb")
    Path("list.yaml").write_text("- 1\n- 2\n")
    Path("cut.safetensors").write_bytes(b"\xff" * 7)
    Path("net.onnx").write_bytes(b"\x08\x07")
    return {
        n: n for n in ("empty", "junk", "folder", "text.yaml", "list.yaml", "cut.safetensors", "net.onnx", "missing")
    }


def lines() -> Iterator[list[str]]:
    bad = files()
    for name in bad:
        for command in ("inspect", "layers", "report", "resume"):
            yield [command, name]
        yield ["prune", name, "--ratio", "0.5", "--out", "out"]
        yield ["prune", "lenet300", "--weights", name, "--ratio", "0.5", "--out", "out"]
        yield ["prune", "lenet300", "--criterion", "taylor", "--data", name, "--ratio", "0.5", "--out", "out"]
        yield ["recover", "lenet300", "--data", name, "--ratio", "0.5", "--out", "out"]
        yield ["sparsify", name, "--ratio", "0.5", "--out", "out"]
        yield ["export", name, "out.onnx"]
        yield ["measure", name]
        yield ["run", name, "--out", "out"]
        yield ["compare", name, "--out", "out"]
        yield ["sweep", name, "--ratios", "0.2", "--out", "out"]
    for value in ("-1", "0", "1", "2", "nan", "inf", "x", "", "50%", "1e400", "-0.1"):
        yield ["prune", "lenet300", "--ratio", value, "--out", "out"]
        yield ["prune", "lenet300", "--macs", value, "--out", "out"]
        yield ["prune", "lenet300", "--min-units", value, "--ratio", "0.5", "--out", "out"]
        yield ["prune", "lenet300", "--round-to", value, "--ratio", "0.5", "--out", "out"]
        yield ["prune", "lenet300", "--input-shape", value, "--ratio", "0.5", "--out", "out"]
        yield ["sparsify", "lenet300", "--ratio", value, "--out", "out"]
    for option in ("--criterion", "--scope", "--backend", "--only", "--ignore", "--granularity", "--also", "--nope"):
        yield ["prune", "lenet300", "--ratio", "0.5", option, "nope", "--out", "out"]
    yield from ([c] for c in ("prune", "run", "export", "nope", "compare"))


def told(line: list[str]) -> tuple[int, str]:
    """Status and what was said, in this process."""
    from secateur.cli.main import main

    said = io.StringIO()
    status = 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(line)
        except SystemExit as stopped:
            status = int(stopped.code or 0)
    return status, said.getvalue()


def told_by_a_process(line: list[str]) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-m", "secateur", *line], capture_output=True, text=True, check=False,
                          timeout=LIMIT_S + START_S)  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def commands() -> Iterator[Case]:
    for number, line in enumerate(lines()):

        def run(line: list[str] = line, tell: Any = told_by_a_process if number % 10 == 9 else told) -> None:
            status, said = tell(line)
            left = sorted(str(p) for p in Path("out").rglob("*")) if Path("out").exists() else []
            if status not in (0, 2) or "Traceback" in said or (status == 2 and left):
                raise RuntimeError(f"status {status}, left {left[:3]}: {said[-300:]}")
            if status == 2:
                raise SecateurError(" ".join(said.split()))

        yield f"{'process: ' if number % 10 == 9 else ''}secateur {' '.join(line)}", run


# -------------------------------------------------------------------------------------------------------- tables

KINDS: dict[str, Callable[[], Iterator[Case]]] = {
    "arguments": arguments,
    "networks": networks,
    "inputs": inputs,
    "plans": plans,
    "names": names,
    "commands": commands,
}


def render(rows: list[dict[str, Any]]) -> str:
    body = []
    for kind in KINDS:
        found = Counter(r["outcome"] for r in rows if r["kind"] == kind)
        body.append([kind, sum(found.values()), *(found[o] for o in (CLEAR, TAKEN, TRACEBACK, HANG))])
    body.append(["**all**", *(sum(line[k] for line in body) for k in range(1, 6))])
    wrong = [
        f"- `{r['case'][:120]}`: {r['outcome']}, {r['words'][:160]}" for r in rows if r["outcome"] in (TRACEBACK, HANG)
    ]
    shown = "\n".join(wrong) or "No traceback, no hang."
    return f"{table(['kind', 'inputs', CLEAR, TAKEN, TRACEBACK, HANG], body)}\n\n{shown}"


def main(wanted: list[str]) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for kind in wanted or KINDS:
            for case, run in KINDS[kind]():
                with contextlib.suppress(OSError):
                    subprocess.run(["rm", "-rf", "out"], check=False) if Path("out").exists() else None
                seconds_limit = START_S if case.startswith("process: ") else 0.0
                outcome, words, seconds = answer(run)
                if outcome == HANG and seconds <= LIMIT_S + seconds_limit:
                    outcome = CLEAR if words else TAKEN
                rows.append(
                    {"kind": kind, "case": case, "outcome": outcome, "seconds": round(seconds, 3), "words": words}
                )
                if outcome in (TRACEBACK, HANG):
                    print(rows[-1], flush=True)
            print(kind, Counter(r["outcome"] for r in rows if r["kind"] == kind), flush=True)
    if not wanted:
        write("hostile", rows, threads=1)
        into_docs(DOCS, "hostile", render(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
