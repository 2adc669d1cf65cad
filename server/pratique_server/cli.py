"""``pratique``: what researchers, auditors and coordinators run."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from pratique_common import console
from pratique_common.errors import ExitCode, UsageError, VerificationError
from pratique_server import evaluate_cli, report_cli, sample_cli, study_cli

app = typer.Typer(
    name="pratique",
    help="Hospitals make synthetic health data together without showing a single record.",
    epilog=console.EXIT_CODES_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(study_cli.app, name="study")

StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an older result in that folder.")]
Synthetic = Annotated[Path, typer.Option(help="Synthetic table: CSV or Parquet.")]

_OPINIONS = {
    "granted": "[bold green]PASSED THE AUDIT[/]",
    "refused": "[bold red]FAILED THE AUDIT[/]",
    "not_enough_data": "[bold yellow]NOT ENOUGH DATA TO DECIDE[/]",
}

_VERDICTS = {
    "granted": "[bold green]GRANTED[/]",
    "refused": "[bold red]REFUSED[/]",
    "not_enough_data": "[bold yellow]NOT ENOUGH DATA TO DECIDE[/]",
}


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
    from pratique_server.progress import RunDisplay, time_table
    from pratique_server.simulation import Simulation

    simulation = Simulation(study, study_file, sites, out)
    with RunDisplay(console.err) as display:
        outcome = simulation.run(display.show)
    (out / "timing.json").write_text(json.dumps(outcome.seconds_by_phase, indent=1))
    if as_json:
        console.print_json(
            {
                "exit_code": outcome.exit_code,
                "decision": outcome.decision,
                "path": outcome.path,
                "message": outcome.message,
                "seconds": outcome.seconds_by_phase,
            }
        )
        return outcome.exit_code
    console.err.print(time_table(outcome.seconds_by_phase))
    if outcome.decision is None or outcome.path is None:
        console.err.print(f"[bold red]error:[/] {outcome.message}", soft_wrap=True)
        return outcome.exit_code
    _print_page_one(json.loads((outcome.path / "report.json").read_text()))
    console.out.print(f"report    {outcome.path / 'report.html'}", soft_wrap=True)
    console.out.print(f"check it  pratique verify {outcome.path}", soft_wrap=True)
    return outcome.exit_code


@app.command(epilog="Example: pratique demo --out demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo.")] = Path("demo"),
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Three simulated hospitals with phantom patients: train, audit, gate, bundle, report."""
    from pratique_common.phantoms.cohort import study_path, write_cohort
    from pratique_common.study import load_study
    from pratique_server.simulation import prepare_folder

    console.err.print(
        "Every patient of this demo is [bold]simulated[/]: three hospitals, no real record."
    )
    prepare_folder(out, force=force)
    sites = write_cohort(out / "phantoms", seed=1)
    exit_code = _simulate(load_study(study_path()), study_path(), sites, out, as_json)
    for folder in (out / "bundle", out / "refusal"):
        if folder.is_dir():
            _write_page_one(folder, out / "page-one.pdf")
    return exit_code


def _write_page_one(bundle: Path, path: Path) -> None:
    from pratique_server.report.pdf import pdf_of
    from pratique_server.reprint import reprint

    try:
        path.write_bytes(pdf_of(reprint(bundle)[1], page_one=True))
    except UsageError as error:  # nothing that prints: the demo needs no PDF
        console.err.print(f"no page-one.pdf: {error}", soft_wrap=True)
    else:
        console.err.print(f"page one  {path}", soft_wrap=True)


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
        _print_page_one(verified.report)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise VerificationError("report.json is not a report of this version") from None
    console.out.print(f"every hash is right ({len(manifest.files)} files)")
    for signer in verified.signed_by:
        print_name = fingerprint(signer.public_key)
        known = "known" if verified.identities_checked else "identity not checked"
        console.out.print(f"{known}: signed by {escape(signer.name)}, {print_name}", soft_wrap=True)


def _print_page_one(report: dict[str, Any]) -> None:
    """Print what the report's first page says, in a few lines."""
    out = console.out
    if report["simulated"]:
        out.print("[bold]SIMULATED DATA: there is no patient in it[/]")
    verdicts = _OPINIONS if report.get("kind") == "opinion" else _VERDICTS
    out.print(f"{verdicts[report['decision']]}  {escape(report['study'])}")
    out.print(f"study     {report['study_digest']}", soft_wrap=True)
    out.print(f"table     {report['candidate_sha256']}", soft_wrap=True)
    if privacy := report.get("privacy"):
        out.print(
            f"promise   ε = {privacy['epsilon']:.2f}, δ = {privacy['delta']:.1e} a patient: who "
            "knows all else guesses who took part at most "
            f"{privacy['attacker_success']:.0%} of the time",
            soft_wrap=True,
        )
        sites = report["sites"]
        out.print(
            f"sites     {escape(', '.join(sites['answered']))} of {len(sites['asked'])} asked"
        )
    for name, audit in report["audits"].items():
        mark = "[green]passed[/]" if audit["passed"] else "[bold red]failed[/]"
        low, high = audit["interval"]
        p = audit["p_adjusted"]
        detect = audit["limit_of_detection"]
        limit = f"; would see {detect} copied patients" if detect else ""
        out.print(
            f"{name:9} {mark}  {audit['statistic']:.4f} ({low:.4f} to {high:.4f}), adjusted p "
            f"{'= ' if p >= 0.001 else '< '}{max(p, 0.001):.3f}{limit}",
            soft_wrap=True,
        )
    for measure in report.get("utility", {}).get("measures", {}).values():
        low, high = measure["interval"]
        out.print(
            f"utility   {escape(measure['title'])}: {measure['value']:.3f} "
            f"({low:.3f} to {high:.3f})",
            soft_wrap=True,
        )
    for reason in report["reasons"]:
        if not reason["passed"]:
            numbers = (
                f" ({reason['value']:.4g}, limit {reason['limit']:.4g})"
                if reason["value"] is not None
                else ""
            )
            out.print(f"[bold red]not met[/]   {escape(reason['rule'])}{numbers}", soft_wrap=True)


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
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Audit a synthetic table on files: an opinion (tiers 2 and 3 of the gate), never a release."""
    from pratique_common.study import load_study
    from pratique_server.opinion import audit_files
    from pratique_server.report.opinion_page import render_opinion

    if (out / "report.json").exists() and not force:
        raise UsageError(f"{out} holds a report already; give another --out, or --force")
    report = audit_files(load_study(study), synthetic=synthetic, members=members, holdout=holdout)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1))
    (out / "report.html").write_text(render_opinion(report), encoding="utf-8")
    if as_json:
        console.print_json(report)
    else:
        _print_page_one(report)
        console.out.print("an opinion on files, not a release: integrity was not checked")
        console.out.print(f"report    {out / 'report.html'}", soft_wrap=True)
    return int(
        {
            "granted": ExitCode.DONE,
            "refused": ExitCode.REFUSED,
            "not_enough_data": ExitCode.NOT_ENOUGH_DATA,
        }[report["decision"]]
    )


app.command(epilog=evaluate_cli.EXAMPLE)(evaluate_cli.evaluate)
app.command(epilog=report_cli.EXAMPLE)(report_cli.report)
app.command(epilog=sample_cli.EXAMPLE)(sample_cli.sample)


def main() -> None:
    """Entry point."""
    console.run(app)


if __name__ == "__main__":
    main()
