"""``pratique``: what researchers, auditors and coordinators run."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from pratique_common import console
from pratique_common.durable import require_place
from pratique_common.errors import ExitCode, UsageError, VerificationError
from pratique_server import (
    evaluate_cli,
    phantom_cli,
    report_cli,
    sample_cli,
    server_cli,
    status_cli,
    study_cli,
)
from pratique_server.showing import print_page_one, show_outcome

app = typer.Typer(
    name="pratique",
    help="Hospitals make synthetic health data together without showing a single record.",
    epilog=console.EXIT_CODES_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(study_cli.app, name="study")
app.add_typer(server_cli.app, name="server")

StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an older result in that folder.")]
Synthetic = Annotated[
    Path, typer.Option(help="Synthetic table: CSV (images: an .npz of its name beside) or Parquet.")
]


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=console.show_version, is_eager=True, help="Show it."),
    ] = False,
) -> None:
    pass


@app.command(
    epilog="Example: pratique simulate heart.toml --site a=a.csv --site b=b.csv --site c=c.csv "
    "--out run"
)
def simulate(
    study: StudyArgument,
    site: Annotated[list[str], typer.Option(metavar="NAME=PATH", help="One a hospital.")],
    out: Annotated[Path, typer.Option(help="Folder for bundle or refusal and the sites.")],
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Run a whole federation on this machine: real SuperLink, one real daemon a site."""
    from pratique_common.study import load_study
    from pratique_server.planning import plan_of
    from pratique_server.simulation import parse_sites, prepare_folder, require_enough_sites

    loaded, sites = load_study(study), parse_sites(site)
    require_enough_sites(loaded, sites)
    plan_of(loaded, source=study)
    prepare_folder(out, force=force)
    return _simulate(loaded, study, sites, out, as_json)


def _simulate(
    study: Any, study_file: Path, sites: dict[str, Path], out: Path, as_json: bool
) -> int:
    from pratique_server.progress import RunDisplay
    from pratique_server.simulation import Simulation

    simulation = Simulation(study, study_file, sites, out)
    with RunDisplay(console.err) as display:
        outcome = simulation.run(display.show)
    (out / "timing.json").write_text(json.dumps(outcome.seconds_by_phase, indent=1))
    return show_outcome(outcome, as_json)


@app.command(
    "run", epilog="Example: pratique run heart.toml --server /srv/coordinator --out heart-2026"
)
def run_study(
    server: Annotated[Path, typer.Option(help="The coordinator's folder; its server serves.")],
    study: Annotated[
        Path | None, typer.Argument(metavar="[STUDY.toml]", help="The study file.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Name of a run, in FOLDER/runs, that ended without a result.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for bundle or refusal; default FOLDER/runs/NAME.")
    ] = None,
    sites: Annotated[
        Path | None,
        typer.Option(help="TOML of names and public keys; default all sites that joined."),
    ] = None,
    refuse_if_silent: Annotated[
        bool,
        typer.Option(
            "--refuse-if-silent", help="End in a signed refusal if a hospital it needs is silent."
        ),
    ] = False,
    as_json: Json = False,
) -> int:
    """Run a study with the hospitals that joined, up to a bundle or a refusal.

    With --resume a run goes on that a crash, Ctrl-C or silent hospitals ended: what was answered
    and paid before is used, and nothing is asked for twice. If one of them never answers again,
    --refuse-if-silent ends the run for good.
    """
    from pratique_common.study import load_study
    from pratique_server.deployment.folder import load_server
    from pratique_server.deployment.running import DeployedRun, require_room, sites_of_run
    from pratique_server.planning import plan_of
    from pratique_server.progress import RunDisplay

    coordinator = load_server(server)
    if resume is not None:
        if study is not None or out is not None or sites is not None:
            raise UsageError("--resume takes study, sites and --out from the run: leave them out")
        run = DeployedRun.of_before(coordinator, resume, refuse_if_silent=refuse_if_silent)
    elif study is None:
        raise UsageError("give a study file, or --resume with the name of a run")
    else:
        loaded = load_study(study)
        plan_of(loaded, source=study)
        taking_part = sites_of_run(coordinator, loaded, sites)
        if out is not None:
            require_room(out)
        run = DeployedRun.new(
            coordinator, study, taking_part, out, refuse_if_silent=refuse_if_silent
        )
    console.err.print(f"run {run.name}; if it is cut short: pratique run --resume {run.name} "
                      f"--server {server}", soft_wrap=True)  # fmt: skip
    with RunDisplay(console.err) as display:
        outcome = run.run(display.show)
    return show_outcome(outcome, as_json)


