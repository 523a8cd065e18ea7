"""The tables of mutants.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from records import into_docs, table

Row = Mapping[str, Any]


def tables(page: Path, rows: Sequence[Row]) -> None:
    """Writes all tables of the page."""
    columns = sorted({r["proof"] for r in rows}, key=lambda c: (c != "old", c))
    kinds = sorted({k for r in rows for k in r["kinds"]})
    networks = list(dict.fromkeys(r["network"] for r in rows))
    into_docs(page, "mutants", "\n\n".join([
        _sentences(rows, columns),
        _table("kind of mistake", kinds, rows, columns, lambda row, kind: [counts(row["kinds"].get(kind, ""))]),
    ]))  # fmt: skip
    weights = list(dict.fromkeys(r["variant"] for r in rows))
    into_docs(page, "mutants networks", "\n\n".join([
        _table("weights", weights, rows, columns, lambda row, name: _all(row) if row["variant"] == name else []),
        _table("network", networks, rows, columns, lambda row, name: _all(row) if row["network"] == name else []),
    ]))  # fmt: skip


def counts(words: str) -> Counter[str]:
    """Reads ``planted 2, counting 1``."""
    pairs = (part.split() for part in words.split(", ") if part)
    return Counter({name: int(number) for name, number in pairs})


def _all(row: Row) -> list[Mapping[str, int]]:
    return [counts(words) for words in row["kinds"].values()]


def _total(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def judged(row: Row) -> bool:
    """Whether the right cut was let through: a proof that refuses everything catches nothing."""
    return row["right"] in (None, "proven")


def _table(
    what: str, names: Sequence[str], rows: Sequence[Row], columns: Sequence[str],
    found: Callable[[Row, str], list[Mapping[str, int]]],
) -> str:  # fmt: skip
    """One line a name; what was planted is the same for every proof, what it caught is not."""
    head = [what, "planted", "equivalent", "fail to run", "count"]
    for column in columns:
        head += [f"caught, {column} proof", "missed"]
    body = []
    for name in [*names, "**all**"]:
        of = {c: _total(x for r in rows if r["proof"] == c and judged(r)
                        for x in (_all(r) if name == "**all**" else found(r, name))) for c in columns}  # fmt: skip
        last = of[columns[-1]]
        line = [name, *(last[k] for k in ("planted", "equivalent", "fails", "counting"))]
        for column in columns:
            line += [_share(of[column]), of[column]["counting"] - of[column]["caught"]]
        body.append(line)
    return table(head, body)


def _share(total: Counter[str]) -> str:
    return f"{total['caught']} ({total['caught'] / total['counting']:.1%})" if total["counting"] else "–"


def _sentences(rows: Sequence[Row], columns: Sequence[str]) -> str:
    lines = []
    for column in columns:
        mine = [r for r in rows if r["proof"] == column]
        total = _total(c for r in mine if judged(r) for c in _all(r))
        right = [r for r in mine if r["right"] is not None]
        lines.append(
            f"- **{column} proof**: {total['caught']} of {total['counting']} mistakes that count are caught, and "
            f"{total['refused']} of {total['fails']} networks that do not run are refused. Of {len(right)} right cuts "
            f"{sum(r['right'] == 'proven' for r in right)} are proven. {_alarms(right)}"
        )
    cuts = [r for r in rows if r["proof"] == columns[-1] and r["backend"] == "graph"]
    modules = sum(r["right"] is not None and r["backend"] == "module" for r in rows if r["proof"] == columns[-1])
    lines.append(
        f"- {len(cuts)} cuts of {len({r['network'] for r in cuts})} networks. For {sum(r['shown'] for r in cuts)} of "
        f"them the dense network with zeros in place of what was removed, in double precision, agrees with the right "
        f"cut (of the others zeros say nothing); {modules} modules agree with the graph of the same cut."
    )
    if len(columns) > 1:
        lines.append(f"- {_sameness(rows, columns)}")
    return "\n".join(lines)


def _alarms(right: Sequence[Row]) -> str:
    bad = [r for r in right if r["right"] != "proven"]
    if not bad:
        return "No false alarm."
    words = "; ".join(f"{r['network']}, {r['variant']}, {r['backend']}: {str(r['right'])[:90]}" for r in bad)
    return f"Not proven, and left out of what is counted: {words}."


def _sameness(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Whether the proofs were given the same mistakes."""
    found: dict[Any, set[str]] = {}
    for row in rows:
        if "digest" in row:
            key = tuple(row[k] for k in ("network", "variant", "granularity", "ratio", "backend"))
            found.setdefault(key, set()).add(row["digest"])
    other = sum(len(digests) > 1 for digests in found.values())
    if not other:
        return "All proofs were given the same mistakes, judged the same."
    return f"In {other} of {len(found)} cuts the proofs ({', '.join(columns)}) were not given the same mistakes."
