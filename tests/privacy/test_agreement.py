"""The likelihood ratio of a copy with redrawn cells: the definition, and what it sees."""

from typing import Any

import numpy as np
import pytest

from pratique_common.columns import CategoricalColumn
from pratique_common.schema import TableSchema
from pratique_privacy import agreement
from pratique_privacy.agreement import CopyLikelihood

Columns = dict[str, np.ndarray[Any, Any]]
CODES = 12
SCHEMA = TableSchema.model_validate(
    {
        "kind": "table",
        "columns": [
            {"name": "n", "type": "numeric", "lower": 0, "upper": 64, "bins": 4, "integer": True,
             "missing": True},
            *(
                {"name": f"c{d}", "type": "categorical", "missing": d == 0,
                 "categories": [str(k) for k in range(4)]}
                for d in range(CODES)
            ),
        ],
    }
)  # fmt: skip


def _population(rows: int, seed: int) -> Columns:
    """Columns that hang together: a hidden group decides which level is likely."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, rows)
    columns: Columns = {"n": (10 * group + rng.integers(0, 30, rows)).astype(float)}
    for d in range(CODES):
        likely = (group + d) % 4
        level = np.where(rng.random(rows) < 0.6, likely, rng.integers(0, 4, rows))
        columns[f"c{d}"] = level.astype(str).astype(object)
    columns["n"][rng.random(rows) < 0.1] = np.nan
    columns["c0"][rng.random(rows) < 0.1] = None
    return columns


def _part(columns: Columns, rows: slice) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


def _by_hand(candidate: Columns, query: Columns, *, own: int | None = None) -> np.ndarray[Any, Any]:
    """Straight from the module's text, cell by cell; numbers here have sub-bins of one value."""
    keys = {name: list(map(str, values)) for name, values in candidate.items()}
    size = len(keys["n"])

    def share(name: str, key: str) -> float:
        column = SCHEMA.column(name)
        levels = 5 if isinstance(column, CategoricalColumn) else 65 + 1
        return (keys[name].count(key) + 1) / (size + levels)

    def factor(name: str, x: str, s: str, redrawn: float) -> float:
        return (1 - redrawn) * (x == s) + redrawn * share(name, s)

    density = []
    for s in range(size):
        others = [r for r in range(size) if r != s]
        kernels = [
            np.prod([factor(n, keys[n][s], keys[n][r], 0.2) * share(n, keys[n][s])
                     / share(n, keys[n][r]) for n in keys])
            for r in others
        ]  # fmt: skip
        density.append(np.mean(kernels))
    scores = []
    for i in range(len(query["n"])):
        ratios = [
            np.prod([factor(n, str(query[n][i]), keys[n][s], 0.3) for n in keys]) / density[s]
            for s in range(size)
            if own is None or s != own + i
        ]
        scores.append(np.log(max(ratios)))
    return np.array(scores)


@pytest.mark.parametrize("block_queries", [512, 5])
def test_scores_are_the_definition(monkeypatch: pytest.MonkeyPatch, block_queries: int) -> None:
    monkeypatch.setattr(agreement, "_BLOCK_QUERIES", block_queries)
    candidate, query = _population(40, 1), _population(12, 2)
    copies = CopyLikelihood(SCHEMA, candidate)
    np.testing.assert_allclose(copies.scores(query), _by_hand(candidate, query), atol=1e-4)
    some = _part(candidate, slice(6, 20))
    expected = _by_hand(candidate, some, own=6)
    np.testing.assert_allclose(copies.scores(some, own=6), expected, atol=1e-4)


def test_many_rows_are_scored_as_few_are() -> None:
    """A row's best may lie in any block of the compiled loops."""
    candidate = _population(5_000, 3)
    copies = CopyLikelihood(SCHEMA, candidate)
    probes = [0, 2_047, 2_048, 4_999]
    own = {name: values[probes] for name, values in candidate.items()}
    for i, place in enumerate(probes):
        row = {name: values[i : i + 1] for name, values in own.items()}
        with_itself, without = copies.scores(row)[0], copies.scores(row, own=place)[0]
        assert with_itself > without


@pytest.mark.parametrize("redrawn", [0.0, 0.3, 0.5])
def test_altered_copies_stand_out_and_honest_rows_do_not(redrawn: float) -> None:
    rng = np.random.default_rng(4)
    everybody = _population(5_000, 5)
    members, others = _part(everybody, slice(0, 500)), _part(everybody, slice(500, 1_500))
    candidate = _part(everybody, slice(1_500, None))
    for name, values in candidate.items():
        kept = rng.random(100) >= redrawn
        values[:100] = np.where(kept, members[name][:100], rng.permutation(values)[:100])
    shuffled = rng.permutation(len(candidate["n"]))
    copies = CopyLikelihood(SCHEMA, {name: v[shuffled] for name, v in candidate.items()})
    copied, controls = copies.scores(_part(members, slice(0, 100))), copies.scores(others)
    never = copies.scores(_part(members, slice(100, None)))
    cut = np.quantile(controls, 0.95)
    assert (never > cut).mean() < 0.09
    assert (copied > cut).mean() > {0.0: 0.9, 0.3: 0.35, 0.5: 0.12}[redrawn]
