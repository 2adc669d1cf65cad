"""What the documents say is true: commands, exit codes, examples, links and make targets."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from pratique_client.cli import app as client_app
from pratique_client.site import SiteSettings
from pratique_common.errors import EXIT_CODE_MEANINGS
from pratique_common.generators.build import build_generator
from pratique_common.phantoms.scans import scans_study_path
from pratique_common.study import parse_study, parse_study_text
from pratique_server.cli import app as server_app

ROOT = Path(__file__).parents[1]
APPS = {"pratique": server_app, "pratique-client": client_app}
README = (ROOT / "README.md").read_text("utf-8")
COMPONENTS = {name: f"pratique_{name}" for name in ("common", "privacy", "client", "server")}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def _documents() -> list[Path]:
    """Return every Markdown file that is ours, and none of an environment's or of a demo's."""
    folders = ("docs", "benchmarks", "tests", *COMPONENTS)
    inner = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.md"))]
    return [*sorted(ROOT.glob("*.md")), *inner]


DOCUMENTS = _documents()
BY_NAME = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)


def _without_fences(text: str) -> str:
    return _FENCE.sub("", text)


def _code_lines(text: str) -> Iterator[str]:
    """Yield each line of shell blocks and each code span."""
    for kind, block in _FENCE.findall(text):
        if kind == "sh":
            yield from block.splitlines()
    yield from _SPAN.findall(_without_fences(text))


def _calls(text: str, *programs: str) -> list[list[str]]:
    """Return the words of each line of code that calls one of these programs."""
    lines = (line.removeprefix("$ ").removeprefix(".venv/bin/") for line in _code_lines(text))
    return [
        shlex.split(line, comments=True)
        for line in lines
        if line.split(maxsplit=1)[:1] in [[program] for program in programs]
    ]


def _command_lines(text: str) -> list[list[str]]:
    return _calls(text, *APPS)


def _problem(words: list[str]) -> str | None:
    """Return what is wrong with a call of one of our programs, None if it could be made.

    A call may name a command alone, without its arguments.
    """
    command: click.Command = typer.main.get_command(APPS[words[0]])
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return f"there is no command '{' '.join(words)}'"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {"--help", *(name for parameter in command.params for name in parameter.opts)}
    unknown = [word for word in rest if word.startswith("-") and word not in known]
    return f"'{' '.join(words)}' has no option {unknown[0]}" if unknown else None


def _leaves(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _leaves(inner, (*path, name))
    else:
        yield path


COMMANDS = [
    path
    for program, app in APPS.items()
    for path in _leaves(typer.main.get_command(app), (program,))
]


@BY_NAME
def test_every_command_named_exists(document: Path) -> None:
    problems = [_problem(words) for words in _command_lines(document.read_text("utf-8"))]
    assert [problem for problem in problems if problem] == []


def test_the_readme_names_every_command() -> None:
    named = {" ".join(words) for words in _command_lines(README)}
    missing = [" ".join(path) for path in COMMANDS if " ".join(path) not in named]
    assert missing == []


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_has_an_example_that_could_be_run(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(APPS[path[0]], [*path[1:], "--help"])
    assert result.exit_code == 0
    command: click.Command = typer.main.get_command(APPS[path[0]])
    for name in path[1:]:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    example = re.fullmatch(r"Example: (.+)", command.epilog or "")
    assert example is not None, f"{' '.join(path)} has no example"
    assert "Example:" in result.output
    words = shlex.split(example[1])
    assert words[: len(path)] == list(path)
    assert _problem(words) is None
    required = {p.opts[0] for p in command.params if p.required and isinstance(p, click.Option)}
    assert required <= set(words)


def test_the_exit_code_table_is_the_codes_own() -> None:
    section = README.partition("### Exit codes")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (\d+) \| (.+?) \|$", section, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == {
        int(code): meaning for code, meaning in EXIT_CODE_MEANINGS.items()
    }


def test_the_study_example_is_valid() -> None:
    example, images = [text for kind, text in _FENCE.findall(README) if kind == "toml"]
    study = parse_study_text(example, source="README.md")
    assert study.name == "heart-2026"
    assert study.data.positive_level == "yes"
    # The part about images stands for the data and the generator of such a study.
    of_images = tomllib.loads(images)
    of_images["data"]["columns"] = tomllib.loads(scans_study_path().read_text())["data"]["columns"]
    build_generator(parse_study({**tomllib.loads(example), **of_images}, source="README.md"))


def test_the_site_file_example_is_valid() -> None:
    text = (ROOT / "client" / "README.md").read_text("utf-8")
    example, *sources = [text for kind, text in _FENCE.findall(text) if kind == "toml"]
    settings = tomllib.loads(example)
    assert SiteSettings.model_validate(settings).site == "cleveland"
    kinds = set()
    for source in sources:  # tests/client/test_source_examples.py reads from them
        kinds.add(SiteSettings.model_validate(settings | tomllib.loads(source)).source.kind)
    assert kinds == {"table_file", "sql", "fhir", "image_folder", "dicom", "nifti"}


def _anchors(document: Path) -> set[str]:
    """Return the names that headings can be linked by."""
    text = _without_fences(document.read_text("utf-8"))
    headings = (re.sub(r"[^\w\- ]", "", title.lower()) for title in _HEADING.findall(text))
    return {heading.replace(" ", "-") for heading in headings}


@BY_NAME
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    text = _without_fences(document.read_text("utf-8"))
    broken = []
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


@BY_NAME
def test_every_make_target_named_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    calls = _calls(document.read_text("utf-8"), "make")
    named = {word for words in calls for word in words[1:] if "=" not in word}
    assert named <= targets


def test_the_readme_names_every_make_target() -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    missing = [target for target in targets if not re.search(rf"make {target}\b", README)]
    assert missing == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_files_that_a_component_lists_exist(component: str) -> None:
    text = (ROOT / component / "README.md").read_text("utf-8")
    table = text.partition("## Files")[2].partition("\n## ")[0]
    listed = _SPAN.findall(table)
    files = [name for name in listed if re.fullmatch(r"[\w/]+\.(py|toml)", name)]
    assert len(files) > 5
    missing = [
        name for name in files if not (ROOT / component / COMPONENTS[component] / name).is_file()
    ]
    assert missing == []


@BY_NAME
def test_no_document_names_a_place_on_somebodys_machine(document: Path) -> None:
    text = document.read_text("utf-8")
    assert re.findall(r"(?<![\w.])/(?:work|tmp|home|root|opt)/\S*", text) == []


def test_every_code_that_may_leave_a_site_stands_in_the_runbook() -> None:
    sources = [
        path.read_text()
        for part in ("client", "privacy")
        for path in (ROOT / part).rglob("*.py")
        if "local_audits" not in str(path)
    ]
    codes = {code for text in sources for code in re.findall(r'code="([a-z_]+)"', text)}
    codes |= {code for text in sources for code in re.findall(r'_veto\("([a-z_]+)"\)', text)}
    runbook = (ROOT / "docs" / "operations.md").read_text()
    assert len(codes) > 40
    assert [code for code in sorted(codes) if f"`{code}`" not in runbook] == []


def test_nothing_large_is_under_version_control() -> None:
    """Wheels and images once came along with a merge."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert len(files) > 100
    assert [str(file) for file in files if file.is_file() and file.stat().st_size > 500_000] == []
