"""A simulated cardiology population: three hospitals, repeated visits, not one patient.

The outcome is drawn from a published risk equation (``framingham_risk``). All other numbers below
are plausible for European cardiology patients, not fitted to any data: ages, lipids and pressures
of the size that surveys report, treatment effects of the size that meta-analyses of trials report.

The order of causes is age and sex → smoking, BMI → diabetes → pressure, lipids → treatment → risk;
a hidden severity, independent of the risk factors, decides together with the risk who has an event,
and shows itself in admissions, ejection fractions and troponins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from pratique_common.errors import UsageError
from pratique_common.rules import BoolArray

FloatArray = NDArray[np.float64]

_VISIT_SHARES = (0.5, 0.3, 0.2)  # of patients with one, two and three visits
_NO_YES = np.array(["no", "yes"], dtype=object)
_SMOKING = np.array(["never", "former", "current", None], dtype=object)
_NEVER, _FORMER, _CURRENT, _UNKNOWN = range(4)
# Columns of whole numbers that can be missing: floats in memory, written without a decimal point.
_WHOLE_WITH_MISSING = ("total_cholesterol", "hdl_cholesterol", "ejection_fraction", "troponin")

# ln of age, total cholesterol, HDL, systolic pressure untreated and treated; smoker, diabetic.
_BETAS_WOMEN = (2.32888, 1.20904, -0.70833, 2.76157, 2.82263, 0.52873, 0.69154)
_BETAS_MEN = (3.06117, 1.12370, -0.93263, 1.93303, 1.99881, 0.65451, 0.57367)


@dataclass(frozen=True)
class Hospital:
    """Case mix and coding habits of one simulated hospital. Logits are at age 60 and BMI 27."""

    name: str
    num_patients: int
    mean_age_years: float
    share_women: float
    current_smoker_logit: float
    former_smoker_logit: float
    median_bmi: float
    diabetes_logit: float
    admission_logit: float
    hba1c_logit: float
    bp_step_mmhg: int = 1
    former_coded_never: float = 0.0


HOSPITALS = (
    # A tertiary centre: old and ill. Its doctors ask who smokes, not always who used to.
    Hospital("harbour", 5_200, 65, 0.42, -1.1, 0.1, 27.0, -1.35, -0.9, -1.2, 1, 0.35),
    # Suburban and young; its cuffs are read to the nearest 10 mmHg.
    Hospital("northgate", 4_000, 54, 0.52, -1.7, -0.5, 26.2, -2.1, -1.7, -1.5, 10),
    # A deprived district: more smoking, obesity and diabetes; HbA1c is rarely asked for.
    Hospital("lakeside", 2_800, 58, 0.48, -0.2, -0.2, 28.6, -1.2, -1.4, -3.4),
)


class _People(NamedTuple):
    """What stays with a patient between visits; every array has shape (patients,) or (rows,)."""

    age_years: FloatArray
    woman: BoolArray
    smoking: NDArray[np.int64]
    bmi: FloatArray
    diabetic: BoolArray
    systolic_bp: FloatArray  # untreated, mmHg
    total_cholesterol: FloatArray  # untreated, mg/dl
    hdl_cholesterol: FloatArray  # mg/dl
    hba1c: FloatArray  # %
    ejection_fraction: FloatArray  # %
    severity: FloatArray  # standard normal
    bp_drug_draw: FloatArray  # uniform: kept, so that a treatment once begun goes on
    statin_draw: FloatArray


def framingham_risk(
    *,
    age_years: FloatArray,
    woman: BoolArray,
    total_cholesterol_mg_dl: FloatArray,
    hdl_cholesterol_mg_dl: FloatArray,
    systolic_bp_mmhg: FloatArray,
    bp_treated: BoolArray,
    smoker: BoolArray,
    diabetic: BoolArray,
) -> FloatArray:
    """Return the risk in [0, 1] of a first cardiovascular event within ten years, shape (rows,).

    The sex-specific Cox models of D'Agostino et al., "General cardiovascular risk profile for use
    in primary care", Circulation 2008;117:743-753. They were derived at ages 30 to 74, so
    ages outside are taken as 30 and 74: the risk of older patients is too low rather than made up.
    """
    log_systolic = np.log(systolic_bp_mmhg)
    logs = np.log([np.clip(age_years, 30, 74), total_cholesterol_mg_dl, hdl_cholesterol_mg_dl])
    pressures = (np.where(bp_treated, 0, log_systolic), np.where(bp_treated, log_systolic, 0))
    terms = np.vstack([logs, *pressures, smoker, diabetic])
    women = 0.95012 ** np.exp(np.dot(_BETAS_WOMEN, terms) - 26.1931)
    men = 0.88936 ** np.exp(np.dot(_BETAS_MEN, terms) - 23.9802)
    return np.asarray(1 - np.where(woman, women, men), np.float64)


def simulate_cohort(
    seed: int, *, num_patients: Mapping[str, int] | None = None
) -> dict[str, pd.DataFrame]:
    """Return one table of visits per hospital; missing values are NaN or None.

    Args:
        seed: every hospital draws from a stream of its own, so its table depends on the seed and
            on its own size alone.
        num_patients: hospital → patients, 1 or more; hospitals not named keep their usual size.

    Raises:
        UsageError: a hospital that does not exist, or a size below 1.
    """
    sizes = {hospital.name: hospital.num_patients for hospital in HOSPITALS}
    sizes |= {} if num_patients is None else num_patients
    if len(sizes) > len(HOSPITALS) or min(sizes.values()) < 1:
        names = ", ".join(hospital.name for hospital in HOSPITALS)
        raise UsageError(f"num_patients: give 1 or more to hospitals out of {names}.")
    streams = zip(HOSPITALS, default_rng(seed).spawn(len(HOSPITALS)), strict=True)
    return {one.name: _simulate(one, sizes[one.name], rng) for one, rng in streams}


def write_cohort(
    directory: Path, *, seed: int, num_patients: Mapping[str, int] | None = None
) -> dict[str, Path]:
    """Write one CSV file (UTF-8, missing as an empty field) per hospital; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, table in simulate_cohort(seed, num_patients=num_patients).items():
        paths[name] = directory / f"{name}.csv"
        whole = table.astype(dict.fromkeys(_WHOLE_WITH_MISSING, "Int64"))
        whole.to_csv(paths[name], index=False, encoding="utf-8", lineterminator="\n")
    return paths


