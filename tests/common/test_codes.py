"""Codes are rolled up to the nodes of a public hierarchy."""

from itertools import pairwise

import pytest

from pratique_common.codes import CHAPTERS, CodeSystem, check_nodes, roll_up

ICD9 = (*CHAPTERS["icd9"], "250", "2508", "401-405")


@pytest.mark.parametrize(
    ("code", "node"),
    [
        ("250.83", "2508"),  # the longest node
        ("250.02", "250"),
        ("25002", "250"),
        ("240", "240-279"),
        ("402.9", "401-405"),  # a section is narrower than its chapter
        ("459", "390-459"),
        ("8", "001-139"),  # leading zeros are often lost
        ("038", "001-139"),
        ("V45.81", "V01-V91"),
        ("v5", "V01-V91"),
        ("E819.0", "E000-E999"),
        ("nonsense", None),
        ("", None),
    ],
)
def test_icd9(code: str, node: str | None) -> None:
    assert roll_up(code, ICD9, "icd9") == node


@pytest.mark.parametrize(
    ("code", "node"),
    [
        ("E11.9", "E10-E14"),
        ("E1165", "E10-E14"),
        ("i21.4", "I21"),
        ("C7A.1", "C00-D49"),
        ("O9A.2", "O00-O9A"),
        ("H60", "H60-H99"),
        ("Z99", "Z00-Z99"),
        ("11", None),
    ],
)
def test_icd10(code: str, node: str | None) -> None:
    assert roll_up(code, (*CHAPTERS["icd10"], "E10-E14", "I21"), "icd10") == node


def test_prefixes() -> None:
    nodes = ("C", "C09", "C09A")
    assert roll_up("C09AA05", nodes, "prefix") == "C09A"
    assert roll_up("C09C", nodes, "prefix") == "C09"
    assert roll_up("A10", nodes, "prefix") is None


@pytest.mark.parametrize("system", ["icd9", "icd10"])
def test_chapters_are_apart_from_each_other(system: CodeSystem) -> None:
    chapters = sorted(CHAPTERS[system])
    check_nodes(chapters, system)
    for first, second in pairwise(chapters):
        assert first.partition("-")[2] < second.partition("-")[0]


@pytest.mark.parametrize("node", ["45-390", "459-390"])
def test_ranges_that_are_none(node: str) -> None:
    with pytest.raises(ValueError, match="is no range"):
        check_nodes([node], "icd9")


@pytest.mark.parametrize("node", ["e11", "250.8", "", "-", "E10-", "A é"])
def test_nodes_that_no_code_belongs_to(node: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        check_nodes([node], "icd10")


def test_free_text_is_no_code() -> None:
    nodes = (*CHAPTERS["icd10"], "I21")
    for text in ("sepsis", "I", "unknown", "diabetes", "E", "I2"):
        assert roll_up(text, nodes, "icd10") is None, text
    assert roll_up("I21.4†", nodes, "icd10") == "I21"
    assert roll_up("250.123", ICD9, "icd9") is None
