"""Write ``requirements.txt`` beside downloaded wheels: what is installed, by version and SHA-256.

    python docker/lock_wheels.py FOLDER CONSTRAINTS REQUIREMENT...

pip itself finds which of the wheels the requirements need, so that tools which lie there for other
ends are not installed. Whoever holds the file's hash holds the hash of everything.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

FILE = "requirements.txt"


def lock(folder: Path, constraints: Path, wanted: list[str]) -> list[str]:
    """Return a line for each wheel that ``wanted`` needs, sorted by name.

    Raises:
        SystemExit: a wheel is missing, or something there is no wheel and would be built.
    """
    lines = []
    for each in _resolved(folder, constraints, wanted):
        wheel = Path(unquote(urlsplit(each["download_info"]["url"]).path))
        name, version = each["metadata"]["name"], each["metadata"]["version"]
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        lines.append(f"{name.lower()}=={version} --hash=sha256:{digest}")
    return sorted(lines)


def _resolved(folder: Path, constraints: Path, wanted: list[str]) -> list[dict]:  # type: ignore[type-arg]
    command = [
        sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "install",
        "--quiet", "--dry-run", "--ignore-installed", "--no-index", "--only-binary", ":all:",
        "--find-links", str(folder), "-c", str(constraints), "--report", "-", *wanted,
    ]  # fmt: skip
    found = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if found.returncode:
        sys.exit(f"{folder}: its wheels do not suffice; run 'make wheelhouse' with an index.")
    install: list[dict] = json.loads(found.stdout)["install"]  # type: ignore[type-arg]
    return install


def main() -> None:
    """Lock the wheels that the command line names."""
    folder, constraints, *wanted = sys.argv[1:]
    lines = lock(Path(folder), Path(constraints), wanted)
    (Path(folder) / FILE).write_text("\n".join(lines) + "\n")
    sys.stdout.write(f"{len(lines)} wheels are locked in {Path(folder) / FILE}\n")


if __name__ == "__main__":
    main()