def study_path() -> Path:
    """Return the study file that describes the cohort."""
    return Path(__file__).with_name("cardiology.toml")


def _simulate(hospital: Hospital, num_patients: int, rng: Generator) -> pd.DataFrame:
    people = _people(hospital, num_patients, rng)
    visits = rng.choice((1, 2, 3), num_patients, p=_VISIT_SHARES)
    rows = np.repeat(np.arange(num_patients), visits)
    visit = np.arange(len(rows), dtype=np.float64) - np.repeat(np.cumsum(visits) - visits, visits)
    table = _visits(hospital, _People._make(values[rows] for values in people), visit, rng)
    patients = [f"{hospital.name}-{number:06d}" for number in range(1, num_patients + 1)]
    table.insert(0, "patient", np.array(patients, dtype=object)[rows])
    return table


def _people(hospital: Hospital, num: int, rng: Generator) -> _People:
    # A beta on 30 to 95 years, unlike a clipped normal distribution, has no heaps at its ends.
    mean = (hospital.mean_age_years - 30) / 65
    age = np.floor(30 + 65 * rng.beta(8 * mean, 8 * (1 - mean), num))
    woman = rng.random(num) < hospital.share_women

    # Smoking falls and former smoking rises with age; both are more frequent in men.
    scores = np.zeros((num, 3))
    scores[:, _FORMER] = hospital.former_smoker_logit + 0.015 * (age - 60) - 0.5 * woman
    scores[:, _CURRENT] = hospital.current_smoker_logit - 0.04 * (age - 60) - 0.3 * woman
    smoking = np.argmax(scores + rng.gumbel(size=(num, 3)), axis=1)

    log_bmi = np.log(hospital.median_bmi) + np.where(woman, 0.18, 0.15) * rng.normal(size=num)
    bmi = np.exp(log_bmi - 0.004 * np.maximum(age - 70, 0) - 0.03 * (smoking == _CURRENT))
    diabetes_logit = hospital.diabetes_logit + 0.035 * (age - 60) + 0.11 * (bmi - 27) - 0.3 * woman
    diabetic = rng.random(num) < expit(diabetes_logit)

    # Systolic pressure rises by some 5 mmHg in ten years, more steeply in women.
    by_age = np.where(woman, 0.6 * (age - 57), 0.5 * (age - 55))
    systolic = rng.normal(131, 14, num) + by_age + 0.55 * (bmi - 27) + 4 * diabetic
    # Total cholesterol rises in women after the menopause and falls in old age.
    total = rng.normal(208, 36, num) + 14 * (woman & (age > 51)) - 0.7 * np.maximum(age - 65, 0)
    log_hdl = np.log(np.where(woman, 59, 48)) - 0.012 * (bmi - 27) + 0.22 * rng.normal(size=num)
    hdl = np.exp(log_hdl - 0.09 * diabetic - 0.09 * (smoking == _CURRENT))
    # 6.5 % is the diagnostic threshold; treated diabetics can be below it, nobody else above.
    healthy = rng.normal(5.45, 0.28, num) + 0.006 * (age - 60) + 0.015 * (bmi - 27)
    hba1c = np.where(diabetic, 5.9 + rng.gamma(2.0, 0.75, num), healthy)

    severity = rng.normal(size=num)
    failing_logit = -2.5 + 0.8 * severity + 0.035 * (age - 60) - 0.5 * woman + 0.4 * diabetic
    failing = rng.random(num) < expit(failing_logit)
    ejection = np.where(failing, rng.normal(37, 8, num), rng.normal(60, 5, num))
    return _People(
        age_years=age,
        woman=woman,
        smoking=smoking,
        bmi=bmi,
        diabetic=diabetic,
        systolic_bp=systolic,
        total_cholesterol=total,
        hdl_cholesterol=hdl,
        hba1c=hba1c,
        ejection_fraction=ejection,
        severity=severity,
        bp_drug_draw=rng.random(num),
        statin_draw=rng.random(num),
    )


