"""graph.json: what is written comes back, and a crafted one can do nothing but be refused."""

from __future__ import annotations

import copy
import json
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
import secateur.graph.ops
from secateur.core.errors import ExportError, InputError, PlanError, SecateurError
from secateur.core.plan import remember
from secateur.core.reading import file_digest
from secateur.core.types import call
from secateur.cut.artifact import allowed, checked
from secateur.cut.plans import fitting
from secateur.graph.views import labelled
from secateur.surgery import prune_graph
from zoo import ZOO, settle


class Odd(nn.Module):
    """Keyword inputs, nested outputs, constants, infinities, a free batch in a view, modes."""

    def __init__(self, views: bool) -> None:
        super().__init__()
        self.views = views
        self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=None), nn.Dropout(0.3)
        self.head = nn.Linear(8, 5)
        self.register_buffer("scale", torch.full((8, 1, 1), 2.0), persistent=False)
        self.table = torch.arange(4).float()

    def forward(self, x: Tensor, *, mask: dict[str, Tensor], factor: float = 1.0) -> Any:
        h = self.drop(self.norm(self.conv(x)) * self.scale).relu().clamp(max=math.inf)
        if self.views:
            h = h.reshape(x.shape[0] * 2, 4, -1).reshape(x.shape[0], 8, -1).unsqueeze(-1)
        h = h.mean((2, 3))
        y = self.head(h).masked_fill(mask["m"], -math.inf) * factor
        return {"y": y, "rest": (self.table.to(torch.float64) + 1, [None, 3])}


def odd(*, views: bool = True) -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[:, 1] = True
    return settle(Odd(views)), {"x": torch.randn(2, 3, 6, 6), "mask": {"m": mask}, "factor": 0.5}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    model, x = ZOO["zero_padded_shortcut"]()
    secateur.prune(settle(model), x, ratio=0.5, backend="graph").save(folder)
    return folder


def same(one: Any, other: Any) -> bool:
    leaves = [torch.utils._pytree.tree_flatten(tree) for tree in (one, other)]
    return leaves[0][1] == leaves[1][1] and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(leaves[0][0], leaves[1][0], strict=True)
    )


@pytest.mark.parametrize("backend", ["module", "graph"])
def test_everything_comes_back(backend: str, tmp_path: Path) -> None:
    model, inputs = odd(views=backend == "graph")
    pruned = secateur.prune(model, inputs, ratio=0.5, backend=backend)
    pruned.save(tmp_path, graph=True)
    loaded = secateur.load(tmp_path).model
    assert same(call(loaded, inputs), call(pruned.model.eval(), inputs))
    assert set(loaded.state_dict()) == set(pruned.model.state_dict())
    half = {"x": inputs["x"][:1], "mask": {"m": inputs["mask"]["m"][:1]}, "factor": 0.5}
    assert same(call(loaded, half), call(pruned.model, half))
    for network in (loaded, pruned.model):  # batch norm that averages over all batches, and dropout
        network.train()
        torch.manual_seed(1)
        call(network, inputs)
    assert same(loaded.state_dict(), pruned.model.state_dict())


def test_files_of_format_1_are_read_and_know_no_train_mode(tmp_path: Path) -> None:
    """Operators alone, as they were written before there were layers in graphs."""
    model, inputs = odd()
    pruned = secateur.prune(model, inputs, ratio=0.5, backend="graph")
    analysis, keep = fitting(labelled(model, inputs)[0], pruned.plan)
    groups = analysis.groups
    plain = prune_graph(groups, groups.label_keep(keep), pruned.plan.keep)
    remember(plain, pruned.plan)
    replace(pruned, model=plain).save(tmp_path / "new")
    (tmp_path / "old").mkdir()

    def older(graph: dict[str, Any]) -> None:
        assert not any("layer" in line for line in graph["nodes"])
        graph["format"] = 1
        assert graph.pop("call") is None
        assert graph.pop("modes") is None

    old = secateur.load(forged(tmp_path / "new", tmp_path / "old", older))
    assert same(call(old.model, inputs), call(pruned.model, inputs))
    assert any("in train mode the graph has batch norm and dropout" in note for note in old.notes)


