"""The callback in Lightning itself, in runs of some steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.callbacks.lightning import PruneCallback
from secateur.core.errors import InputError

L = pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.filterwarnings("ignore")


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


class Whole(L.LightningModule):  # type: ignore[misc]
    """A module that is the network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = layers()
        self.example_input_array = torch.randn(2, 6)
        self.losses: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)}


class Part(Whole):
    """A module with a network and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.example_input_array = None

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.scale


class Noting(L.Callback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.widths: list[int] = []
        self.steps: list[set[float]] = []
        self.lr: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        (optimizer,) = trainer.optimizers
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in pl_module.parameters()}
        self.widths.append(pl_module.net[0].out_features)
        self.steps.append({float(s["step"]) for s in optimizer.state.values()})
        self.lr.append(optimizer.param_groups[0]["lr"])


def batches() -> Any:
    torch.manual_seed(1)
    x, y = torch.randn(16, 6), torch.arange(16) % 3
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)


def trainer(folder: Path, epochs: int, *callbacks: Any, **options: Any) -> Any:
    return L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=list(callbacks), **options,
    )  # fmt: skip


def test_it_prunes_the_module_between_epochs(tmp_path: Path) -> None:
    module, noting = Whole(), Noting()
    callback = PruneCallback({1: {"ratio": 0.5}, 2: {"ratio": 0.75, "of": "dense"}})
    trainer(tmp_path, 3, noting, callback).fit(module, batches())
    assert noting.widths == [16, 16, 8, 8, 4, 4]
    assert noting.steps == [{1.0}, {2.0}, {3.0}, {4.0}, {5.0}, {6.0}], "no entry of the optimizer began anew"
    assert noting.lr == [0.01, 0.005, 0.005, 0.0025, 0.0025, 0.00125], "Lightning steps it with an epoch's last batch"
    assert callback.pruned is not None
    assert callback.pruned.model is module
    assert callback.pruned.verification.proven


def test_it_prunes_a_network_in_the_module(tmp_path: Path) -> None:
    module, noting = Part(), Noting()
    net = module.net
    callback = PruneCallback({1: {"ratio": 0.5}}, network="net", example_inputs=torch.randn(2, 6))
    trainer(tmp_path, 2, noting, callback).fit(module, batches())
    assert noting.widths == [16, 16, 8, 8]
    assert module.net is net
    assert not torch.equal(module.scale, torch.ones(1))


@pytest.mark.parametrize("kind", [Whole, Part])
def test_a_checkpoint_is_gone_on_with(kind: type[Whole], tmp_path: Path) -> None:
    def callback() -> PruneCallback:
        options = {} if kind is Whole else {"network": "net", "example_inputs": torch.randn(2, 6)}
        return PruneCallback({1: {"ratio": 0.5}, 3: {"ratio": 0.5}}, **options)

    whole = kind()
    trainer(tmp_path / "whole", 4, callback()).fit(whole, batches())
    stopped = trainer(tmp_path / "first", 2, callback())
    stopped.fit(kind(), batches())
    stopped.save_checkpoint(tmp_path / "two.ckpt")
    fresh, noting, second = kind(), Noting(), callback()
    trainer(tmp_path / "second", 4, noting, second).fit(fresh, batches(), ckpt_path=str(tmp_path / "two.ckpt"))
    assert noting.widths == [8, 8, 4, 4]
    assert "on_load_checkpoint" not in fresh.__dict__
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), fresh.parameters(), strict=True))
    assert second.pruned is not None
    assert len(second.pruned.plan.parts) == 2


def test_a_checkpoint_of_just_before_a_cut_is_cut_when_it_is_gone_on_with(tmp_path: Path) -> None:
    class Validated(Whole):
        def validation_step(self, batch: Any, index: int) -> None:
            self.log("v", torch.tensor(0.0))

    def run(module: Any, epochs: int, *more: Any, **options: Any) -> None:
        callback = PruneCallback({1: {"ratio": 0.5}})
        trainer(tmp_path, epochs, callback, *more).fit(module, batches(), batches(), **options)

    saving = L.callbacks.ModelCheckpoint(tmp_path, "{epoch}", monitor="v", save_top_k=-1, save_on_train_epoch_end=False)
    run(Validated(), 1, saving)
    noting, module = Noting(), Validated()
    run(module, 2, noting, ckpt_path=str(tmp_path / "epoch=0.ckpt"))
    assert noting.widths == [8, 8]
    assert noting.steps == [{3.0}, {4.0}]


def test_bad_input_is_told_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"network='nett': Part has no such module\. It has net"):
        trainer(tmp_path, 1, PruneCallback({1: {"ratio": 0.5}}, network="nett")).fit(Part(), batches())
    with pytest.raises(InputError, match="Part has no example_input_array: hand over"):
        trainer(tmp_path, 1, PruneCallback({1: {"ratio": 0.5}}, network="net")).fit(Part(), batches())


def test_the_library_is_asked_for_when_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.runtimes.packages.missing", lambda packages: list(packages))
    with pytest.raises(InputError, match=r'The callback for Lightning needs lightning: pip install .*"secateur\[light'):
        PruneCallback({1: {"ratio": 0.5}})
