"""Row rules of a study: ``when`` a condition holds, ``then`` another must hold.

A condition is a small expression over column names: comparisons with constants or other columns
(``==  !=  <  <=  >  >=  in  not in``), ``and``, ``or``, ``not`` and ``missing(column)``. A column
whose name is not an identifier is written ``col("name")``; dates and times of day are written
``date("2020-03-01")`` and ``time("08:30")``. Where rows are visits, ``previous(column)`` is the
column at the patient's visit before. Sides may be sums and differences: a date plus a number of
days is a date, a time plus minutes a time, and two dates or times are days or minutes apart. A
comparison with a missing value is false, so "missing" is only ever asked for by name.
"""

import ast
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.rule_grammar import (
    COMPARISONS,
    RuleSyntaxError,
    column_name,
    columns_named,
    constant_of,
    kind_of,
    leaves_of,
    missing_argument,
    signed_terms,
    terms_of,
)

BoolArray = NDArray[np.bool_]

_MAX_LENGTH = 1_000

_SUMS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
}


@dataclass(frozen=True)
class Difference:
    """How far the sides of a comparison of numbers are apart."""

    factors: Mapping[str, int]
    """Of the columns in it, as it names them: a left one adds 1, a right one takes 1 away."""
    equal: bool
    """Whether they shall be equal."""
    values: NDArray[np.float64]
    """Left minus right, (rows,)."""


class Condition:
    """A parsed condition. Nothing is ever evaluated as Python code."""

    def __init__(self, text: str) -> None:
        if len(text) > _MAX_LENGTH:
            raise RuleSyntaxError(f"a condition has {_MAX_LENGTH} characters at most")
        try:
            tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise RuleSyntaxError(f"'{text}' is not an expression") from error
        self.text = text
        self._body = tree.body
        self.columns = frozenset(columns_named(self._body))

    def check_types(self, kinds: Mapping[str, str]) -> None:
        """Refuse comparisons between different kinds of values, and an order of texts.

        Args:
            kinds: for every column that may be named, "number", "date", "time" or "text".

        Raises:
            RuleSyntaxError: an unknown column, or sides that cannot be compared.
        """
        for name in sorted(self.columns):
            if name not in kinds:
                raise RuleSyntaxError(
                    f"'{name}' is not a column that may be named here"
                    + ": the visit before needs data.visits" * name.startswith("previous(")
                )
        for node in ast.walk(self._body):
            if not isinstance(node, ast.Compare):
                continue
            found = set()
            for side in (node.left, *node.comparators):
                for leaf in leaves_of(side):
                    found.add(kind_of(leaf, kinds))
            if len(found) > 1:
                raise RuleSyntaxError(
                    "texts are compared with texts, numbers with numbers, date(...) with dates"
                )
            ordered = any(isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for op in node.ops)
            if ordered and found == {"text"}:
                raise RuleSyntaxError("texts have no order: use == != in, not in")

    @property
    def compared_columns(self) -> list[tuple[str, str]]:
        """Pairs of columns that stand in one comparison, also in its sums, as it names them."""
        pairs: list[tuple[str, str]] = []
        for node in ast.walk(self._body):
            if isinstance(node, ast.Compare):
                terms = [term for side in (node.left, *node.comparators) for term in terms_of(side)]
                names = [name for term in terms if (name := column_name(term)) is not None]
                pairs += combinations(names, 2)
        return pairs

    @property
    def compared_constants(self) -> list[tuple[str, str | float]]:
        """Columns, and the constants in comparisons with them or with sums of them."""
        found: list[tuple[str, str | float]] = []
        for node in ast.walk(self._body):
            if isinstance(node, ast.Compare):
                leaves = [
                    term
                    for side in (node.left, *node.comparators)
                    for leaf in leaves_of(side)
                    for term in terms_of(leaf)
                ]
                names = [name for leaf in leaves if (name := column_name(leaf)) is not None]
                constants = [each for leaf in leaves if (each := constant_of(leaf)) is not None]
                found += product(names, constants)
        return found

    def differences(self, columns: Mapping[str, NDArray[Any]]) -> Iterator[Difference]:
        """Yield of each comparison of numbers its left side minus its right one.

        Args:
            columns: as in ``holds``.
        """
        num_rows = len(next(iter(columns.values())))
        for node in ast.walk(self._body):
            if not isinstance(node, ast.Compare) or isinstance(node.ops[0], ast.In | ast.NotIn):
                continue
            sides = [node.left, *node.comparators]
            for (left, right), op in zip(pairwise(sides), node.ops, strict=True):
                first, second = (_side(side, columns, num_rows) for side in (left, right))
                if object not in (first.dtype, second.dtype):
                    factors: Counter[str] = Counter()
                    for side, sign in ((left, 1), (right, -1)):
                        for term, more in signed_terms(side):
                            if (name := column_name(term)) is not None:
                                factors[name] += sign * more
                    yield Difference(factors, isinstance(op, ast.Eq), first - second)

    def holds(self, columns: Mapping[str, NDArray[Any]]) -> BoolArray:
        """Return for each row whether the condition holds.

        Args:
            columns: name → values of shape (rows,): float64 with NaN as missing, or object
                arrays of str with None as missing.
        """
        return _evaluate(self._body, columns)


