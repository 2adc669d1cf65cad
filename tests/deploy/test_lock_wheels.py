"""The lock of a wheelhouse: all that is needed, nothing else, and no other bytes."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Result = subprocess.CompletedProcess[str]


def _wheel(folder: Path, name: str, version: str, *needs: str) -> Path:
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    metadata = "".join(f"Requires-Dist: {each}\n" for each in needs)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", f"version = '{version}'\n")
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        file.writestr(f"{info}/METADATA", head + metadata)
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """An application, what it needs in two versions, and a tool that it does not need."""
    folder = tmp_path / "wheels with a space"
    folder.mkdir()
    _wheel(folder, "our_app", "1.0", "our_library>=1")
    for version in ("1.5", "2.0"):
        _wheel(folder, "our_library", version)
    _wheel(folder, "our_tool", "3.0")
    (tmp_path / "constraints.txt").write_text("our_library==1.5\n")
    return folder


def _lock(wheels: Path, wanted: str = "our_app") -> Result:
    command = [sys.executable, ROOT / "docker" / "lock_wheels.py", wheels,
               wheels.parent / "constraints.txt", wanted]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _install(wheels: Path, to: Path) -> Result:
    command = [sys.executable, "-m", "pip", "--isolated", "install", "--no-index", "--target", to,
               "--find-links", wheels, "--require-hashes",
               "-r", wheels / "requirements.txt"]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_is_needed_is_locked_and_installs(wheels: Path, tmp_path: Path) -> None:
    locked = _lock(wheels)
    assert locked.returncode == 0, locked.stderr
    library = hashlib.sha256((wheels / "our_library-1.5-py3-none-any.whl").read_bytes())
    first, second = (wheels / "requirements.txt").read_text().splitlines()
    assert first.startswith("our_app==1.0 --hash=sha256:")
    assert second == f"our_library==1.5 --hash=sha256:{library.hexdigest()}"
    installed = _install(wheels, tmp_path / "to")
    assert installed.returncode == 0, installed.stderr
    assert sorted(path.name for path in (tmp_path / "to").glob("*.py")) == [
        "our_app.py", "our_library.py"
    ]  # fmt: skip


def test_another_wheel_of_the_same_name_is_not_installed(wheels: Path, tmp_path: Path) -> None:
    assert _lock(wheels).returncode == 0
    _wheel(wheels, "our_library", "1.5", "our_tool")
    refused = _install(wheels, tmp_path / "to")
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert not (tmp_path / "to").exists()


def test_a_wheelhouse_that_lacks_something_is_not_locked(wheels: Path) -> None:
    for path in wheels.glob("our_library-*"):
        path.unlink()
    refused = _lock(wheels)
    assert refused.returncode == 1
    assert "do not suffice" in refused.stderr
    assert not (wheels / "requirements.txt").exists()
