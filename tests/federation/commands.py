"""Commands as real processes, for tests: start them, and look at what runs and what was said."""

import os
import subprocess
import sys
from pathlib import Path

Result = subprocess.CompletedProcess[str]


DECISIONS = {0: "granted", 3: "refused", 4: "not_enough_data"}


def pratique(*arguments: object, timeout_s: float = 240) -> Result:
    command = [sys.executable, "-m", "pratique_server.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)


def failed(result: Result, code: int, *words: str) -> None:
    """Check exit code, one sentence and no traceback."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    for word in words:
        assert word in result.stderr + result.stdout


def site_options(files: dict[str, Path]) -> list[str]:
    return [part for name, path in files.items() for part in ("--site", f"{name}={path}")]


def processes_of(folder: Path) -> list[str]:
    """Return command lines of running processes that work in or for a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environment = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            state = str(folder)
            if (state in line or state in environment) and entry.name != str(os.getpid()):
                found.append(line)
    return found


def read_or_nothing(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""
