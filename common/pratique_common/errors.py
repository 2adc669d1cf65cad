"""Every error a user may meet, and the exit code it ends with.

    PratiqueError                 1  a bug: nothing else may end with 1
    ├── UsageError                2  wrong use
    │   └── InvalidFileError      2  a file that cannot be accepted: file, field, remedy
    ├── RefusedError              3  refused by the gate
    ├── NotEnoughDataError        4  not enough data to decide
    ├── VerificationError         5  a bundle, signature or chain that does not verify
    ├── BudgetExceededError       6  the privacy budget does not allow it
    └── FederationError           7  quorum, timeout, crash, study not approved

``code`` is a short public word. It is the only part of an error that may leave a hospital: messages
can name local files and stay where they were raised.
"""

import traceback
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """Exit codes of both commands; the README prints the same table."""

    DONE = 0
    INTERNAL = 1
    INVALID = 2
    REFUSED = 3
    NOT_ENOUGH_DATA = 4
    VERIFICATION_FAILED = 5
    BUDGET_EXHAUSTED = 6
    FEDERATION_FAILED = 7
    INTERRUPTED = 130


EXIT_CODE_MEANINGS: dict[ExitCode, str] = {
    ExitCode.DONE: "done, or the release was granted",
    ExitCode.INTERNAL: "internal error (a bug; the message says where the log is)",
    ExitCode.INVALID: "wrong use or invalid file",
    ExitCode.REFUSED: "refused by the gate",
    ExitCode.NOT_ENOUGH_DATA: "not enough data to decide",
    ExitCode.VERIFICATION_FAILED: "verification failed, or not a bundle",
    ExitCode.BUDGET_EXHAUSTED: "privacy budget exhausted",
    ExitCode.FEDERATION_FAILED: "federation failed (quorum, timeout, crash, study not approved)",
    ExitCode.INTERRUPTED: "interrupted",
}


class PratiqueError(Exception):
    """Base of all errors that are raised on purpose; the message is one sentence for a person."""

    exit_code = ExitCode.INTERNAL
    code = "internal_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class UsageError(PratiqueError):
    """The command was used wrongly."""

    exit_code = ExitCode.INVALID
    code = "wrong_use"


class InvalidFileError(UsageError):
    """A file cannot be accepted. ``problem`` must never contain a value of a record."""

    code = "invalid_file"

    def __init__(
        self,
        path: str | Path,
        *,
        problem: str,
        remedy: str,
        field: str | None = None,
        code: str | None = None,
    ) -> None:
        where = f"{path}: {field}: " if field else f"{path}: "
        super().__init__(f"{where}{problem}; {remedy}.", code=code)
        self.path, self.field, self.problem, self.remedy = str(path), field, problem, remedy


class RefusedError(PratiqueError):
    """The gate refused the release."""

    exit_code = ExitCode.REFUSED
    code = "refused"


class NotEnoughDataError(PratiqueError):
    """There is too little data to decide."""

    exit_code = ExitCode.NOT_ENOUGH_DATA
    code = "not_enough_data"


class VerificationError(PratiqueError):
    """A hash, a signature or a chain does not verify."""

    exit_code = ExitCode.VERIFICATION_FAILED
    code = "verification_failed"


class BudgetExceededError(PratiqueError):
    """The privacy budget does not allow the computation, which has not been started."""

    exit_code = ExitCode.BUDGET_EXHAUSTED
    code = "budget_exhausted"


class FederationError(PratiqueError):
    """The federation could not finish."""

    exit_code = ExitCode.FEDERATION_FAILED
    code = "federation_failed"


def describe_without_values(error: BaseException) -> str:
    """Return type and place of an error. Its own text may quote a record and is left out."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))
    return f"{type(error).__name__} at {places}"
