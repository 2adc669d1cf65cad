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
from collections.abc import Callable, Iterable, Mapping
from datetime import date, time
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]

_MAX_LENGTH = 1_000

_SUMS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
}

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def previous(name: str) -> str:
    """Return how ``Condition`` names a column at the visit before."""
    return f"previous({name})"


class RuleSyntaxError(ValueError):
    """The expression is not a rule; the message says what is wrong and what is allowed."""


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
        self.columns = frozenset(_check(self._body))

    def check_types(self, kinds: Mapping[str, str]) -> None:
        """Refuse comparisons between different kinds of values, and an order of texts.

        Args:
            kinds: for every column that may be named, "number", "date", "time" or "text".

        Raises:
            RuleSyntaxError: an unknown column, or sides that cannot be compared.
        """
        for name in sorted(self.columns):
            if name not in kinds:
                raise RuleSyntaxError(f"'{name}' is not a column that may be named here")
        for node in ast.walk(self._body):
            if not isinstance(node, ast.Compare):
                continue
            found = set()
            for side in (node.left, *node.comparators):
                for leaf in side.elts if isinstance(side, ast.List | ast.Tuple) else [side]:
                    found.add(_kind(leaf, kinds))
            if len(found) > 1:
                raise RuleSyntaxError(
                    "texts are compared with texts, numbers with numbers, date(...) with dates"
                )
            ordered = any(isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for op in node.ops)
            if ordered and found == {"text"}:
                raise RuleSyntaxError("texts have no order: use == != in, not in")

    @property
    def compared_columns(self) -> list[tuple[str, str]]:
        """Pairs of columns that the condition compares as they are, as it names them."""
        pairs = []
        for node in ast.walk(self._body):
            if isinstance(node, ast.Compare):
                names = [_column_name(side) for side in (node.left, *node.comparators)]
                pairs += [(a, b) for a, b in pairwise(names) if a is not None and b is not None]
        return pairs

    def holds(self, columns: Mapping[str, NDArray[Any]]) -> BoolArray:
        """Return for each row whether the condition holds.

        Args:
            columns: name → values of shape (rows,): float64 with NaN as missing, or object
                arrays of str with None as missing.
        """
        return _evaluate(self._body, columns)


def _column_name(node: ast.expr) -> str | None:
    """Return the column that ``node`` names, or None."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Call(func=ast.Name(id="col"), args=[ast.Constant(value=str(name))], keywords=[]):
            return name
        case ast.Call(func=ast.Name(id="previous"), args=[argument], keywords=[]):
            before = _column_name(argument)
            return None if before is None else previous(before)
    return None


def _constant(node: ast.expr) -> str | float | None:
    """Return the constant that ``node`` writes, or None."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Constant(value=bool()):
            return None
        case ast.Constant(value=int(number)) | ast.Constant(value=float(number)):
            return _as_float(number)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(number) | float(number))):
            return -_as_float(number)
        case ast.Call(func=ast.Name(id="date" | "time" as kind), args=[argument], keywords=[]):
            match argument:
                case ast.Constant(value=str(text)):
                    return _moment(kind, text)
    return None


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        raise RuleSyntaxError("a number is too large") from None


def _moment(kind: str, text: str) -> float:
    """Return a date in days since 1970-01-01, a time of day in minutes since midnight."""
    try:
        if kind == "date":
            return float((date.fromisoformat(text) - date(1970, 1, 1)).days)
        at = time.fromisoformat(text)
        return float(60 * at.hour + at.minute)
    except ValueError:
        example = "date('2020-03-01')" if kind == "date" else "time('08:30')"
        raise RuleSyntaxError(f"'{text}' is no {kind}: write {example}") from None


def _kind(node: ast.expr, kinds: Mapping[str, str]) -> str:
    """Return the kind of one side: a column, a constant, or a sum."""
    if (column := _column_name(node)) is not None:
        return kinds[column]
    match node:
        case ast.Call(func=ast.Name(id="date" | "time" as kind)):
            return kind
        case ast.Constant(value=str()):
            return "text"
        case ast.BinOp(left=left, op=op, right=right):
            return _kind_of_sum(_kind(left, kinds), op, _kind(right, kinds))
    return "number"


