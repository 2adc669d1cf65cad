"""A study that a small cohort can show and a run ends quickly with."""

from pathlib import Path

import pytest

from pratique_common.phantoms.cohort import study_path
from pratique_privacy.post_processing import pairwise_fit


@pytest.fixture(autouse=True)
def _short_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let coordinator and sites that run in this process fit in a tenth of the iterations.

    How good a fit is, is tested elsewhere; real processes fit as they always do.
    """
    shorter = tuple((number // 10, most, step) for number, most, step in pairwise_fit._SCHEDULE)
    monkeypatch.setattr(pairwise_fit, "_SCHEDULE", shorter)


@pytest.fixture(scope="session")
def quick_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's study with few rounds and rows, and tolerances that a small cohort can show.

    As some editors save it, with a byte order mark.
    """
    text = study_path().read_text() + "\n[training]\nrounds = 4\nround_timeout_s = 60\n"
    text = text.replace("near_match_patients = 150", "rows = 500\nnear_match_patients = 150")
    path = tmp_path_factory.mktemp("study") / "quick.toml"
    text = text.replace("expected_patients = 12000", "expected_patients = 950")
    path.write_text(text, encoding="utf-8-sig")
    return path
