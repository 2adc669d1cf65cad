"""``pratique-client``: what a hospital runs."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

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

_PHASE_WIDTH = 18
"""An audit's phase names its candidate: twelve digits are enough to tell candidates apart."""

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


@app.command(
    epilog="Example: pratique-client init cleveland.invitation.json --folder /srv/pratique "
    "--data rows.csv"
)
def init(
    invitation: Annotated[Path, typer.Argument(help="The file that the coordinator sent.")],
    folder: Annotated[Path, typer.Option(help="Folder to make for this site.")],
    data: Annotated[
        Path,
        typer.Option(help="The table of patients, or of their images: CSV or Parquet."),
    ],
    images: Annotated[Path | None, typer.Option(help="Its images: an .npz.")] = None,
    dicom: Annotated[
        Path | None, typer.Option(help="Its images: a folder of DICOM files, at any depth.")
    ] = None,
    dicom_key: Annotated[
        Literal["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"] | None,
        typer.Option(help="What a line of the table is about. Default: SeriesInstanceUID."),
    ] = None,
    nifti: Annotated[
        Path | None, typer.Option(help="Its images: the folder of the NIfTI files that it names.")
    ] = None,
    defaced: Annotated[
        bool, typer.Option("--defaced", help="Faces were removed from all volumes; you looked.")
    ] = False,
    epsilon: Annotated[float, typer.Option(help="Budget of a patient, for ever.")] = 8.0,
    delta: Annotated[float, typer.Option(help="δ of the budget.")] = 1e-5,
    lacks: Annotated[
        list[str] | None, typer.Option(help="Column not recorded here; may be repeated.")
    ] = None,
    proxy: Annotated[
        str | None, typer.Option(help="The hospital's proxy, http://HOST:PORT.")
    ] = None,
    simulated: Annotated[bool, typer.Option(help="Mark the ledger as a simulation's.")] = False,
) -> None:
    """Make the site's keys here, at the hospital, its site file, and a request to join."""
    from pratique_client.joining import SiteChoices, join

    choices = SiteChoices(
        data=data,
        images=images,
        dicom=dicom,
        dicom_key=dicom_key,
        nifti=nifti,
        defaced=defaced,
        epsilon=epsilon,
        delta=delta,
        lacks=lacks or [],
        proxy=proxy,
        simulated=simulated,
    )
    joined = join(invitation, folder, choices)
    out = console.out
    out.print(f"{joined.invitation.site} is ready in {folder}", soft_wrap=True)
    out.print(f"coordinator  {fingerprint(joined.invitation.coordinator)}")
    out.print(f"this site    {fingerprint(joined.public_key)}")
    out.print(
        f"1. Send {joined.request} to the coordinator.\n"
        "2. Call them, on a number that you did not get with the invitation. Read this site's "
        "fingerprint aloud, and compare the coordinator's.\n"
        f"3. Once they accepted it: pratique-client check {folder}\n"
        "Private keys stay in this folder. Give site.pub to the other hospitals.",
        soft_wrap=True,
    )


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
    console.out.print(f"draft     {out}", soft_wrap=True)
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


@app.command(epilog="Example: pratique-client ledger /srv/pratique")
def ledger(site: SiteArgument, as_json: Json = False) -> None:
    """Show what patients have spent and check the ledger's chain."""
    from pratique_client.site import load_site

    loaded = load_site(site)
    head = loaded.ledger.verify()
    entries, spent = loaded.ledger.entries(), loaded.ledger.spent()
    if as_json:
        console.print_json(
            {
                "population": loaded.ledger.population,
                "epsilon_spent": spent,
                "epsilon_budget": loaded.ledger.epsilon,
                "delta": loaded.ledger.delta,
                "head": head,
                "entries": [
                    {
                        "written": entry.written,
                        "study": entry.study,
                        "run": entry.run,
                        "role": entry.role,
                        "phase": entry.phase,
                        "noise_multiplier": entry.event.noise_multiplier,
                        "sample_rate": entry.event.sample_rate,
                        "num_steps": entry.event.num_steps,
                        "hash": entry.hash,
                    }
                    for entry in entries
                ],
            }
        )
        return
    table = Table(title=f"Ledger of {loaded.ledger.population}")
    for title in ("written", "study", "run", "role", "phase", "σ/Δ", "rate", "hash"):
        table.add_column(title)
    for entry in entries:
        table.add_row(
            entry.written,
            entry.study[:12],
            entry.run[:12],
            entry.role,
            entry.phase[:_PHASE_WIDTH],
            f"{entry.event.noise_multiplier:.3f}",
            f"{entry.event.sample_rate:g}",
            entry.hash[:12],
        )
    console.out.print(table)
    console.out.print(
        f"chain intact, head {head[:12]}; a patient has spent ε = {spent:.2f} "
        f"of {loaded.ledger.epsilon:g} (δ = {loaded.ledger.delta:g})"
    )


@app.command(
    epilog="Example: pratique-client resample study.toml --site /srv/pratique --method smote "
    "--out balanced.csv"
)
def resample(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="Names columns and target.")],
    site: Annotated[Path, typer.Option(help="The site's folder, or its site.toml.")],
    method: Annotated[str, typer.Option(help="smote, borderline_smote, adasyn, random_over, ...")],
    out: Annotated[Path, typer.Option(help="Table to write: .csv or .parquet.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same rows.")] = 0,
) -> None:
    """Balance this hospital's own table for its own models. LOCAL ONLY: it is not private."""
    from pratique_client.resampling import resample as balance
    from pratique_client.site import load_site
    from pratique_common.generators import LOCAL_ONLY
    from pratique_common.released_copies import table_csv
    from pratique_common.study import load_study
    from pratique_common.tables import parquet_bytes

    if method not in LOCAL_ONLY:
        raise UsageError(f"--method: choose one of {', '.join(LOCAL_ONLY)}")
    if out.suffix not in (".csv", ".parquet"):
        raise UsageError("--out: give a .csv or a .parquet file")
    if out.exists():
        raise UsageError(f"{out} exists; give another --out")
    loaded, schema = load_site(site), load_study(study).data
    if schema.image is not None:
        raise UsageError(f"{study}: rows have images, which no such method makes")
    if schema.visits is not None:
        raise UsageError(f"{study}: rows are patients' visits, which no such method keeps together")
    balanced = balance(loaded.load_table(schema), schema, method, seed=seed)
    out.write_bytes(table_csv(balanced) if out.suffix == ".csv" else parquet_bytes(balanced))
    console.out.print(f"{balanced.num_rows} rows in {out}", soft_wrap=True)
    console.out.print(
        "[bold red]LOCAL ONLY[/]: these rows are patients, or lie on lines between two of them. "
        "Treat the file as the records themselves. It can never be released.",
        soft_wrap=True,
    )


def main() -> None:
    """Entry point."""
    console.run(app)


if __name__ == "__main__":
    main()
