"""What a condition of a rule may be made of: the parts of its syntax tree, and their kinds.

See ``rules`` for the language.
"""

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from datetime import date, time
from typing import Any

_MAX_TERMS = 20
_MAX_NUMBER = 1e15  # limit of columns

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
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


def column_name(node: ast.expr) -> str | None:
    """Return the column that ``node`` names, or None."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Call(func=ast.Name(id="col"), args=[ast.Constant(value=str(name))], keywords=[]):
            return name
        case ast.Call(func=ast.Name(id="previous"), args=[argument], keywords=[]):
            before = column_name(argument)
            return None if before is None else previous(before)
    return None


def constant_of(node: ast.expr) -> str | float | None:
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
    if not abs(number) <= _MAX_NUMBER:
        raise RuleSyntaxError(f"a number is beyond {_MAX_NUMBER:g}, which no column holds")
    return float(number)


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


def kind_of(node: ast.expr, kinds: Mapping[str, str]) -> str:
    """Return the kind of one side: a column, a constant, or a sum."""
    if (column := column_name(node)) is not None:
        return kinds[column]
    match node:
        case ast.Call(func=ast.Name(id="date" | "time" as kind)):
            return kind
        case ast.Constant(value=str()):
            return "text"
        case ast.BinOp(left=left, op=op, right=right):
            return _kind_of_sum(kind_of(left, kinds), op, kind_of(right, kinds))
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


def missing_argument(node: ast.expr) -> str | None:
    """Return the column of ``missing(column)``, or None for anything else."""
    match node:
        case ast.Call(func=ast.Name(id="missing"), args=[argument], keywords=[]):
            return column_name(argument)
    return None


def columns_named(node: ast.expr) -> Iterable[str]:
    """Yield the columns of a condition; raise RuleSyntaxError on anything else than a condition."""
    if (name := missing_argument(node)) is not None:
        yield name
        return
    match node:
        case ast.BoolOp(values=values):
            for value in values:
                yield from columns_named(value)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield from columns_named(operand)
        case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()], comparators=[choices]):
            name = column_name(left)
            if name is None or not isinstance(choices, ast.List | ast.Tuple):
                raise RuleSyntaxError("write: column in ['a', 'b']")
            if any(constant_of(item) is None for item in choices.elts):
                raise RuleSyntaxError("the choices of 'in' must be texts or numbers")
            yield name
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            if any(type(op) not in COMPARISONS for op in ops):
                raise RuleSyntaxError("comparisons are == != < <= > >= in, not in")
            for side in (left, *comparators):
                yield from _check_side(side)
        case _:
            raise RuleSyntaxError("conditions are comparisons joined by and, or, not, missing()")


def leaves_of(node: ast.expr) -> list[ast.expr]:
    """Return the choices of one side of ``in``; of any other side, itself."""
    return node.elts if isinstance(node, ast.List | ast.Tuple) else [node]


def terms_of(node: ast.expr) -> list[ast.expr]:
    """Return what one side of a comparison adds and subtracts."""
    return [term for term, _ in signed_terms(node)]


def signed_terms(node: ast.expr) -> list[tuple[ast.expr, int]]:
    """Return what one side of a comparison adds (1) and subtracts (-1)."""
    terms, sums = [], [(node, 1)]
    while sums:
        match sums.pop():
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right), sign:
                sums += [(right, sign if isinstance(op, ast.Add) else -sign), (left, sign)]
            case term:
                terms.append(term)
    return terms


def _check_side(node: ast.expr) -> Iterable[str]:
    """Yield the columns of one side of a comparison."""
    terms = terms_of(node)
    if len(terms) > _MAX_TERMS:
        raise RuleSyntaxError(f"a sum has {_MAX_TERMS} terms at most")
    for term in terms:
        if (name := column_name(term)) is not None:
            yield name
        elif constant_of(term) is None:
            raise RuleSyntaxError("compare columns, texts and numbers, and their sums, only")