@app.command(epilog="Example: pratique demo --out demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo.")] = Path("demo"),
    images: Annotated[bool, typer.Option("--images", help="Brain MRI instead of tables.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Three simulated hospitals with phantom patients: train, audit, gate, bundle, report."""
    from pratique_common.study import load_study
    from pratique_server.simulation import prepare_folder

    console.err.print(
        "Every patient of this demo is [bold]simulated[/]: three hospitals, no real record."
    )
    prepare_folder(out, force=force)
    if images:
        from pratique_common.phantoms.scans import scans_study_path, write_scans

        study_file = scans_study_path()
        sites = write_scans(out / "phantoms", seed=1)
    else:
        from pratique_common.phantoms.cohort import study_path, write_cohort

        study_file = study_path()
        sites = write_cohort(out / "phantoms", seed=1)
    exit_code = _simulate(load_study(study_file), study_file, sites, out, as_json)
    for folder in (out / "bundle", out / "refusal"):
        if folder.is_dir():
            _write_page_one(folder, out / "page-one.pdf")
    if exit_code == ExitCode.REFUSED:
        console.err.print(
            "The gate's tests refuse about one honest run in twenty, by design: read what was not "
            "met, and run it again.",
            soft_wrap=True,
        )
    return exit_code


def _write_page_one(bundle: Path, path: Path) -> None:
    from pratique_server.report.pdf import pdf_of
    from pratique_server.reprint import reprint

    try:
        path.write_bytes(pdf_of(reprint(bundle)[1], page_one=True))
    except UsageError as error:  # nothing that prints: the demo needs no PDF
        console.err.print(f"no page-one.pdf: {error}", soft_wrap=True)
    else:
        console.err.print(f"page one  {path}", markup=False, soft_wrap=True)


@app.command(epilog="Example: pratique verify demo/bundle --trust consortium.toml")
def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle or refusal: a folder or a .zip.")],
    trust: Annotated[
        Path | None, typer.Option(help="TOML of names and public keys that you trust.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every hash and signature of a bundle, offline, and print its page one."""
    from pratique_common.bundle import verify_bundle
    from pratique_common.signing import fingerprint, load_trust

    verified = verify_bundle(bundle, trust=load_trust(trust) if trust else None)
    manifest = verified.manifest
    if as_json:
        console.print_json(
            {
                "verified": True,
                "identities_checked": verified.identities_checked,
                "decision": manifest.decision,
                "study_digest": manifest.study_digest,
                "candidate_sha256": manifest.candidate_sha256,
                "signed_by": {signer.name: signer.public_key for signer in verified.signed_by},
            }
        )
        return
    try:
        print_page_one(verified.report)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise VerificationError("report.json is not a report of this version") from None
    console.out.print(f"every hash is right ({len(manifest.files)} files)")
    for signer in verified.signed_by:
        print_name = fingerprint(signer.public_key)
        known = "known" if verified.identities_checked else "identity not checked"
        console.out.print(f"{known}: signed by {escape(signer.name)}, {print_name}", soft_wrap=True)


@app.command(
    epilog="Example: pratique audit heart.toml --synthetic s.parquet --members m.csv "
    "--holdout h.csv --out opinion"
)
def audit(
    study: StudyArgument,
    synthetic: Synthetic,
    members: Annotated[Path, typer.Option(help="Patients that the table was made of.")],
    holdout: Annotated[Path, typer.Option(help="Patients of the same kind that it never saw.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html and report.json.")],
    scaling: Annotated[
        Literal["percentile", "full_range"] | None,
        typer.Option(
            help="Images in .npz: how sites read members and hold-out. Default: percentile."
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Audit a synthetic table on files: an opinion (tiers 2 and 3 of the gate), never a release."""
    from pratique_common.images.image_tables import scaling_of
    from pratique_common.study import load_study
    from pratique_server.opinion import audit_files
    from pratique_server.report.opinion_page import render_opinion

    if (out / "report.json").exists() and not force:
        raise UsageError(f"{out} holds a report already; give another --out, or --force")
    require_place(out, folder=True)
    loaded = load_study(study)
    report = audit_files(
        loaded,
        synthetic=synthetic,
        members=members,
        holdout=holdout,
        scaling=scaling_of(loaded.data.image, [members, holdout], scaling),
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1))
    (out / "report.html").write_text(render_opinion(report), encoding="utf-8")
    if as_json:
        console.print_json(report)
    else:
        print_page_one(report)
        console.out.print("an opinion on files, not a release: integrity was not checked")
        console.out.print(f"report    {out / 'report.html'}", markup=False, soft_wrap=True)
    return int(
        {
            "granted": ExitCode.DONE,
            "refused": ExitCode.REFUSED,
            "not_enough_data": ExitCode.NOT_ENOUGH_DATA,
        }[report["decision"]]
    )


app.command(epilog=evaluate_cli.EXAMPLE)(evaluate_cli.evaluate)
app.command(epilog=phantom_cli.EXAMPLE)(phantom_cli.phantom)
app.command(epilog=report_cli.EXAMPLE)(report_cli.report)
app.command(epilog=sample_cli.EXAMPLE)(sample_cli.sample)
app.command(epilog=status_cli.EXAMPLE)(status_cli.status)


def main() -> None:
    """Entry point."""
    console.run(app)


if __name__ == "__main__":
    main()
