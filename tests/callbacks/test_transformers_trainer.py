"""The callback in the Trainer of transformers itself, in runs of some steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.callbacks import gradually
from secateur.callbacks.transformers import PruneCallback
from secateur.core.errors import InputError

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")


def bert() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, num_labels=2,
        max_position_embeddings=16,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


INPUTS = {"input_ids": torch.arange(16).reshape(2, 8), "attention_mask": torch.ones(2, 8, dtype=torch.long)}


def data(count: int = 16) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(0, 50, (8,), generator=generator), "attention_mask": torch.ones(8, dtype=int),
             "labels": n % 2} for n in range(count)]  # fmt: skip


def trainer(net: Any, folder: Path, *callbacks: Any, **options: Any) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=8, use_cpu=True, report_to=[], disable_tqdm=True,
        **{"num_train_epochs": 3, "save_strategy": "epoch", **options},
    )  # fmt: skip
    return transformers.Trainer(model=net, args=arguments, train_dataset=data(), callbacks=list(callbacks))


class Noting(transformers.TrainerCallback):  # type: ignore[misc]
    """Sizes and states after every epoch, and whether the optimizer holds the network's parameters."""

    def __init__(self) -> None:
        self.params: list[int] = []
        self.states: list[set[float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = kwargs["optimizer"].optimizer
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in kwargs["model"].parameters()}
        self.params.append(sum(p.numel() for p in kwargs["model"].parameters()))
        self.states.append({float(s["step"]) for s in optimizer.state.values()})


def test_it_prunes_between_epochs_and_the_checkpoints_load(tmp_path: Path) -> None:
    net, noting = bert(), Noting()
    dense = sum(p.numel() for p in net.parameters())
    callback = PruneCallback(gradually([1, 2], schedule="linear", ratio=0.5), INPUTS, only="*intermediate*")
    run = trainer(net, tmp_path, noting, callback)
    run.train()
    small = sum(p.numel() for p in net.parameters())
    assert run.model is net
    assert len(set(noting.params)) == 3
    assert noting.params[0] == dense > noting.params[2] > noting.params[4] == small
    assert noting.states == [{1.0}, {2.0}, {3.0}, {4.0}, {5.0}, {6.0}], "no entry of the optimizer began anew"
    assert callback.pruned is not None
    assert callback.pruned.model is net
    assert net.config.intermediate_size == 16
    last = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-6").eval()
    with torch.no_grad():
        assert torch.equal(last(**INPUTS).logits, net.eval()(**INPUTS).logits)


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    def callback() -> PruneCallback:
        return PruneCallback({1: {"ratio": 0.5}}, INPUTS, only="*intermediate*")

    whole = bert()
    trainer(whole, tmp_path / "whole", callback()).train()
    fresh = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "whole/checkpoint-4")
    trainer(fresh, tmp_path / "again", callback()).train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-4"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), fresh.parameters(), strict=True))


def test_what_would_end_badly_is_told_at_the_start(tmp_path: Path) -> None:
    options = {"eval_strategy": "epoch", "load_best_model_at_end": True}
    run = trainer(bert(), tmp_path, PruneCallback({1: {"ratio": 0.5}}, INPUTS))
    run.args.load_best_model_at_end = options["load_best_model_at_end"]
    with pytest.raises(InputError, match="load_best_model_at_end=True would load weights of another size"):
        run.train()
    with pytest.raises(InputError, match="wants one of ratio, macs"):
        PruneCallback({1: {}}, INPUTS)


def test_without_its_library_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.runtimes.packages.missing", lambda packages: list(packages))
    with pytest.raises(InputError, match=r'needs transformers, accelerate: pip install .*"secateur\[trainer\]"'):
        PruneCallback({1: {"ratio": 0.5}}, INPUTS)
