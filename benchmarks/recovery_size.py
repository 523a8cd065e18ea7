"""Memory and CPU seconds of choice and repair against the size of a language model, without any training.

Run: python benchmarks/recovery_size.py [--only NAME …] [--smollm2 FOLDER --text FILE]

Llamas of random weights (or what a folder holds, by transformers), in bfloat16, whose MLPs lose half of their width: by
reconstruction where it is chosen, by L2 norm elsewhere; then recovery by least squares. Calibration on random tokens
(text where a folder has a tokenizer and --text is given): time and memory do not depend on what they say. Each row in a
process of its own, on one thread; peak memory is of that whole process, network and PyTorch included. Rows that are
there are not done again.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from records import into_docs, read, table, write

from secateur.criteria.least_squares.normal import bytes_of_fit

NAME = "recovery_size"

# hidden, inner, layers, heads, heads of keys, vocabulary; windows and tokens of calibration; ridge (None: chosen)
SIZES: dict[str, tuple[Any, ...]] = {
    "20M": (256, 1024, 8, 4, 2, 32_000, 8, 128, None),
    "135M": (576, 1536, 30, 9, 3, 49_152, 8, 128, None),
    "400M": (1024, 4096, 20, 16, 4, 32_000, 8, 128, 1e-2),
    "1B": (2048, 8192, 16, 32, 8, 32_000, 8, 128, 1e-2),
    "SmolLM2-135M": (576, 1536, 30, 9, 3, 49_152, 64, 256, None),
}
JOBS = [("20M", False), ("135M", False), ("400M", False), ("1B", False), ("20M", True), ("SmolLM2-135M", True)]


def model_of(size: str, folder: str | None) -> Any:
    """A Llama with tied embeddings, eager attention and no cache."""
    import torch

    from secateur.models import import_torchvision

    import_torchvision()  # transformers imports it where it is there
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    options: dict[str, Any] = {"dtype": torch.bfloat16, "attn_implementation": "eager"}
    if folder:
        return AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    hidden, inner, layers, heads, keys, vocabulary = SIZES[size][:6]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=keys, tie_word_embeddings=True, attn_implementation="eager",
        use_cache=False, dtype=torch.bfloat16,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)  # or else it would be made in single precision first
    try:
        return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def windows_of(folder: str | None, text: str | None, shape: tuple[int, int], vocabulary: int) -> Any:
    """Tokens of a text, or random ones."""
    import torch

    if folder and text:
        from transformers import AutoTokenizer

        words = Path(text).read_text(encoding="utf-8")[: 12 * shape[0] * shape[1]]
        found = AutoTokenizer.from_pretrained(folder)(words)["input_ids"][: shape[0] * shape[1]]
        return torch.tensor(found).reshape(shape)
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(0))


def child(size: str, chosen: bool, folder: str | None, text: str | None) -> None:
    """One row, as JSON on the last line."""
    import torch

    import secateur

    torch.set_num_threads(1)
    net = model_of(size, folder)
    net.config.use_cache = False
    windows, tokens, ridge = SIZES[size][6:]
    params = sum(p.numel() for p in net.parameters())
    x = windows_of(folder, text, (windows, tokens), net.config.vocab_size)
    data = {"input_ids": x}
    marks = [(peak(), time.process_time())]
    how: dict[str, Any] = {"criterion": "reconstruction", "data": data} if chosen else {"criterion": "l2"}
    cut = secateur.prune(
        net, {"input_ids": x[:2]}, ratio=0.5, only=["*.gate_proj", "*.up_proj"], scope="local", verify=False, **how
    )
    marks.append((peak(), time.process_time()))
    print(f"{size}: chosen, {marks[-1][0]} MB, {marks[-1][1] - marks[0][1]:.1f} CPU s", file=sys.stderr, flush=True)
    fixed = secateur.recover(cut, data, dense=net, batch_size=4, ridge=ridge)
    marks.append((peak(), time.process_time()))
    print(json.dumps({
        "params": params, "params_after": sum(p.numel() for p in fixed.model.parameters()), "tokens": windows * tokens,
        "ridge": ridge,
        "weights_mb": round(2 * params / 1e6), "start_mb": marks[0][0], "prune_mb": marks[1][0], "peak_mb": marks[2][0],
        "prune_cpu_s": round(marks[1][1] - marks[0][1], 1), "recover_cpu_s": round(marks[2][1] - marks[1][1], 1),
    }))  # fmt: skip


def peak() -> int:
    """Largest resident memory of this process so far, in megabytes."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)


