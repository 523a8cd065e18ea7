"""Artifacts reload anywhere, and damage is noticed."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur
from secateur.core.errors import InputError, PlanError, SecateurError, WeightsError
from secateur.core.plan import Plan
from secateur.core.reading import file_digest
from secateur.cut.artifact import folder
from zoo import ZOO, settle


@pytest.mark.parametrize("name", ["plain", "zero_padded_shortcut", "tied_weights", "chunk_and_cat", "group_norm"])
def test_round_trip_with_and_without_the_users_class(name: str, tmp_path: Path) -> None:
    model, x = ZOO[name]()
    pruned = secateur.prune(settle(model), x, ratio=0.5)
    with torch.no_grad():
        for p in pruned.model.parameters():
            p.add_(0.01)  # weights move after the cut, in fine-tuning
    expected = pruned.model.eval()(x)
    pruned.save(tmp_path / "a", graph=True)
    fresh, _ = ZOO[name]()
    for loaded in (secateur.load(tmp_path / "a").model, secateur.load(tmp_path / "a", model=fresh).model):
        assert torch.equal(loaded(x), expected)
        assert not loaded.training
        assert loaded.train()(x).requires_grad
        assert set(loaded.state_dict()) == set(pruned.model.state_dict())


def test_the_graph_trains_after_loading_and_batch_norm_follows_the_mode(tmp_path: Path) -> None:
    model, x = ZOO["zero_padded_shortcut"]()
    secateur.prune(settle(model), x, ratio=0.5).save(tmp_path)
    loaded = secateur.load(tmp_path).model
    before = loaded.get_buffer("stem.1.running_mean").clone()
    loaded.train()(x).sum().backward()
    assert not torch.equal(before, loaded.get_buffer("stem.1.running_mean"))
    assert all(p.grad is not None for p in loaded.parameters())
    assert loaded.eval()(x[:1]).shape == (1, 5)


def test_loading_does_not_touch_the_given_model(tmp_path: Path) -> None:
    model, x = ZOO["plain"]()
    secateur.prune(settle(model), x, ratio=0.5).save(tmp_path)
    fresh, _ = ZOO["plain"]()
    before = {n: t.clone() for n, t in fresh.state_dict().items()}
    secateur.load(tmp_path, model=fresh)
    assert all(torch.equal(before[n], t) for n, t in fresh.state_dict().items())


def test_a_loaded_network_can_be_pruned_again_and_the_plans_compose(tmp_path: Path) -> None:
    model, x = ZOO["residual"]()
    secateur.prune(settle(model), x, ratio=0.5).save(tmp_path / "one")
    loaded = secateur.load(tmp_path / "one", model=ZOO["residual"]()[0]).model
    second = secateur.prune(loaded, x, ratio=0.5)
    second.save(tmp_path / "two")
    again = secateur.load(tmp_path / "two", model=ZOO["residual"]()[0]).model
    assert torch.equal(again(x), second.model.eval()(x))


def test_a_graph_that_is_pruned_again_stays_a_graph(tmp_path: Path) -> None:
    model, x = ZOO["plain"]()
    first = secateur.prune(settle(model), x, ratio=0.25, backend="graph")
    second = secateur.prune(first.model, x, ratio=0.25)
    assert second.backend == "graph"
    second.save(tmp_path)
    for loaded in (secateur.load(tmp_path).model, secateur.load(tmp_path, model=ZOO["plain"]()[0]).model):
        assert torch.equal(loaded(x), second.model.eval()(x))


def saved(folder: Path) -> Path:
    model, x = ZOO["plain"]()
    secateur.prune(settle(model), x, ratio=0.5).save(folder, graph=True)
    return folder


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="digest"):
        secateur.load(tmp_path, model=ZOO["plain"]()[0])
    path.unlink()
    with pytest.raises(WeightsError, match="missing"):
        secateur.load(tmp_path)


def test_damaged_plans(tmp_path: Path) -> None:
    plan = saved(tmp_path) / "plan.json"
    text = plan.read_text()
    plan.write_text(text[: len(text) // 2])
    with pytest.raises(PlanError, match="damaged"):
        secateur.load(tmp_path)
    plan.write_text(json.dumps({"artifact_format": 99}))
    with pytest.raises(PlanError, match="99"):
        secateur.load(tmp_path)
    plan.unlink()
    with pytest.raises(InputError, match="no artifact"):
        secateur.load(tmp_path)


def test_a_network_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(PlanError, match=r"0\.0\.weight"):
        secateur.load(tmp_path, model=ZOO["dense_concatenation"]()[0])
    other, _ = ZOO["plain"]()
    other[4] = nn.Linear(24 * 16, 7)  # type: ignore[operator]
    with pytest.raises((PlanError, WeightsError), match=r"4\.(weight|bias)"):
        secateur.load(tmp_path, model=other)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    """A file that would run code when unpickled is refused, and the code does not run."""

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    saved(tmp_path)
    record = json.loads((tmp_path / "plan.json").read_text())
    for name in ("graph.safetensors", "model.safetensors", "graph.json"):
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        digest = file_digest(tmp_path / name, WeightsError)
        (tmp_path / "plan.json").write_text(json.dumps(record | {"sha256": record["sha256"] | {name: digest}}))
        with pytest.raises(SecateurError, match=rf"{re.escape(name)}( cannot be read| is damaged| is not)"):
            secateur.load(tmp_path)
        (tmp_path / name).write_bytes(before)
    assert not (tmp_path / "ran").exists()


def test_a_failed_save_leaves_the_old_artifact_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "save_file", full)
    model, x = ZOO["plain"]()
    with pytest.raises(InputError, match="No space left"):
        secateur.prune(settle(model), x, ratio=0.25).save(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_saving_where_a_file_lies(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model, x = ZOO["plain"]()
    with pytest.raises(InputError, match="cannot be written"):
        secateur.prune(settle(model), x, ratio=0.25).save(tmp_path / "file")


# ------------------------------------------------------------------------------------------------------ plans


def test_plan_to_json_and_back() -> None:
    model, x = ZOO["residual"]()
    plan = secateur.prune(settle(model), x, ratio=0.5).plan
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.provenance["criterion"] == "l2"


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ({"w": {0: ()}}, "keeps nothing"),
        ({"w": {0: (3,)}}, "not ascending within 0…2"),
        ({"w": {0: (1, 1)}}, "not ascending"),
        ({"w": {0: (2, 0)}}, "not ascending"),
        ({"w": {2: (0,)}}, "dimension 2"),
        ({"v": {0: (0,)}}, "dense shape"),
    ],
)
def test_bad_plans(keep: dict[str, dict[int, tuple[int, ...]]], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        Plan(keep, {"w": (3, 4)})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "keep": 3, "dense_shapes": {}}'])
def test_damaged_plan_texts(text: str) -> None:
    with pytest.raises(PlanError):
        Plan.from_json(text)


def test_a_plan_that_cuts_half_of_a_group_is_refused() -> None:
    model, x = ZOO["residual"]()
    plan = secateur.prune(settle(model), x, ratio=0.5).plan
    keep = {n: dict(d) for n, d in plan.keep.items() if n != "b.weight"}
    with pytest.raises(PlanError, match=r"only part.*b\.weight"):
        secateur.apply(model, Plan(keep, plan.dense_shapes), x)


def test_a_plan_for_another_network_is_refused() -> None:
    model, x = ZOO["residual"]()
    plan = secateur.prune(settle(model), x, ratio=0.5).plan
    with pytest.raises(PlanError, match="does not have"):
        secateur.apply(settle(ZOO["plain"]()[0]), plan, ZOO["plain"]()[1])
