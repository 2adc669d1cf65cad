"""``pratique-client``: what a hospital runs."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pratique_client import init_cli, ledger_cli, resample_cli
from pratique_common import console
from pratique_common.errors import ExitCode, UsageError
from pratique_common.signing import fingerprint, load_trust

app = typer.Typer(
    name="pratique-client",
    help="The daemon of Pratique at a hospital: approve a study, train and audit at home.",
    epilog=console.EXIT_CODES_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

SiteArgument = Annotated[Path, typer.Argument(help="The site's folder, or its site.toml.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=console.show_version, is_eager=True, help="Show it."),
    ] = False,
) -> None:
    pass


app.command(epilog=init_cli.EXAMPLE)(init_cli.init)


@app.command(epilog="Example: pratique-client check /srv/pratique")
def check(site: SiteArgument, as_json: Json = False) -> int:
    """Check everything that a run needs; every line is OK or tells what to do."""
    from pratique_client.checks import run_checks
    from pratique_client.site import load_site

    loaded = load_site(site)
    code = ExitCode.DONE
    results = []
    for number, result in enumerate(run_checks(loaded), start=1):
        results.append(
            {
                "check": result.title.strip(),
                "passed": result.passed,
                "code": None if result.error is None else result.error.code,
                "finding": result.finding,
            }
        )
        if not as_json:
            mark = "[green]OK  [/]" if result.passed else "[bold red]FAIL[/]"
            console.out.print(f"{number:2} {mark} {result.title}: ", end="")
            console.out.print(result.finding, markup=False, soft_wrap=True)
        if result.error is not None and code == ExitCode.DONE:
            code = result.error.exit_code
    if as_json:
        console.print_json({"site": loaded.name, "passed": code == 0, "checks": results})
    return int(code)


@app.command(
    epilog="Example: pratique-client draft /srv/pratique --name heart-2026 "
    "--expected-patients 10000 --out draft.toml"
)
def draft(
    site: SiteArgument,
    name: Annotated[str, typer.Option(help="The study's name: small letters, digits, dashes.")],
    expected_patients: Annotated[int, typer.Option(min=1, help="A public planning number.")],
    out: Annotated[Path, typer.Option(help="Study file to write; only you may read it.")],
    target: Annotated[str | None, typer.Option(help="Column of the outcome.")] = None,
) -> None:
    """Draft a study from the hospital's own table, FOR ITS OWN EYES: review it before others do."""
    from pratique_client.drafting import NOTICE, draft_study, write_draft
    from pratique_client.site import load_site

    if out.exists():
        raise UsageError(f"{out} exists; give another --out")
    text = draft_study(
        load_site(site), name=name, expected_patients=expected_patients, target=target
    )
    write_draft(text, out)
    console.out.print(f"draft     {out}", markup=False, soft_wrap=True)
    console.out.print(f"[bold red]REVIEW IT[/]: {NOTICE}", soft_wrap=True)


@app.command(
    epilog="Example: pratique-client approve study.toml --site /srv/pratique --sites sites.toml"
)
def approve(
    study: Annotated[Path, typer.Argument(help="The study file, as the coordinator sent it.")],
    site: Annotated[Path, typer.Option(help="The site's folder, or its site.toml.")],
    sites: Annotated[
        Path,
        typer.Option(help="TOML of all sites' names and public keys, as the hospitals agreed."),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts.")] = False,
) -> None:
    """Show a study in words and approve exactly this one, by its digest, with exactly these sites.

    --sites is a file of lines NAME = "PUBLIC KEY" that the hospitals exchanged among themselves, so
    that the coordinator cannot stand in between.
    """
    from pratique_client.approval import approve as record
    from pratique_client.site import load_site
    from pratique_common.study import load_study
    from pratique_common.words import study_in_words

    loaded, wanted = load_site(site), load_study(study)
    peers = load_trust(sites)
    if not yes:
        for line in study_in_words(wanted):
            console.out.print(line, markup=False, soft_wrap=True)
        for name, key in sorted(peers.items()):
            console.out.print(f"with {name}, key {fingerprint(key)}", markup=False, soft_wrap=True)
    if wanted.data.image is not None:
        from pratique_client.contact_sheet import write_contact_sheet

        told = write_contact_sheet(loaded, wanted, loaded.load_table(wanted.data).columns)
        console.out.print("[bold red]BEFORE YOU APPROVE[/]: ", end="")
        console.out.print(told, markup=False, soft_wrap=True)
    if not yes:
        typer.confirm(f"Approve study {wanted.digest[:12]} for {loaded.name}?", abort=True)
    record(loaded, wanted, peers)
    console.out.print(f"approved {wanted.digest}")


@app.command(epilog="Example: pratique-client start /srv/pratique")
def start(
    site: SiteArgument,
    health: Annotated[
        str | None, typer.Option(help="127.0.0.1:PORT for the gRPC health service.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="127.0.0.1:PORT for metrics in Prometheus text.")
    ] = None,
) -> None:
    """Run the daemon: it connects to the coordinator and answers for approved studies."""
    from pratique_client.checks import require_local
    from pratique_client.daemon import run_daemon
    from pratique_client.site import load_site

    loaded = load_site(site)
    require_local(loaded)
    run_daemon(loaded, health=health, metrics=metrics)


@app.command(epilog="Example: pratique-client status /srv/pratique")
def status(site: SiteArgument, as_json: Json = False) -> int:
    """Show whether the daemon takes part and what it is doing; exit code 7 if something is wrong.

    It reads the site's folder, so it works beside a daemon and without one.
    """
    from pratique_client.health import status_of
    from pratique_client.site import load_site
    from pratique_client.status import as_text

    found = status_of(load_site(site))
    if as_json:
        console.print_json({"well": found.well, **asdict(found)})
    else:
        for line in as_text(found):
            console.out.print(line, markup=False, soft_wrap=True)
    return int(ExitCode.DONE if found.well else ExitCode.FEDERATION_FAILED)


app.command(epilog=ledger_cli.EXAMPLE)(ledger_cli.ledger)
app.command(epilog=resample_cli.EXAMPLE)(resample_cli.resample)


def main() -> None:
    """Entry point."""
    console.run(app)


if __name__ == "__main__":
    main()
