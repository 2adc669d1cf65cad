"""The Flower bundle of a study: settings travel, code never does.

It holds the study and points to the packages that are installed at every site. It follows from the
study byte for byte, so a site knows the hash of the only bundle that it will run before any
arrives.
"""

from flwr.cli.build import build_fab_from_files

from pratique_common import __version__
from pratique_common.study import StudySpec

SERVER_APP = "pratique_server.app:app"
CLIENT_APP = "pratique_client.app:app"
JOB_KEY = "job"
"""The one run setting: which prepared job of the coordinator this run is."""

_PYPROJECT = f"""\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "pratique-study"
version = "{__version__}"
description = "A study of Pratique: settings only, no code"
license = "Apache-2.0"
dependencies = ["flwr==1.41.0"]

[tool.flwr.app]
publisher = "pratique"

[tool.flwr.app.components]
serverapp = "{SERVER_APP}"
clientapp = "{CLIENT_APP}"

[tool.flwr.app.config]
{JOB_KEY} = ""
"""

_README = (
    "A study of Pratique. study.json is the contract that every site approved by its digest.\n"
)


def thin_bundle(study: StudySpec) -> bytes:
    """Return the study's bundle; equal studies give equal bytes on every machine."""
    files = {
        "pyproject.toml": _PYPROJECT.encode(),
        "README.md": _README.encode(),
        "study.json": study.canonical(),
    }
    bundle, _ = build_fab_from_files(files)
    return bundle