def test_a_network_is_saved_in_any_mode(tmp_path: Path) -> None:
    model, inputs = odd()
    pruned = secateur.prune(model.train(), inputs, ratio=0.5, backend="graph")
    assert pruned.model.training
    pruned.save(tmp_path)
    loaded = secateur.load(tmp_path).model
    assert not loaded.training
    assert same(call(loaded, inputs), call(pruned.model.eval(), inputs))


def test_a_loaded_graph_can_be_saved_copied_and_cut_again(tmp_path: Path) -> None:
    model, inputs = odd()
    secateur.prune(model, inputs, ratio=0.5, backend="graph").save(tmp_path)
    loaded = secateur.load(tmp_path).model
    assert same(call(copy.deepcopy(loaded), inputs), call(loaded, inputs))
    again = secateur.prune(loaded, inputs, ratio=0.25)
    again.save(tmp_path / "again")
    assert same(call(secateur.load(tmp_path / "again").model, inputs), call(again.model.eval(), inputs))


def test_another_size_is_refused_after_loading_too(saved: Path) -> None:
    x = ZOO["zero_padded_shortcut"]()[1]
    with pytest.raises(SecateurError, match="was traced for"):
        secateur.load(saved)(x[:, :-1])


def test_nothing_of_the_inputs_is_stored(tmp_path: Path) -> None:
    """A batch that is a slice of 400 images, or its copy: the same bytes."""
    images = torch.rand(400, 3, 8, 8)
    files = []
    for name, x in (("slice", images[:2]), ("data of a slice", images[:2].data), ("copy", images[:2].clone())):
        torch.manual_seed(0)
        model = settle(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)))
        secateur.prune(model, x, ratio=0.5).save(tmp_path / name, graph=True)
        files.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert files[0] == files[1] == files[2]
    assert sum(map(len, files[0].values())) < 30_000
    private = images[:2].numpy().tobytes()
    assert not any(private[k : k + 16] in data for data in files[0].values() for k in range(0, len(private), 256))


def test_an_operator_that_has_no_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = ZOO["plain"]()
    pruned = secateur.prune(settle(model), x, ratio=0.5, backend="graph")
    monkeypatch.setattr("secateur.cut.artifact.graph_file.name_of", lambda target: None)
    with pytest.raises(ExportError, match=r"'aten\.\S+' is not among the operators.*graph=False"):
        pruned.save(tmp_path / "a", graph=True)
    assert not (tmp_path / "a").exists()


# ------------------------------------------------------------------------------------------------------ attacks


def forged(saved: Path, folder: Path, change: Callable[[dict[str, Any]], Any], **record: Any) -> Path:
    """A copy of an artifact with another graph, and digests that fit it."""
    for file in saved.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    graph = json.loads((folder / "graph.json").read_text())
    changed = change(graph)
    text = json.dumps(graph if changed is None else changed) if not isinstance(changed, str) else changed
    (folder / "graph.json").write_text(text)
    plan = json.loads((folder / "plan.json").read_text()) | record
    plan["sha256"]["graph.json"] = file_digest(folder / "graph.json", PlanError)
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


def where(graph: dict[str, Any], key: str, start: str = "") -> dict[str, Any]:
    """The first node that has a key."""
    return next(n for n in graph["nodes"] if key in n and str(n[key]).startswith(start))


def call_of(op: str, *args: Any, **kwargs: Any) -> Callable[[dict[str, Any]], None]:
    def change(graph: dict[str, Any]) -> None:
        where(graph, "op").update(op=op, args=list(args), kwargs=kwargs)

    return change


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(graph: dict[str, Any]) -> None:
        graph["tensors"] = {new if n == old else n: kind for n, kind in graph["tensors"].items()}

    return change


def inputs_called(name: Any) -> Callable[[dict[str, Any]], None]:
    def change(graph: dict[str, Any]) -> None:
        where(graph, "input")["input"] = name
        graph["arguments"] = [name]

    return change


def squared(graph: dict[str, Any]) -> None:
    """2 to the power of 2 to the power of 60, by sixty multiplications."""
    for _ in range(60):
        last = len(graph["nodes"]) - 1
        args = [{"node": last}] * 2 if graph["nodes"][-1].get("op") == "mul" else [2, 2]
        graph["nodes"].append({"op": "mul", "args": args})


