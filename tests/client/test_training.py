"""What a site counts for the histogram round."""

import numpy as np
import pytest

from pratique_client.histograms import exact_histograms
from pratique_client.patients import Group
from pratique_client.training import encode_patients
from pratique_privacy.budget import PrivacyPlan
from tests.conftest import small_study


@pytest.mark.parametrize("rows", [1, 2, 3, 6, 7])
def test_no_patient_counts_for_more_than_the_plan_says(rows: int) -> None:
    """Alike rows, the worst case; thirds as 32-bit floats would add up to more than one."""
    data = {**small_study().data.model_dump(mode="json"), "max_rows_per_patient": 7}
    study = small_study(data=data)
    columns = {
        "age": np.full(rows, 40.0),
        "marker": np.full(rows, 1.5),
        "disease": np.full(rows, "yes", object),
    }
    group = Group(columns, np.full(rows, "one", object))
    counted = exact_histograms(study, *encode_patients(study, group), group)
    start = 0
    for section in PrivacyPlan(study).histogram_sum(3).sections:
        size = section.size - section.reserved
        norm = np.linalg.norm(counted[start : start + size])
        assert norm == pytest.approx(section.sensitivity)
        assert norm <= section.sensitivity * (1 + 1e-12)
        start += size
    assert start == counted.size
