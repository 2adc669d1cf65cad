"""What several tests of the client watch."""

import logging
from collections.abc import Iterator

import pytest

from tests.client.image_files import MARK, UIDS


@pytest.fixture
def nothing_said(
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> Iterator[None]:
    """Check that whatever was read, nothing of it came into a log, a warning or a terminal."""
    caplog.set_level(logging.DEBUG)
    yield
    said = [record.getMessage() for record in caplog.get_records("call")]
    said += [*capfd.readouterr(), *(str(warning.message) for warning in recwarn)]
    assert [text for text in said if MARK[:10] in text or UIDS in text] == []