@lru_cache(maxsize=2_048)
def condition(text: str) -> Condition:
    """Return a parsed condition; the same one for the same text, since rules are asked often."""
    return Condition(text)


def _evaluate(node: ast.expr, columns: Mapping[str, NDArray[Any]]) -> BoolArray:
    if (name := missing_argument(node)) is not None:
        return is_missing(columns[name])
    match node:
        case ast.BoolOp(op=op, values=values):
            combine = np.logical_and if isinstance(op, ast.And) else np.logical_or
            return np.asarray(combine.reduce([_evaluate(value, columns) for value in values]))
        case ast.UnaryOp(operand=operand):
            return ~_evaluate(operand, columns)
        case ast.Compare(left=left, ops=[ast.In() | ast.NotIn() as op], comparators=[choices]):
            assert isinstance(choices, ast.List | ast.Tuple)
            column = columns[str(column_name(left))]
            found = np.isin(
                column, np.array([constant_of(item) for item in choices.elts], column.dtype)
            )
            wanted = found if isinstance(op, ast.In) else ~found
            return np.asarray(wanted & ~is_missing(column))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [left, *comparators]
            pairs = zip(sides, ops, sides[1:], strict=False)
            parts = [_compare(first, op, second, columns) for first, op, second in pairs]
            return np.asarray(np.logical_and.reduce(parts))
    raise AssertionError("checked when the condition was parsed")


def _compare(
    left: ast.expr, op: ast.cmpop, right: ast.expr, columns: Mapping[str, NDArray[Any]]
) -> BoolArray:
    num_rows = len(next(iter(columns.values())))
    first, second = (_side(side, columns, num_rows) for side in (left, right))
    if isinstance(left, ast.BinOp) or isinstance(right, ast.BinOp):
        second = _snapped(first, second, [*terms_of(left), *terms_of(right)], columns, num_rows)
    known = ~(is_missing(first) | is_missing(second))
    result = np.zeros(num_rows, bool)
    result[known] = COMPARISONS[type(op)](first[known], second[known])
    return result


def _snapped(
    first: NDArray[Any],
    second: NDArray[Any],
    terms: list[ast.expr],
    columns: Mapping[str, NDArray[Any]],
    num_rows: int,
) -> NDArray[Any]:
    """Return second, made equal to first where rounding may be all that differs.

    In 64 bits .1 + .2 is not .3: n terms are off by n·u·Σ|term| at most (Higham 2002, §4.2).
    """
    sizes = np.sum([np.abs(_side(term, columns, num_rows)) for term in terms], axis=0)
    rounding = len(terms) * np.finfo(np.float64).eps * sizes
    return np.where(np.abs(first - second) <= rounding, first, second)


def _side(node: ast.expr, columns: Mapping[str, NDArray[Any]], num_rows: int) -> NDArray[Any]:
    if isinstance(node, ast.BinOp):
        left, right = (_side(side, columns, num_rows) for side in (node.left, node.right))
        return np.asarray(_SUMS[type(node.op)](left, right))
    if (name := column_name(node)) is not None:
        return columns[name]
    constant = constant_of(node)
    return np.full(num_rows, constant, dtype=object if isinstance(constant, str) else np.float64)


def is_missing(values: NDArray[Any]) -> BoolArray:
    """Return where values are missing: NaN in numbers, None in texts."""
    if values.dtype == object:
        return np.asarray(np.equal(values, np.array(None)), bool)  # twice as fast as a loop
    return np.asarray(np.isnan(values), bool)
