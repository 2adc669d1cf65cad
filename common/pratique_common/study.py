"""The study file: the contract that every site approves by its digest."""

import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pratique_common.canonical import canonical_json, sha256_hex
from pratique_common.column_base import Spec
from pratique_common.errors import InvalidFileError
from pratique_common.schema import TableSchema

SPEC_VERSION: Literal[1] = 1

STUDY_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
TO_BE_WRITTEN = "TO BE WRITTEN"
"""What stands in a draft where a person has to decide; no study holds it."""

Share = Annotated[float, Field(gt=0, lt=1)]

# Tolerances by kind of access: design/audit.md 4, in the report's words "agreed beforehand".
_DEFAULT_NEAR_MATCH_EXCESS = {"open": 0.015, "controlled": 0.03}
_DEFAULT_TAIL_TPR = {"open": 0.02, "controlled": 0.03}


class GeneratorSpec(BaseModel):
    """Which generator is trained. Its own settings follow and are checked by the generator."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = "pairwise"

    @property
    def settings(self) -> dict[str, Any]:
        """The generator's own settings as written in the study."""
        return dict(self.model_extra or {})


class TrainingSpec(Spec):
    """Rounds over the federation, each one sum of clipped vectors of patients.

    A fitted generator (``pairwise``) takes the mean of its rounds: more of them cost time, give the
    same noise in all, and a lost one loses its share only. One that is trained by DP-SGD takes a
    step each round and needs more, with ``sample_rate`` below one: 60 and .3 up to ε = 3. One that
    needs histograms alone (``independent``) has 0 rounds, and all of the budget goes to these.
    """

    rounds: int = Field(default=3, ge=0, le=10_000)
    sample_rate: float = Field(default=1.0, gt=0, le=1, description="Poisson rate of a patient")
    learning_rate: float | None = Field(
        default=None, gt=0, le=10, description="of DP-SGD; none: the generator's own"
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="L2 bound of a patient's vector")
    histogram_share: Share | None = Field(
        default=None,
        description="share of the budget, in precision, for the histogram round; none: a quarter, "
        "or by patients, ε and columns where pair statistics are fitted",
    )
    round_timeout_s: float = Field(default=300.0, gt=0, le=86_400)
    # A step takes .2 s with 12,000 patients on one core.
    reply_interval_s: float = Field(
        default=0.5,
        ge=0,
        le=3600,
        description="answers leave after 1, 2, 4 ... of it: times must not tell a batch's size",
    )

    @model_validator(mode="after")
    def _answers_come_in_time(self) -> Self:
        if self.reply_interval_s > self.round_timeout_s / 2:
            raise ValueError(
                "reply_interval_s: answers would come too late; at most half of round_timeout_s"
            )
        return self


class PrivacySpec(Spec):
    """What training may cost a patient, histograms included."""

    target_epsilon: float = Field(ge=0.05, le=100)
    target_delta: float = Field(default=1e-5, gt=0, lt=0.1)
    noise: Literal["secure_sum", "local"] = "secure_sum"
    expected_patients: int = Field(ge=1, description="public planning constant, never a count")
    tolerated_dropouts: int = Field(
        default=0, ge=0, le=500, description="secure_sum: sites that may vanish in a round"
    )
    colluding_sites: int = Field(
        default=1, ge=0, le=500, description="secure_sum: sites that may help the coordinator"
    )

    @property
    def least_sites(self) -> int:
        """The fewest sites with which sums can be taken as the study demands.

        Of n sites n - d are left to open a sum: at least 3, at least the threshold of shares
        (more than (n + c) / 2), and at least one that does not collude.
        """
        if self.noise == "local":
            return 1
        d, c = self.tolerated_dropouts, self.colluding_sites
        return max(d + 3, d + c + 1, 2 * d + c + 1)

    def share_threshold(self, num_sites: int) -> int:
        """Return how many sites must open a sum together: the least above (n + c) / 2.

        Two lists of survivors cannot both find so many, since honest sites answer for one.
        """
        return (num_sites + self.colluding_sites) // 2 + 1


class AuditSpec(Spec):
    """The audit is itself a query on patients and has a budget of its own."""

    holdout_fraction: float = Field(default=0.2, gt=0, le=0.5)
    epsilon_members: float = Field(default=0.5, ge=0.05, le=100)
    epsilon_holdout: float = Field(default=2.0, ge=0.05, le=100)
    epsilon_utility: float = Field(default=1.0, ge=0.05, le=100)
    delta: float = Field(default=1e-6, gt=0, lt=0.1)


