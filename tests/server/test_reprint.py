"""``pratique report``: the page of a bundle, after all in it was checked; as PDF where possible."""

import builtins
import json
import re
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from pratique_common.errors import UsageError, VerificationError
from pratique_common.signing import public_hex
from pratique_common.study import StudySpec
from pratique_server.report.page import render_report
from pratique_server.report.pdf import pdf_of
from pratique_server.reprint import reprint
from tests.common.test_bundle import KEYS, write_signed
from tests.server.test_opinion import invoke
from tests.server.test_report_page import SITES, answer, hostile_fields, hostile_study, make_report


def sign_report(folder: Path, study: StudySpec, report: dict[str, Any]) -> Path:
    """Write a refusal that verifies, whatever the report says."""
    files = {
        "report.json": json.dumps(report).encode(),
        "report.html": b"<script>what a coordinator wrote</script>",
        "study.toml": tomli_w.dumps(hostile_fields()).encode(),
    }
    privacy = study.privacy
    return write_signed(
        folder,
        kind="refusal",
        decision=report["decision"],
        files=files,
        study_name=study.name,
        study_digest=study.digest,
        noise=privacy.noise,
        tolerated_dropouts=privacy.tolerated_dropouts,
        colluding_sites=privacy.colluding_sites,
        candidate_sha256=report["candidate_sha256"],
    )


@pytest.fixture
def refused() -> dict[str, Any]:
    study = hostile_study()
    return make_report(study, answers={s: answer(study, copies=100) for s in SITES})


def test_a_copy_says_who_signed_and_is_not_the_coordinators_page(
    refused: dict[str, Any], tmp_path: Path
) -> None:
    bundle = sign_report(tmp_path, hostile_study(), refused)
    verified, page = reprint(bundle)
    assert "<script" not in page and "DO NOT RELEASE" in page
    assert "coordinator, a, b and c: every hash and signature was right" in page
    assert "Whose keys they are was not checked" in page
    assert not verified.identities_checked
    _, known = reprint(bundle, trust={name: public_hex(key) for name, key in KEYS.items()})
    assert "The keys are those that the reader trusts" in known
    assert "Signing keys" in known and "Signing keys" not in render_report(refused)


@pytest.mark.parametrize(
    ("lie", "named"),
    [
        (lambda r: r["privacy"].update(epsilon=0.1), "privacy"),
        (lambda r: r["audits"]["NEAR"].update(p_adjusted=1.0), "audits"),
        (lambda r: r["disclosure"].update(licence="any"), "disclosure"),
        (lambda r: r["evidence"].pop("answers"), "not a report"),
        (lambda r: r["reproduction"].pop("seed"), "not a report"),
    ],
)
def test_a_signed_lie_is_not_printed(
    refused: dict[str, Any], tmp_path: Path, lie: Any, named: str
) -> None:
    lie(refused)
    bundle = sign_report(tmp_path, hostile_study(), refused)
    with pytest.raises(VerificationError, match=named):
        reprint(bundle)


def test_the_command_writes_a_page_and_nothing_into_the_bundle(
    refused: dict[str, Any], tmp_path: Path
) -> None:
    bundle = sign_report(tmp_path, hostile_study(), refused)
    page = tmp_path / "page.html"
    exit_code, printed = invoke("report", bundle, "--html", page, "--json")
    assert exit_code == 0
    assert json.loads(printed)["written"] == {"html": str(page)}
    assert "DO NOT RELEASE" in page.read_text("utf-8")
    for wrong in ((), ("--html", page), ("--html", bundle / "copy.html")):
        with pytest.raises(UsageError):
            invoke("report", bundle, *wrong)
    (bundle / "study.toml").write_text("changed")
    with pytest.raises(VerificationError):
        invoke("report", bundle, "--html", page, "--force")


@pytest.mark.parametrize(
    ("error", "remedy"), [(ImportError, "pip install"), (OSError, "library Pango")]
)
def test_without_a_printer_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], remedy: str
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("weasyprint"):
            raise error("cannot load")
        return real(name, *rest, **more)

    for name in [name for name in sys.modules if name.startswith("weasyprint")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UsageError, match=remedy) as caught:
        pdf_of("<p>")
    assert caught.value.exit_code == 2 and caught.value.code == "no_pdf_printer"


def weasyprint() -> Any:
    try:
        import weasyprint as found
    except (ImportError, OSError) as error:
        pytest.skip(f"WeasyPrint cannot be used here: {type(error).__name__}")
    return found


def without_sections(page: str) -> str:
    """Cut a page after its first section, to save seconds."""
    return (
        page[: page.index('<section aria-labelledby="decision">')] + "</div></main></body></html>"
    )


@pytest.mark.parametrize("decision", ["granted", "refused", "not_enough_data"])
def test_page_one_is_one_printed_page(decision: str) -> None:
    printer, study = weasyprint(), hostile_study()
    sizes: dict[str, dict[str, Any]] = {
        "granted": {},
        "refused": {"copies": 100},
        "not_enough_data": {"size": 0.02},
    }
    report = make_report(study, answers={s: answer(study, **sizes[decision]) for s in SITES})
    assert report["decision"] == decision
    document = printer.HTML(string=without_sections(render_report(report))).render()
    headings = {title: target[0] for _, title, target, _ in _flat(document.make_bookmark_tree())}
    first = [title for title, page in headings.items() if page == 0]
    assert any(title.startswith("Who can stop it") for title in first)
    assert headings["1. Identity and binding"] == 1
    assert (document.pages[0].width, document.pages[0].height) == pytest.approx((794, 1123), abs=1)


def test_a_pdf_is_tagged_and_the_same_every_time(refused: dict[str, Any]) -> None:
    weasyprint()
    page = without_sections(render_report(refused))
    content = pdf_of(page)
    objects = b"".join(_inflated(content))
    assert content.startswith(b"%PDF-") and b"/MarkInfo" in objects and b"/Lang" in objects
    assert pdf_of(page) == content


def test_page_one_alone_is_one_sheet(refused: dict[str, Any]) -> None:
    weasyprint()
    page = without_sections(render_report(refused)) + "<p style='break-before: page'>more</p>"
    whole, first = (_sheets(pdf_of(page, page_one=alone)) for alone in (False, True))
    assert whole > 1
    assert first == 1


def _sheets(content: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", b"".join([content, *_inflated(content)])))


def _inflated(content: bytes) -> Any:
    """Yield what the streams of a PDF hold."""
    for stream in re.findall(rb"stream\n(.*?)\nendstream", content, re.DOTALL):
        with suppress(zlib.error):  # a picture that is not deflated
            yield zlib.decompress(stream)


def _flat(tree: Any) -> Any:
    for entry in tree:
        label, target, children, state = entry
        yield 0, label, target, state
        yield from _flat(children)
