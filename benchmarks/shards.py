"""A language model of seven billion parameters, cut file by file in little memory.

Run: python benchmarks/shards.py --folder FOLDER [--keep] [--table]

Makes a Llama of random bfloat16 weights in FOLDER (14.5 GB in shards; 25 GB have to be free), in the sizes of
Mistral-7B; cuts half of its MLPs and half of its groups of keys and values by ``l2``, in a process of its own whose
largest memory is what the system says at its end; reads the result's sizes back and deletes both (but for ``--keep``).
What the system keeps of the files in memory is given back to it first, so the cut reads them from the disk. What is
there already is not made again. Writes results/shards.json and the table in docs/transformers.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from records import into_docs, read, table, write
from torch import Tensor

import secateur
from secateur.core.files import new_folder, write_json
from secateur.models import import_torchvision
from secateur.models.safetensors_file import write_safetensors
from secateur.models.weight_files import open_weight_files

DOCS = Path(__file__).resolve().parents[1] / "docs/transformers.md"
SIZES = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 4096}  # fmt: skip
SMALL = {**SIZES, "vocab_size": 1000, "hidden_size": 256, "intermediate_size": 896, "num_hidden_layers": 4}
NEEDED, SHARD = 25e9, 2e9


def network(sizes: dict[str, int]) -> Any:
    """The network on the meta device."""
    import_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**sizes)).to(torch.bfloat16).eval()


def make(model: Any, folder: Path) -> None:
    """Writes shards of random weights, tensor by tensor."""
    state = model.state_dict()
    shards: list[list[str]] = [[]]
    for name, tensor in state.items():
        if shards[-1] and sum(state[n].nbytes for n in shards[-1]) + tensor.nbytes > SHARD:
            shards.append([])
        shards[-1].append(name)
    torch.manual_seed(0)

    def drawn(name: str) -> Tensor:
        shape = state[name].shape
        return torch.ones(shape, dtype=torch.bfloat16) if len(shape) == 1 else (
            torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02))  # fmt: skip

    with new_folder(folder) as new:
        names = {}
        for number, several in enumerate(shards, 1):
            file = f"model-{number:05}-of-{len(shards):05}.safetensors"
            described = [(n, "BF16", tuple(state[n].shape), state[n].nbytes) for n in several]
            write_safetensors(new / file, described, (drawn(n) for n in several), {"format": "pt"})
            names |= dict.fromkeys(several, file)
        total = sum(tensor.nbytes for tensor in state.values())
        write_json(new / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": names})
        model.config.dtype = torch.bfloat16
        model.config.save_pretrained(new)


def forgotten(folder: Path) -> None:
    """Asks the system to keep nothing of the files in memory."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def child(folder: Path, out: Path, sizes: dict[str, int]) -> None:
    """Cuts, and prints what it took as JSON."""
    torch.set_num_threads(1)
    model = network(sizes)
    tokens = {"input_ids": torch.ones(2, 16, dtype=torch.long, device="meta")}
    before, start, busy = _largest_memory(), time.perf_counter(), time.process_time()
    pruned = secateur.prune(
        model, tokens, ratio=0.5, only=["*.mlp.*", "*.self_attn.*"], granularity="whole", criterion="l2",
        weights=folder,
    )  # fmt: skip
    planned, busy_planned = time.perf_counter(), time.process_time()
    secateur.cut_shards(pruned, folder, out)
    found = {
        "params": pruned.before.params,
        "params_left": pruned.after.params,
        "imports_and_network_mb": before,
        "largest_memory_mb": _largest_memory(),
        "plan_s": round(planned - start, 1),
        "cut_s": round(time.perf_counter() - planned, 1),
        "plan_cpu_s": round(busy_planned - busy, 1),
        "cut_cpu_s": round(time.process_time() - busy_planned, 1),
        "load": round(os.getloadavg()[1], 1),
        "lost": list(pruned.lost),
        "verified": pruned.verification is not None,
        "config": {name: getattr(pruned.model.config, name) for name in sizes},
    }
    print(json.dumps(found))


def _largest_memory() -> int:
    """Largest resident memory of this process so far, mapped files included, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 10**6


def measure(name: str, sizes: dict[str, int], folder: Path) -> dict[str, Any]:
    """One network: made if it is not there, cut in a process of its own, read back."""
    source, out = folder / name, folder / f"{name}-cut"
    if not source.exists():
        make(network(sizes), source)
    shutil.rmtree(out, ignore_errors=True)
    forgotten(source)
    command = [sys.executable, __file__, "--folder", str(folder), "--child", name]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    dense, small = (sum(p.stat().st_size for p in place.glob("*.safetensors")) for place in (source, out))
    index = json.loads((out / "model.safetensors.index.json").read_text()) if dense > SHARD else None
    cut = open_weight_files(out)
    held = sum(torch.Size(t.shape).numel() * t.dtype.itemsize for t in cut.tensors.values())
    assert held == found["params_left"] * 2, "the files hold something else than the plan says"
    assert index is None or index["metadata"]["total_size"] == held, "the index says another size"
    assert network(found["config"]).state_dict().keys() == cut.tensors.keys(), "the configuration says other tensors"
    return {"network": name, "bytes": dense, "bytes_left": small, **found}


def tables(rows: list[dict[str, Any]]) -> None:
    """The table in the docs."""
    head = ["parameters", "left", "GB", "left", "largest memory", "plan", "cut", "seconds per GB", "of the processor"]
    body = [
        [f"{r['params'] / 1e9:.2f} billion", f"{r['params_left'] / 1e9:.2f} billion", f"{r['bytes'] / 1e9:.1f}",
         f"{r['bytes_left'] / 1e9:.1f}", f"{r['largest_memory_mb']:,} MB", f"{r['plan_s']:.0f} s",
         f"{r['cut_s']:.0f} s", f"{(r['plan_s'] + r['cut_s']) / r['bytes'] * 1e9:.1f}",
         f"{(r['plan_cpu_s'] + r['cut_cpu_s']) / r['bytes'] * 1e9:.1f}"]
        for r in rows if r["bytes"] > SHARD
    ]  # fmt: skip
    into_docs(DOCS, "shards", table(head, body))


def main() -> None:
    """Makes, cuts, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the networks are written")
    parser.add_argument("--keep", action="store_true", help="leave the files there")
    parser.add_argument("--small", action="store_true", help="a small network instead, to try the script")
    parser.add_argument("--table", action="store_true", help="write the table of the docs and stop")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    networks = {"small": SMALL} if options.small else {"llama-7b": SIZES}
    if options.child:
        sizes = {"small": SMALL, "llama-7b": SIZES}[options.child]
        child(options.folder / options.child, options.folder / f"{options.child}-cut", sizes)
        return
    rows = read("shards")
    for name, sizes in {} if options.table else networks.items():
        if any(row["network"] == name for row in rows):
            continue
        options.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(options.folder).free
        if not options.small and not (options.folder / name).exists() and free < NEEDED:
            parser.error(f"{options.folder} has {free / 1e9:.1f} GB left, and {NEEDED / 1e9:.0f} GB are needed")
        row = measure(name, sizes, options.folder)
        print(row, flush=True)
        if not options.keep:
            shutil.rmtree(options.folder / name)
            shutil.rmtree(options.folder / f"{name}-cut")
        if not options.small:
            rows.append(row)
            write("shards", rows, criterion="l2", ratio=0.5)
    if rows:
        tables(rows)


if __name__ == "__main__":
    main()
