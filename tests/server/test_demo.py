"""What ``pratique demo`` says of a refusal: the run itself is tested as a whole elsewhere."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pratique_common.errors import ExitCode
from pratique_server import cli


@pytest.mark.parametrize("code", [ExitCode.DONE, ExitCode.REFUSED, ExitCode.NOT_ENOUGH_DATA])
def test_a_newcomer_is_told_that_some_honest_runs_are_refused(
    code: ExitCode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_simulate", lambda *_: int(code))
    result = CliRunner().invoke(cli.app, ["demo", "--out", str(tmp_path / "demo")], color=False)
    assert result.exit_code == 0, result.output
    assert ("one honest run in twenty" in result.output) == (code == ExitCode.REFUSED)
