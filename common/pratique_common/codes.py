"""Rolling codes of public hierarchies up to the nodes that a study lists.

A node is a prefix (``428``, ``C50``, ATC ``C09A``) or a range of one length (``390-459``,
``E10-E14``). A code belongs to the most specific listed node that contains it: the longest, then
the narrowest. Nothing is learned from records.
"""

import re
from collections.abc import Iterable
from typing import Literal

CodeSystem = Literal["prefix", "icd9", "icd10"]

ICD9_CHAPTERS = (
    "001-139", "140-239", "240-279", "280-289", "290-319", "320-389", "390-459", "460-519",
    "520-579", "580-629", "630-679", "680-709", "710-739", "740-759", "760-779", "780-799",
    "800-999", "V01-V91", "E000-E999",
)  # fmt: skip
"""Chapters of ICD-9-CM (2015) and its two supplementary classifications."""

ICD10_CHAPTERS = (
    "A00-B99", "C00-D49", "D50-D89", "E00-E99", "F00-F99", "G00-G99", "H00-H59", "H60-H99",
    "I00-I99", "J00-J99", "K00-K99", "L00-L99", "M00-M99", "N00-N99", "O00-O9A", "P00-P99",
    "Q00-Q99", "R00-R99", "S00-T99", "U00-U99", "V00-Y99", "Z00-Z99",
)  # fmt: skip
"""Chapters of ICD-10, each to the end of its letters: WHO's and those of ICD-10-CM."""

CHAPTERS = {"icd9": ICD9_CHAPTERS, "icd10": ICD10_CHAPTERS}

_NODE = re.compile(r"[0-9A-Z]+")
_ICD9 = re.compile(r"([EV]?)(\d{1,5})(?:\.(\d{0,2}))?")
_ICD10 = re.compile(r"[A-Z]\d[0-9A-Z](?:\.?[0-9A-Z]{1,4})?[†*+!]?")
_ICD9_DIGITS = {"": 3, "V": 2, "E": 3}


def check_nodes(nodes: Iterable[str], system: CodeSystem) -> None:
    """Refuse nodes that no code can belong to.

    Raises:
        ValueError: small letters or dots; ends of a range that cannot be compared.
    """
    for node in nodes:
        first, dash, last = node.partition("-")
        if system != "prefix" and not all(
            map(_NODE.fullmatch, (first, last) if dash else (first,))
        ):
            raise ValueError(f"'{node}' is no node: write capitals and digits without a dot")
        if dash and not (first and len(first) == len(last) and first <= last):
            raise ValueError(f"'{node}' is no range: write two codes of one length in order")


def roll_up(text: str, nodes: tuple[str, ...], system: CodeSystem) -> str | None:
    """Return the most specific node that contains a code, None if there is none."""
    code = _normal(text, system)
    if code is None:
        return None
    return max((node for node in nodes if _contains(node, code)), key=_specificity, default=None)


def _normal(text: str, system: CodeSystem) -> str | None:
    """Return a code in capitals, without a dot, its category filled up to its full length."""
    code = text.strip().upper()
    if system == "prefix":
        return code
    if system == "icd10":
        # Free text is no code: "sepsis" does not belong to chapter S.
        return code.replace(".", "").rstrip("†*+!") if _ICD10.fullmatch(code) else None
    match = _ICD9.fullmatch(code)
    if match is None:
        return None
    letter, category, rest = match.groups(default="")
    digits = _ICD9_DIGITS[letter]
    # Without a dot, digits beyond the category are its subcategory: 25083 is 250.83.
    return letter + category.zfill(digits) + rest


def _contains(node: str, code: str) -> bool:
    first, dash, last = node.partition("-")
    head = code[: len(first)]
    return first <= head <= last if dash else head == first


def _specificity(node: str) -> tuple[int, int]:
    """Return what orders nodes that contain a code: longer, then (of ranges) narrower."""
    first, dash, last = node.partition("-")
    width = 0
    for low, high in zip(first, last, strict=False):
        width = 128 * width + ord(high) - ord(low)
    return len(first), -width if dash else 0
