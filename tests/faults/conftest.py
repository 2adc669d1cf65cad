"""What tests of faults share: four hospitals, one of which may be missing."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from pratique_common.phantoms.cohort import study_path
from tests.faults.federation import Federation
from tests.faults.hosts import why_not

Deploy = Callable[..., Federation]
TOLD: list[str] = []
"""What became of each fault; the end of the test run shows it."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in TOLD:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture
def deploy(tmp_path: Path, small_cohort: Mapping[str, Path]) -> Iterator[Deploy]:
    """Bring up hosts, coordinator, proxy and four daemons; end them after the test."""
    made: list[Federation] = []

    def make(
        *, rounds: int = 4, mounted: Mapping[str, int] | None = None, everybody: bool = False
    ) -> Federation:
        quay = tmp_path / "quay.csv"
        shutil.copy(small_cohort["lakeside"], quay)
        study = tmp_path / "study.toml"
        text = study_path().read_text()
        text = text.replace("near_match_patients = 150", "rows = 500\nnear_match_patients = 150")
        text = text.replace("expected_patients = 12000", "expected_patients = 1200")
        if everybody:
            text = text.replace("[release]\n", "[release]\nmin_sites = 4\n")
        else:
            text = text.replace("[privacy]\n", "[privacy]\ntolerated_dropouts = 1\n")
        # A SuperNode that was killed stands in the way of the next one for 20 s.
        study.write_text(f"{text}\n[training]\nrounds = {rounds}\nround_timeout_s = 60\n")
        made.append(Federation(tmp_path, study, {**small_cohort, "quay": quay}, mounted))
        return made[-1]

    yield make
    for federation in made:
        federation.close()
