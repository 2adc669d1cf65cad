"""``pratique report``: check a bundle and print its report."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pratique_common import console
from pratique_common.durable import require_place
from pratique_common.errors import UsageError

EXAMPLE = "Example: pratique report demo/bundle --pdf report.pdf --trust consortium.toml"


def report(
    bundle: Annotated[Path, typer.Argument(help="Bundle or refusal: a folder or a .zip.")],
    pdf: Annotated[
        Path | None, typer.Option(help="PDF to write; needs the extra pratique[pdf].")
    ] = None,
    page_one: Annotated[
        bool, typer.Option("--page-one", help="The first sheet of the PDF alone.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Page to write, for a browser.")] = None,
    trust: Annotated[
        Path | None, typer.Option(help="TOML of names and public keys that you trust.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace older files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Check signatures and recompute every claim, then print the report as PDF or HTML."""
    from pratique_common.signing import load_trust
    from pratique_server.report.pdf import pdf_of
    from pratique_server.reprint import reprint

    wanted = {name: path for name, path in (("pdf", pdf), ("html", html)) if path is not None}
    if not wanted:
        raise UsageError("nothing to write; give --pdf FILE, --html FILE or both")
    for path in wanted.values():
        if path.exists() and not force:
            raise UsageError(f"{path} exists already; give another file, or --force")
        if path.resolve().is_relative_to(bundle.resolve()):
            raise UsageError(f"{path} lies in the bundle, which would no longer verify")
        require_place(path)
    verified, page = reprint(bundle, trust=load_trust(trust) if trust else None)
    contents = {"pdf": pdf_of(page, page_one=page_one)} if pdf is not None else {}
    contents["html"] = page.encode()
    for name, path in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[name])
    if as_json:
        console.print_json(
            {
                "decision": verified.manifest.decision,
                "identities_checked": verified.identities_checked,
                "signed_by": [signer.name for signer in verified.signed_by],
                "written": {name: str(path) for name, path in wanted.items()},
            }
        )
        return
    names = ", ".join(signer.name for signer in verified.signed_by)
    known = "keys known" if verified.identities_checked else "identities not checked"
    console.out.print(
        f"checked   signatures of {escape(names)} ({known}); every claim follows from the evidence",
        soft_wrap=True,
    )
    for path in wanted.values():
        console.out.print(f"written   {path}", markup=False, soft_wrap=True)