def _kind_of_sum(left: str, op: ast.operator, right: str) -> str:
    if "text" not in (left, right):
        if right == "number" or (left == "number" and isinstance(op, ast.Add)):
            return left if right == "number" else right
        if left == right and isinstance(op, ast.Sub):
            return "number"  # of days, or of minutes
    raise RuleSyntaxError(
        "add numbers to numbers, to dates (days) and times (minutes), or subtract alike from alike"
    )


def _missing_argument(node: ast.expr) -> str | None:
    match node:
        case ast.Call(func=ast.Name(id="missing"), args=[argument], keywords=[]):
            return _column_name(argument)
    return None


def _check(node: ast.expr) -> Iterable[str]:
    """Yield the columns of a condition; raise RuleSyntaxError on anything else than a condition."""
    if (name := _missing_argument(node)) is not None:
        yield name
        return
    match node:
        case ast.BoolOp(values=values):
            for value in values:
                yield from _check(value)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield from _check(operand)
        case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()], comparators=[choices]):
            name = _column_name(left)
            if name is None or not isinstance(choices, ast.List | ast.Tuple):
                raise RuleSyntaxError("write: column in ['a', 'b']")
            if any(_constant(item) is None for item in choices.elts):
                raise RuleSyntaxError("the choices of 'in' must be texts or numbers")
            yield name
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            if any(type(op) not in _COMPARISONS for op in ops):
                raise RuleSyntaxError("comparisons are == != < <= > >= in, not in")
            for side in (left, *comparators):
                yield from _check_side(side)
        case _:
            raise RuleSyntaxError("conditions are comparisons joined by and, or, not, missing()")


def _check_side(node: ast.expr) -> Iterable[str]:
    """Yield the columns of one side of a comparison."""
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
            yield from _check_side(left)
            yield from _check_side(right)
        case _ if (name := _column_name(node)) is not None:
            yield name
        case _ if _constant(node) is None:
            raise RuleSyntaxError("compare columns, texts and numbers, and their sums, only")


def _evaluate(node: ast.expr, columns: Mapping[str, NDArray[Any]]) -> BoolArray:
    if (name := _missing_argument(node)) is not None:
        return is_missing(columns[name])
    match node:
        case ast.BoolOp(op=op, values=values):
            combine = np.logical_and if isinstance(op, ast.And) else np.logical_or
            return np.asarray(combine.reduce([_evaluate(value, columns) for value in values]))
        case ast.UnaryOp(operand=operand):
            return ~_evaluate(operand, columns)
        case ast.Compare(left=left, ops=[ast.In() | ast.NotIn() as op], comparators=[choices]):
            assert isinstance(choices, ast.List | ast.Tuple)
            column = columns[str(_column_name(left))]
            found = np.isin(
                column, np.array([_constant(item) for item in choices.elts], column.dtype)
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
    known = ~(is_missing(first) | is_missing(second))
    result = np.zeros(num_rows, bool)
    result[known] = _COMPARISONS[type(op)](first[known], second[known])
    return result


def _side(node: ast.expr, columns: Mapping[str, NDArray[Any]], num_rows: int) -> NDArray[Any]:
    if isinstance(node, ast.BinOp):
        left, right = (_side(side, columns, num_rows) for side in (node.left, node.right))
        return np.asarray(_SUMS[type(node.op)](left, right))
    if (name := _column_name(node)) is not None:
        return columns[name]
    constant = _constant(node)
    return np.full(num_rows, constant, dtype=object if isinstance(constant, str) else np.float64)


def is_missing(values: NDArray[Any]) -> BoolArray:
    """Return where values are missing: NaN in numbers, None in texts."""
    if values.dtype == object:
        return np.asarray(np.equal(values, np.array(None)), bool)  # twice as fast as a loop
    return np.asarray(np.isnan(values), bool)