def setting(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda graph: graph.update(values)


def layer_with(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """The first convolution with other settings, or with another class or name."""

    def change(graph: dict[str, Any]) -> None:
        line = where(graph, "layer")
        line.update({k: changes.pop(k) for k in ("layer", "class") if k in changes})
        line["settings"].update(changes)

    return change


def layer_again(graph: dict[str, Any]) -> None:
    line = where(graph, "layer")
    graph["nodes"].append({**line, "settings": {**line["settings"], "stride": [2, 2]}})


def argument(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda graph: graph["call"][0].update(changes)


def node(line: Any) -> Callable[[dict[str, Any]], None]:
    return lambda graph: graph["nodes"].append(line)


def nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


CODE = "x=__import__('pathlib').Path('MARK').touch()"
ATTACKS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    **{f"operator {op}": (call_of(op, "touch MARK"), "not an operator that a graph may hold")
       for op in ("os.system", "os:system", "builtins.eval", "torch.ops.load_library", "torch.load", "aten.from_file",
                  "aten.from_file.default", "aten.set_.source_Storage", "aten.resize_.default", "prim.Print.default",
                  "inductor.accumulate_grad_.default", "aten.conv2d", "aten", "", "pow", "eval", "getattr",
                  "aten.__class__.__init__", "aten.conv2d.__class__", "secateur.cut.artifact.load",
                  "aten.conv2d.nothing")},
    "operator is a list": (call_of([1]), "not an operator"),  # type: ignore[arg-type]
    "input is code": (inputs_called(CODE), "no name of one"),
    "input with a default": (inputs_called("x=print('MARK')"), "no name of one"),
    "input with a comment": (inputs_called("x):#"), "no name of one"),
    "input with a type": (inputs_called("x: print(1)"), "no name of one"),
    "input is a keyword": (inputs_called("class"), "no name of one"),
    "input is self": (inputs_called("self"), "no name of one"),
    "input is a dunder": (inputs_called("__import__"), "no name of one"),
    "input is no text": (inputs_called(7), "no name of one"),
    "input with letters that Python folds": (inputs_called("ﬁ"), "no name of one"),
    "tensor is code": (renamed("stem.0.weight", 'c"); __import__("os").system("touch MARK"); ("'), "no name of one"),
    "tensor with a line": (renamed("stem.0.weight", "c\nimport os"), "no name of one"),
    "tensor is the parent": (renamed("stem.0.weight", ".."), "no name of one"),
    "tensor is a keyword": (renamed("stem.0.weight", "stem.class"), "keeps for itself"),
    "tensor is a method": (renamed("stem.0.weight", "forward"), "not among the stored"),
    "tensor unknown": (renamed("stem.0.weight", "nothing"), "not among the stored"),
    "tensor of the modes": (renamed("stem.0.weight", "_mode.weight"), "no name of one"),
    "tensor of an odd kind": (lambda g: g["tensors"].update({"stem.0.weight": "code"}), "not among the stored"),
    "node takes a later one": (call_of("aten.relu.default", {"node": 10**6}), "does not come before"),
    "node takes a negative one": (call_of("aten.relu.default", {"node": -1}), "does not come before"),
    "node takes a text": (call_of("aten.relu.default", {"node": "x"}), "does not come before"),
    "argument of an odd kind": (call_of("aten.relu.default", {"code": "1"}), "there is no such"),
    "argument with two kinds": (call_of("aten.relu.default", {"node": 0, "float": "inf"}), "damaged"),
    "dtype is code": (call_of("aten.relu.default", {"dtype": "load"}), "there is no such"),
    "dtype is a dunder": (call_of("aten.relu.default", {"dtype": "__class__"}), "there is no such"),
    "float is a text": (call_of("aten.relu.default", {"float": "9**9**9**9"}), "damaged"),
    "a number without end": (call_of("aten.relu.default", 10**400), "too large"),
    "arguments nested": (call_of("aten.relu.default", nested(50)), "nested too deeply"),
    "argument that it does not take": (call_of("aten.relu.default", {"node": 0}, evil=1), "does not take"),
    "too many arguments": (call_of("aten.relu.default", *[1] * 40), "does not take"),
    "arguments of a wrong type": (call_of("aten.relu.default", "text"), "does not run|damaged"),
    "sizes that multiply without end": (squared, "no size"),
    "a size rounded to no end of digits": (call_of("round", 5, -(10**9)), "takes 1 sizes"),
    "a text that is filled in to no end": (call_of("mod", "%999999999d", 5), "arithmetic of sizes"),
    "a guard of what is no number": (call_of("require", "x", "lt", 1, True), "damaged"),
    "a guard by something else": (call_of("require", 1, "__class__", 1, True), "damaged"),
    "a module by name": (node({"module": "torch.hub.load", "args": []}), "there is no such"),
    "dropout with code": (node({"module": "Dropout", "p": CODE, "args": [{"node": 0}]}), "damaged"),
    **{f"a layer of class {kind!r}": (layer_with(**{"class": kind}), "there is no such")
       for kind in ("Module", "Sequential", "LazyConv2d", "LSTM", "EmbeddingBag", "torch.hub.load", "__class__", "", 3,
                    "MultiheadAttention", "PrunedGraph")},
    **{f"a layer called {name!r}": (layer_with(layer=name), words)
       for name, words in {"_mode.x": "no name of one", "_sizes": "no name of one", "..": "no name of one",
                           "a\nb": "no name of one", "stem.class": "keeps for itself", 7: "no name of one",
                           "nothing": "not those of such a layer", "stem": "not those of such a layer",
                           "forward": "not those of such a layer", "stem.0.weight": "not those of such a layer|damaged",
                           }.items()},
    **{f"a layer with {name}={value!r}": (layer_with(**{name: value}), words)
       for name, value, words in (
           ("device", "cpu", "there is no such"), ("dtype", {"dtype": "float64"}, "there is no such"),
           ("max_norm", 1.0, "there is no such"), ("_weight", 1, "there is no such"), ("evil", 1, "there is no such"),
           ("in_channels", 10**15, "damaged|not those"), ("in_channels", 10**400, "too large"),
           ("in_channels", 5, "damaged|not those"), ("in_channels", -3, "damaged|not those"),
           ("out_channels", 2, "not those"), ("kernel_size", [3] * 9, "no numbers"), ("bias", CODE, "not those"),
           ("kernel_size", [[3]], "no numbers"), ("kernel_size", {"node": 0}, "no numbers"),
           ("padding_mode", CODE, "damaged"), ("groups", 0, "damaged"), ("stride", "x", "not those|damaged"))},
    "a layer with two kinds of settings": (layer_again, "other settings than before"),
    "a layer without settings": (node({"layer": "stem.0", "class": "Conv2d", "args": [{"node": 0}]}), "damaged"),
    "a layer with too few settings": (lambda g: where(g, "layer")["settings"].pop("stride") and None, "not those"),
    **{f"an argument with {k}={v!r}": (argument(**{k: v}), words)
       for k, v, words in (("name", CODE, "no name of one"), ("name", "other", "not those of its inputs"),
                           ("kind", CODE, "argument that is none"), ("kind", "either)", "argument that is none"),
                           ("taken", False, "not those of its inputs"), ("taken", "yes", "argument that is none"),
                           ("default", {"node": 0}, "does not come before"), ("default", {"x": 1}, "there is no such"),
                           ("default", [1] * 9, "argument that is none"), ("default", 10**400, "too large"))},
    "the same argument twice": (lambda g: g["call"].append(g["call"][0]), "not those of its inputs"),
    "layers in eval mode that are no list": (setting(modes="bn"), "no names"),
    "layers in eval mode that are no names": (setting(modes=[{"x": 1}]), "no names"),
    "train mode by something else": (setting(modes=[], training="eval"), "damaged"),
    "train mode with another operator": (
        lambda g: g.update(modes=[], training={**g, "nodes": [{"op": "os.system", "args": []}]}),
        "not an operator that a graph may hold"),
    "train mode with a bomb": (
        lambda g: g.update(modes=[], training={**g, "nodes": [
            {"input": where(g, "input")["input"]},
            {"op": "aten.zeros.default", "args": [[2**40, 2**40, 2**40]]}], "output": [{"node": 1}]}),
        "far more than its inputs|does not run"),
    "arguments that are a number": (setting(call=3), "damaged"),
    "a node of another kind": (node({"call_method": "eval", "args": []}), "not an operator"),
    "a node that is a text": (node("os.system"), "not an object"),
    "nodes are a number": (setting(nodes=3), "damaged"),
    "no tensors": (setting(tensors={}), "not those of such a layer"),
    "a tensor that is not there": (node({"tensor": "nothing"}), "does not have"),
    "another format": (setting(format=3), "format '3'"),
    "a format without end": (setting(format="9" * 10**5), "format '9"),
    "no call": (setting(inputs="*"), "damaged|not those of a call"),
    "inputs nested": (setting(inputs={"tuple": [{"tuple": [nested(3)]}, {"dict": []}]}), "damaged|structure"),
    "outputs by class": (setting(outputs={"os.system": ["*"]}), "there is no such"),
    "outputs with odd keys": (setting(outputs={"dict": [[["a"], "*"]]}), "keys that are no names|damaged"),
    "too many outputs": (setting(outputs={"tuple": ["*"] * 5}), "structure"),
    "memory by a factory": (call_of("aten.zeros.default", [10**6, 10**6]), "bytes"),
    "memory by repeating": (call_of("aten.repeat.default", {"node": 0}, [10**9, 1, 1, 1]), "bytes|does not run"),
    "a negative size": (call_of("aten.zeros.default", [-5]), "does not run"),
    "not an object": (lambda graph: [], "format"),
    "brackets": (lambda graph: "[" * 200_000, "nested too deeply|lists and objects|not JSON"),
    "a key twice": (lambda graph: '{"format": 1, "format": 1}', "twice"),
    "no JSON": (lambda graph: "\x00\x01", "not JSON|not a text"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_crafted_graphs_are_refused(saved: Path, tmp_path: Path, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    change, words = ATTACKS[attack]
    before = set(sys.modules)
    with pytest.raises(PlanError, match=words) as caught:
        secateur.load(forged(saved, tmp_path, change))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800
    assert not (tmp_path / "MARK").exists()
    assert not {name for name in set(sys.modules) - before if not name.startswith(("torch", "sympy", "secateur"))}


@pytest.mark.parametrize(
    "inputs",
    [
        {"shape": [2, 3, 8, 8], "dtype": "load"},
        {"shape": [2, 3, 8, 8], "dtype": "__class__"},
        {"shape": "text", "dtype": "float32"},
        {"shape": [-1, 10**30], "dtype": "float32"},
        {"items": 5},
        {},
    ],
)
def test_forged_inputs(saved: Path, tmp_path: Path, inputs: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=r"record of the inputs"):
        secateur.load(forged(saved, tmp_path, lambda graph: None, inputs=inputs))


def test_inputs_that_claim_to_be_huge_take_no_memory(saved: Path, tmp_path: Path) -> None:
    huge = {"shape": [10**9, 3, 8, 8], "dtype": "float32"}
    assert isinstance(secateur.load(forged(saved, tmp_path, lambda graph: None, inputs=huge)), secateur.Pruned)


def test_what_is_shared_must_be_there(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(SecateurError, match="shares 'nothing'"):
        secateur.load(forged(saved, tmp_path, lambda graph: None, shared={"stem.0.weight": "nothing"}))


def test_a_large_tensor_is_made_where_the_folder_is_trusted(saved: Path, tmp_path: Path) -> None:
    def large(graph: dict[str, Any]) -> None:
        graph["nodes"].append({"op": "aten.zeros.default", "args": [[10**5, 10**4]]})

    with pytest.raises(PlanError, match=r"4,000,000,000 bytes.*trust=True"):
        secateur.load(forged(saved, tmp_path, large))
    assert isinstance(secateur.load(tmp_path, trust=True), secateur.Pruned)


# --------------------------------------------------------------------------- operators that do not look at shapes


class Shaped(nn.Module):
    """The three that are needed: attention, an LSTM, weights with a length of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 4, num_layers=2, batch_first=True, bidirectional=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the old form, whose operator it is
            self.out = nn.utils.weight_norm(nn.Linear(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.lstm(x)[0].unflatten(-1, (2, 4)).transpose(1, 2)
        y = nn.functional.scaled_dot_product_attention(h, h, h).transpose(1, 2).flatten(2)
        return self.out(y)  # type: ignore[no-any-return]


SHAPED = ("aten.scaled_dot_product_attention.default", "aten._weight_norm.default", "aten.lstm.input")


@pytest.fixture(scope="module")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, secateur.Pruned, Tensor]:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), Shaped()).eval(), torch.randn(2, 3, 5)
    pruned, folder = secateur.prune(model, x, ratio=0.4, backend="graph"), tmp_path_factory.mktemp("shaped")
    pruned.save(folder)
    return folder, pruned, x


def test_checked_operators_compute_the_same_and_are_saved_and_cut_again(
    shaped: tuple[Path, secateur.Pruned, Tensor], tmp_path: Path
) -> None:
    folder, pruned, x = shaped
    ops = {node.get("op") for node in json.loads((folder / "graph.json").read_text())["nodes"]}
    assert set(SHAPED) <= ops
    loaded = secateur.load(folder).model
    assert torch.equal(loaded(x), pruned.model(x))
    assert torch.equal(copy.deepcopy(loaded)(x[:1]), pruned.model(x[:1]))
    again = secateur.prune(loaded, x, ratio=0.25)
    again.save(tmp_path)
    assert torch.equal(secateur.load(tmp_path)(x), again.model(x))


def lstm_with(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """The LSTM with other weights (by the place of one that takes its place), layers or states."""

    def change(graph: dict[str, Any]) -> None:
        args = where(graph, "op", "aten.lstm")["args"]
        for place, other in changes.get("weights", {}).items():
            args[2][place] = args[2][other]
        args[2] = args[2][: changes.get("count", len(args[2]))]
        args[4] = changes.get("layers", args[4])
        args[1] = [args[0]] * 2 if "states" in changes else args[1]

    return change


def lengths_of_another_shape(graph: dict[str, Any]) -> None:
    args = where(graph, "op", "aten._weight_norm")["args"]
    args[1] = args[0]


SHAPES: dict[str, Callable[[dict[str, Any]], None]] = {
    "a bias in place of a matrix": lstm_with(weights={0: 2}),
    "a matrix in place of a bias": lstm_with(weights={2: 0}),
    "another layer's matrix": lstm_with(weights={1: 8}),
    "too few weights": lstm_with(count=15),
    "more layers": lstm_with(layers=9),
    "states that are the inputs": lstm_with(states=True),
    "lengths of another shape": lengths_of_another_shape,
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes_that_do_not_fit_are_refused_before_anything_is_computed(
    shaped: tuple[Path, secateur.Pruned, Tensor], tmp_path: Path, case: str
) -> None:
    with pytest.raises(
        PlanError, match=r"does not run on inputs of the recorded shapes: (lstm|_weight_norm) (takes|of)"
    ):
        secateur.load(forged(shaped[0], tmp_path, SHAPES[case]))


@pytest.mark.parametrize("case", SHAPES)
def test_and_where_the_folder_is_trusted_when_it_runs(
    shaped: tuple[Path, secateur.Pruned, Tensor], tmp_path: Path, case: str
) -> None:
    loaded = secateur.load(forged(shaped[0], tmp_path, SHAPES[case]), trust=True).model
    with pytest.raises(InputError, match=r"(lstm|_weight_norm) (takes|of)"):
        loaded(shaped[2])


def test_values_without_keys() -> None:
    with pytest.raises(InputError, match="scaled_dot_product_attention takes values for keys of shape"):
        checked.attention(torch.zeros(1, 2, 6, 4), torch.zeros(1, 2, 6, 4), torch.zeros(1, 2, 3, 4))


@pytest.mark.parametrize("sizes", [(), (0,), (3,)])
def test_packed_sequences_and_projections(sizes: tuple[int, ...]) -> None:
    net = nn.LSTM(5, 4, num_layers=2, bidirectional=True, proj_size=sum(sizes)).eval()
    x = nn.utils.rnn.pack_sequence([torch.randn(3, 5), torch.randn(2, 5)])
    states = [torch.zeros(4, 2, sum(sizes) or 4), torch.zeros(4, 2, 4)]
    args = (x.data, x.batch_sizes, states, net._flat_weights, True, 2, 0.0, False, True)
    with torch.no_grad():
        assert torch.equal(checked.packed_lstm(*args)[0], net(x)[0].data)
        with pytest.raises(InputError, match="the hidden state of shape"):
            checked.packed_lstm(*args[:2], [states[0][:1], states[1]], *args[3:])


@pytest.mark.parametrize("op", sorted(allowed.UNCHECKED))
def test_operators_that_read_beyond_short_weights_are_not_among_them(op: str) -> None:
    packet = getattr(torch.ops.aten, op.removeprefix("aten."))
    assert all(allowed.named(f"{op}.{overload}") is None for overload in packet.overloads())


def test_no_operator_is_told_by_a_name_that_is_not_one() -> None:
    assert all(hasattr(torch.ops.aten, name) for name in allowed.MORE)
    assert not {f"aten.{name}" for name in allowed.MORE} & set(secateur.graph.ops.OPERATORS)


# --------------------------------------------------------------------------------------------- by value, by default


def test_what_depends_on_values_needs_trust(saved: Path, tmp_path: Path) -> None:
    """Else a graph could be made that is looked at only as far as that."""

    def by_value(graph: dict[str, Any]) -> None:
        graph["nodes"].append({"op": "aten.nonzero.default", "args": [{"node": 0}]})

    with pytest.raises(PlanError, match=r"cannot be known without computing.*trust=True"):
        secateur.load(forged(saved, tmp_path, by_value))
    assert isinstance(secateur.load(tmp_path, trust=True), secateur.Pruned)


def test_a_network_that_no_graph_can_hold_is_saved_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = ZOO["plain"]()
    pruned = secateur.prune(settle(model), x, ratio=0.5, backend="graph")
    monkeypatch.setattr("secateur.cut.artifact.graph_file.name_of", lambda target: None)
    with pytest.warns(UserWarning, match=r"Saved without its graph.*'aten\.\S+' is not among"):
        pruned.save(tmp_path)
    assert not (tmp_path / "graph.json").exists()
    assert torch.equal(secateur.load(tmp_path, model=ZOO["plain"]()[0])(x), pruned.model.eval()(x))


# ---------------------------------------------------------------------------- forged records, with the network given

RECORDS: dict[str, dict[str, Any]] = {
    "shared with a method": {"shared": {"stem.0.weight": "forward"}},
    "a method shared": {"shared": {"forward": "stem.0.weight"}},
    "a module shared": {"shared": {"stem": "stem.0.weight"}},
    "a class shared": {"shared": {"__class__": "stem.0.weight"}},
    "shared with nothing": {"shared": {"stem.0.weight": "nothing"}},
    "no such name": {"shared": {"a.b.c": "stem.0.weight"}},
    "other shapes": {"shared": {"stem.0.weight": "stem.1.weight"}},
    "a sample of a terabyte": {"inputs": {"shape": [1, 10**9, 8, 8], "dtype": "float64"}},
}


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("case", RECORDS)
def test_forged_records_are_refused_with_the_network_and_without(
    saved: Path, tmp_path: Path, case: str, given: bool
) -> None:
    folder = forged(saved, tmp_path, lambda graph: None, **RECORDS[case])
    with pytest.raises(SecateurError) as caught:
        secateur.load(folder, model=ZOO["zero_padded_shortcut"]()[0] if given else None)
    assert "\n" not in str(caught.value)


def test_numbers_for_what_is_no_row_of_numbers(tmp_path: Path) -> None:
    model, x = ZOO["plain"]()
    secateur.prune(settle(model), x, ratio=0.5).save(tmp_path)
    record = json.loads((tmp_path / "plan.json").read_text())
    record["plan"] |= {"format": 3, "indices": {"0.0.weight": [1, 2]}}
    (tmp_path / "plan.json").write_text(json.dumps(record))
    with pytest.raises(PlanError, match=r"'0\.0\.weight' 2 numbers.*only a row of whole numbers"):
        secateur.load(tmp_path, model=ZOO["plain"]()[0])