def _visits(hospital: Hospital, people: _People, visit: FloatArray, rng: Generator) -> pd.DataFrame:
    """Draw yearly visits, one row for each entry of ``people``; ``visit`` counts from 0."""
    num = len(visit)

    def chance(probability: FloatArray) -> BoolArray:
        return np.asarray(rng.random(num) < probability)

    def noise(deviation: float) -> FloatArray:
        return deviation * rng.normal(size=num)

    # 1. State and treatment. Drugs lower pressure by some 12 mmHg and cholesterol by a quarter.
    age = np.minimum(people.age_years + visit, 95)
    stopped = chance(0.08 * visit)  # some relapse
    current = (people.smoking == _CURRENT) & ~stopped
    smoking = np.where(current, _CURRENT, np.minimum(people.smoking, _FORMER))
    bmi = np.clip(people.bmi + noise(0.6), 15.5, 58).round(1)
    bp_logit = -0.5 + 0.09 * (people.systolic_bp - 135) + 0.7 * people.diabetic + 0.2 * visit
    treated = people.bp_drug_draw < expit(bp_logit)
    statin_logit = -1.2 + 0.025 * (people.total_cholesterol - 210) + 0.05 * (people.age_years - 60)
    statin = people.statin_draw < expit(statin_logit + 1.5 * people.diabetic + 0.2 * visit)

    # 2. Measurements: a patient's level, and the variation from visit to visit.
    systolic = np.clip(people.systolic_bp + 0.5 * visit - 12 * treated + noise(9), 84, 216).round()
    diastolic = 79 + 0.36 * (systolic - 130) - 0.3 * np.maximum(age - 55, 0) + noise(8)
    diastolic = np.clip(diastolic, 42, np.minimum(126, systolic - 15)).round()
    total = np.clip(people.total_cholesterol * np.where(statin, 0.75, 1) + noise(12), 85, 355)
    hdl = np.clip(people.hdl_cholesterol + noise(3), 17, np.minimum(118, 0.6 * total)).round()
    hba1c = np.clip(people.hba1c + noise(0.15), 4.2, np.where(people.diabetic, 13.9, 6.4)).round(1)
    ejection = np.clip(people.ejection_fraction + noise(3), 12, 78).round()

    # 3. Outcome. The severity is independent of the risk factors, so that given these the event has
    # exactly the published probability; the same severity at every visit keeps visits consistent.
    risk = framingham_risk(
        age_years=age,
        woman=people.woman,
        total_cholesterol_mg_dl=total.round(),
        hdl_cholesterol_mg_dl=hdl,
        systolic_bp_mmhg=systolic,
        bp_treated=treated,
        smoker=current,
        diabetic=people.diabetic,
    )
    event = ndtr(-people.severity) < risk

    # 4. Admission, and what is only known of admitted patients.
    failing = people.ejection_fraction < 45
    strain = 0.6 * people.severity + 1.2 * failing + 0.03 * (age - 60) + 0.3 * current
    admitted = chance(expit(hospital.admission_logit + strain + 0.4 * people.diabetic))
    icu = admitted & chance(expit(-2.6 + 0.7 * people.severity + 0.8 * failing))
    log_stay = 1.2 + 0.9 * icu + 0.4 * failing + 0.012 * (age - 65) + noise(0.65)
    stay = np.where(admitted, np.clip(np.exp(log_stay).round(), 1, 60), 0)
    injured = chance(expit(-1.8 + 2.2 * icu + 0.5 * people.severity))
    log_troponin = np.log(9) + 0.02 * (age - 60) + 0.4 * failing + noise(0.55) + 2.8 * injured
    troponin = np.clip(np.exp(log_troponin + np.where(injured, noise(1.0), 0)), 3, 9_900).round()

    # 5. Whether something is measured depends on other columns, never on the value itself.
    lipids_known = chance(expit(1.2 + 0.9 * statin + 0.7 * people.diabetic + 0.02 * (age - 60)))
    hba1c_known = chance(expit(hospital.hba1c_logit + 3.4 * people.diabetic + 0.07 * (bmi - 27)))
    bmi_known = chance(expit(3.0 - 1.6 * icu - 0.03 * np.maximum(age - 70, 0)))
    smoking_known = chance(expit(3.4 - 1.2 * icu))
    ejection_known = chance(np.where(admitted, 0.88, np.where(risk >= 0.2, 0.45, 0)))
    troponin_known = admitted & chance(np.where(icu, 0.97, 0.75))

    # 6. Coding habits.
    forgotten = (smoking == _FORMER) & (rng.random(num) < hospital.former_coded_never)
    coded = np.where(forgotten, _NEVER, smoking)
    step = hospital.bp_step_mmhg
    columns = {
        "age": age.astype(np.int64),
        "sex": np.where(people.woman, "female", "male").astype(object),
        "smoking": _SMOKING[np.where(smoking_known, coded, _UNKNOWN)],
        "bmi": np.where(bmi_known, bmi, np.nan),
        "systolic_bp": ((systolic / step).round() * step).astype(np.int64),
        "diastolic_bp": ((diastolic / step).round() * step).astype(np.int64),
        "total_cholesterol": np.where(lipids_known, total.round(), np.nan),
        "hdl_cholesterol": np.where(lipids_known, hdl, np.nan),
        "diabetes": _NO_YES.take(people.diabetic),
        "hba1c": np.where(hba1c_known, hba1c, np.nan),
        "bp_medication": _NO_YES.take(treated),
        "statin": _NO_YES.take(statin),
        "hospitalised": _NO_YES.take(admitted),
        "icu": _NO_YES.take(icu),
        "length_of_stay": stay.astype(np.int64),
        "ejection_fraction": np.where(ejection_known, ejection, np.nan),
        "troponin": np.where(troponin_known, troponin, np.nan),
        "cvd_event": _NO_YES.take(event),
    }
    return pd.DataFrame(columns)