def page(rows: list[dict[str, Any]]) -> str:
    """The table of docs/recovery.md."""
    body = [
        [r["size"], f"{r['params'] / 1e6:,.0f} M", f"{r['params_after'] / 1e6:,.0f} M",
         "reconstruction" if r["chosen"] else "l2",
         f"{r['tokens']:,}", f"{r['weights_mb']:,}", f"{r['start_mb']:,}", f"{r['prune_mb']:,}", f"{r['peak_mb']:,}",
         "chosen" if r["ridge"] is None else r["ridge"], r["prune_cpu_s"], r["recover_cpu_s"]]
        for r in sorted(rows, key=lambda r: (r["chosen"], r["params"]))
    ]  # fmt: skip
    head = ["network", "parameters", "after", "channels", "tokens", "weights, MB", "process before, MB",
            "peak of the choice, MB", "peak in all, MB", "ridge", "choice, CPU s", "repair, CPU s"]  # fmt: skip
    return table(head, body)


LARGER = {"7B": (4096, 11_008, 32, 32, 32, 32_000), "70B": (8192, 28_672, 80, 64, 8, 32_000)}
TOKENS, WAITING = 16_384, 1 << 30


def work(shape: tuple[int, ...], tokens: int, ridge: float | None) -> float:
    """Operations of a repair with half of the MLPs, those in double precision counted twice.

    Forward passes of both networks; Gram and cross moments; eighteen trials of a ridge (a Cholesky factor, and
    solutions and errors of 256 sums of outputs) and the fit.
    """
    total = 2.0 * tokens * (weights(shape, 1.0) + weights(shape, 0.5)) - 4.0 * tokens * shape[0] * shape[5]
    for p, outputs in sites(shape, 0.5):
        total += shape[2] * tokens * (p * p + 2 * p * outputs)
        trials = 18 * (p**3 / 3 + 4 * p * p * min(outputs, 256)) if ridge is None else 0.0
        total += 2 * shape[2] * (trials + p**3 / 3 + 2 * p * p * outputs)
    return total


def sites(shape: tuple[int, ...], kept: float) -> list[tuple[int, int]]:
    """Inputs and outputs of the linear layers of one block."""
    hidden, inner, _, heads, keys, _ = shape
    width, values = int(inner * kept), hidden * keys // heads
    return [(hidden, hidden), (hidden, values), (hidden, values), (hidden, hidden),
            (hidden, width), (hidden, width), (width, hidden)]  # fmt: skip


def weights(shape: tuple[int, ...], kept: float) -> int:
    """Parameters, norms left out."""
    return shape[2] * sum(p * outputs for p, outputs in sites(shape, kept)) + shape[0] * shape[5]


def foretold(rows: list[dict[str, Any]]) -> str:
    """Memory and time of larger networks, by calculation from the largest row whose ridge was chosen."""
    known = [r for r in rows if not r["chosen"] and r["ridge"] is None]
    last = max(known, key=lambda r: r["params"])
    speed = work(SIZES[last["size"]][:6], last["tokens"], None) / last["recover_cpu_s"]
    body = []
    for name, shape in LARGER.items():
        fit = max(bytes_of_fit(1, *site) for site in sites(shape, 0.5))
        dense, cut = 2 * weights(shape, 1.0), 2 * weights(shape, 0.5)
        body.append([name, f"{dense / 1e9:.1f}", f"2 × {cut / 1e9:.1f}", f"{fit / 1e9:.1f}",
                     f"{(dense + 2 * cut + fit + WAITING) / 1e9 + 0.5:.0f}",
                     f"{work(shape, TOKENS, None) / speed / 3600:,.0f}"])  # fmt: skip
    head = ["network", "weights, GB", "pruned and repaired, GB", "largest fit, GB", "memory, GB", "CPU hours"]
    return f"From the row {last['size']} ({speed / 1e9:.1f} billion operations a second):\n\n{table(head, body)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(SIZES), help="sizes")
    parser.add_argument(
        "--smollm2", help="folder of SmolLM2-135M, as transformers loads it; its row is left out without"
    )
    parser.add_argument("--text", help="file with text for it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        size, chosen = arguments.child.split(",")
        child(size, chosen == "True", arguments.smollm2 if size.startswith("Smol") else None, arguments.text)
        return
    rows = read(NAME)
    for size, chosen in JOBS:
        done = any(r["size"] == size and r["chosen"] == chosen for r in rows)
        left_out = (arguments.only and size not in arguments.only) or (
            size.startswith("Smol") and not arguments.smollm2
        )
        if done or left_out:
            continue
        command = [sys.executable, __file__, "--child", f"{size},{chosen}"]
        command += ["--smollm2", arguments.smollm2] * bool(arguments.smollm2) + ["--text", arguments.text] * bool(
            arguments.text
        )
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append({"size": size, "chosen": chosen, **json.loads(out.splitlines()[-1])})
        write(NAME, rows, threads=1)
        print(rows[-1], flush=True)
    docs = Path(__file__).resolve().parents[1] / "docs" / "recovery.md"
    into_docs(docs, "recovery-size", page(rows))
    into_docs(docs, "recovery-larger", foretold(rows))


if __name__ == "__main__":
    main()
