"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch

from pratique_common.phantoms.cohort import study_path, write_cohort
from pratique_common.study import StudySpec, load_study, parse_study

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRATIQUE_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setitem(os.environ, "COLUMNS", "200")


@pytest.fixture(scope="session")
def cardiology() -> StudySpec:
    """The demo's study."""
    return load_study(study_path())


@pytest.fixture(scope="session")
def small_cohort(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three small hospitals of phantom patients."""
    sizes = {"harbour": 400, "northgate": 300, "lakeside": 250}
    return write_cohort(tmp_path_factory.mktemp("cohort"), seed=7, num_patients=sizes)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real, openly licensed data; absent outside the project's own machines."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is not here")
    return SHARED_DATA


def rounds_of(generator: str) -> int:
    """Return the least number of rounds that a generator can have."""
    return 0 if generator == "independent" else 1


def small_study(**changes: object) -> StudySpec:
    """Return a study of three columns with up to two rows a patient."""
    data: dict[str, object] = {
        "name": "small",
        "data": {
            "kind": "table",
            "patient_id": "patient",
            "max_rows_per_patient": 2,
            "target": "disease",
            "columns": [
                {"name": "age", "type": "numeric", "lower": 20, "upper": 100, "bins": 8,
                 "integer": True},
                {"name": "marker", "type": "numeric", "edges": [0, 1, 2.5, 10], "missing": True},
                {"name": "disease", "type": "categorical", "categories": ["no", "yes"]},
            ],
        },
        "privacy": {"target_epsilon": 3.0, "expected_patients": 900},
        "training": {"rounds": 5},
        "release": {"rows": 300},
        "disclosure": {
            "purpose": "Test", "recipients": ["Nobody"], "licence": "CC0-1.0",
            "expires": "2030-01-01",
        },
    }  # fmt: skip
    return parse_study({**data, **changes}, source="small.toml")