class ReleasePolicy(Spec):
    """What is released, and the tolerances the gate holds the audit to."""

    rows: int = Field(default=10_000, ge=100, le=10_000_000)
    min_sites: int = Field(default=3, ge=3)
    access: Literal["open", "controlled"] = "controlled"
    near_match_excess: Share = Field(default=0.03, description="share of members")
    near_match_patients: int = Field(default=50, ge=1, description="the same, capped in people")
    linkage_risk: Share = 0.09
    inference_risk: Share = 0.09
    tail_tpr: Share = Field(default=0.03, description="true positive rate at 1 % false positives")
    attack_auc: float = Field(default=0.55, gt=0.5, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _defaults_by_access(cls, data: Any) -> Any:
        if isinstance(data, dict) and (access := data.get("access")) in _DEFAULT_TAIL_TPR:
            return {
                "near_match_excess": _DEFAULT_NEAR_MATCH_EXCESS[access],
                "tail_tpr": _DEFAULT_TAIL_TPR[access],
                **data,
            }
        return data


class DisclosureRecord(Spec):
    """Who receives the release, and why."""

    purpose: str = Field(min_length=1)
    recipients: tuple[str, ...] = Field(min_length=1)
    licence: str = Field(min_length=1)
    expires: date

    @model_validator(mode="after")
    def _check_written(self) -> Self:
        for field in ("purpose", "recipients", "licence"):
            if TO_BE_WRITTEN in getattr(self, field):
                raise ValueError(f"{field}: still to be written")
        return self


class StudySpec(Spec):
    """The contract every site approves.

    Its digest names the study in every message, ledger entry, approval and bundle.
    """

    spec_version: Literal[1] = SPEC_VERSION
    name: str = Field(pattern=f"^{STUDY_NAME.pattern}$")
    simulated: bool = Field(default=False, description="the data are phantoms: no patient at all")
    data: TableSchema
    generator: GeneratorSpec = GeneratorSpec()
    training: TrainingSpec = TrainingSpec()
    privacy: PrivacySpec
    audit: AuditSpec = AuditSpec()
    release: ReleasePolicy = ReleasePolicy()
    disclosure: DisclosureRecord

    @model_validator(mode="after")
    def _check_delta(self) -> Self:
        # A δ of 1/n lets a mechanism publish one patient in full (NIST SP 800-226, 2.2).
        if self.privacy.target_delta * self.privacy.expected_patients >= 1:
            raise ValueError("privacy: target_delta must be far below 1 / expected_patients")
        return self

    def canonical(self) -> bytes:
        """Return the canonical form: every field with its default written out."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form."""
        return sha256_hex(self.canonical())

    @property
    def expected_members(self) -> float:
        """Planned number of patients in training, from public constants alone."""
        return self.privacy.expected_patients * (1 - self.audit.holdout_fraction)

    @property
    def expected_holdout(self) -> float:
        """Planned number of hold-out patients, from public constants alone."""
        return self.privacy.expected_patients * self.audit.holdout_fraction


# Kinds of columns and of a site's sources: no fields, but parts of where pydantic finds an error.
_TAGS = (
    "numeric", "categorical", "table_file", "sql", "fhir", "image_folder", "dicom", "nifti",
)  # fmt: skip


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InvalidFileError: it does not exist, is not UTF-8 or is not TOML.
    """
    if not path.is_file():
        raise InvalidFileError(path, problem="no such file", remedy="check the path")
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise InvalidFileError(
            path, problem="not UTF-8 text", remedy="save the file as UTF-8"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidFileError(
            path, problem=f"not valid TOML ({error})", remedy="mend that line"
        ) from None


def invalid_fields(path: str | Path, error: ValidationError) -> InvalidFileError:
    """Turn pydantic's first finding into one sentence with file, field and remedy."""
    first = error.errors(include_url=False, include_input=False)[0]
    parts = [str(part + 1) if isinstance(part, int) else part for part in first["loc"]]
    field = ".".join(part for part in parts if part not in _TAGS) or None
    more = f" ({error.error_count() - 1} more after it)" if error.error_count() > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    match first["type"]:
        case "missing":
            problem, remedy = "this field is missing", "add it"
        case "extra_forbidden":
            problem, remedy = "unknown field", "remove it or correct its spelling"
        case "union_tag_not_found":
            problem, remedy = f"{first['ctx']['discriminator']} is missing", "add it"
        case "union_tag_invalid":
            problem = f"unknown {first['ctx']['discriminator']}"
            remedy = f"choose one of {first['ctx']['expected_tags']}"
        case "value_error":
            if field is not None and message.startswith(field.rpartition(".")[2] + ": "):
                message = message.partition(": ")[2]
            problem, remedy = message, "correct it"
        case _:
            problem, remedy = message[:1].lower() + message[1:], "correct the value"
    return InvalidFileError(path, field=field, problem=problem + more, remedy=remedy)


def parse_study(data: Any, *, source: str | Path) -> StudySpec:
    """Build a study from parsed TOML or JSON.

    Raises:
        InvalidFileError: with the first invalid field.
    """
    try:
        return StudySpec.model_validate(data)
    except ValidationError as error:
        raise invalid_fields(source, error) from None


def parse_study_text(text: str, *, source: str | Path) -> StudySpec:
    """Build a study from the text of its file.

    Raises:
        InvalidFileError: it is not TOML, or a field is invalid.
    """
    try:
        return parse_study(tomllib.loads(text), source=source)
    except tomllib.TOMLDecodeError as error:
        raise InvalidFileError(
            source, problem=f"not valid TOML ({error})", remedy="mend that line"
        ) from None


def load_study(path: Path) -> StudySpec:
    """Read and check a study file.

    Raises:
        InvalidFileError: the file or a field of it is not acceptable.
    """
    return parse_study(load_toml(path), source=path)
