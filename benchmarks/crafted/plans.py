"""Plans, as text and applied."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile import X, cnn
from tests.core.test_plan_text import nested

import secateur

from . import Crafted, holding


def crafted() -> Iterator[Crafted]:
    good = secateur.prune(cnn(), X, ratio=0.5).plan.to_dict()

    def use(path: Path) -> Any:
        return secateur.apply(cnn(), secateur.Plan.from_json(path.read_text()), X)

    def plan(name: str, content: Any, fine: bool = False) -> Crafted:
        return Crafted(name, holding("plan.json", content if isinstance(content, str) else json.dumps(content)), use,
                       (), fine)  # fmt: skip

    yield plan("good", good, True)
    texts = {
        "brackets": "[" * 100_000, "braces": '{"a":' * 100_000, "a key twice": '{"format": 1, "format": 2}',
        "many digits": '{"format": ' + "9" * 9999 + "}", "infinity": '{"format": 1e999}', "NaN": '{"format": NaN}',
        "many parts": "[" + "[]," * 600_000 + "1]", "NUL": "\0", "nothing": "",
    }  # fmt: skip
    for name, text in texts.items():
        yield plan(name, text)
    for depth in (2, 100):
        yield plan(f"parts in parts, {depth} deep", nested(depth))
    for name in ("0.weight", "3.weight"):
        shape = good["dense_shapes"][name]
        for what, sizes in {"huge": [2**62, 2**62], "negative": [-1, *shape[1:]], "none": []}.items():
            yield plan(f"{what} shape of {name}", {**good, "dense_shapes": {**good["dense_shapes"], name: sizes}})
        for what, kept in {"huge": [2**60], "infinite": [1e300], "in words": "01", "repeated": [0] * 100_000}.items():
            yield plan(f"{what} indices of {name}", {**good, "keep": {**good["keep"], name: {"0": kept}}})
    for path in ("__class__", "0.__init__", "..", "os.system", "", "0.weight.data.__class__"):
        yield plan(f"a parameter named {path!r}", {**good, "keep": {path: {"0": [0]}}, "dense_shapes": {path: [3]}})
        yield plan(f"a module named {path!r} removed",
                   {**good, "format": 2, "removed": [path], "replaced": {path: "os.system"}})  # fmt: skip
