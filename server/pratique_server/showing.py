"""What commands print of a result: how a run ended, and a report's first page in a few lines."""

import json
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from pratique_common import console

if TYPE_CHECKING:
    from pratique_server.following import Outcome

_OPINIONS = {
    "granted": "[bold green]PASSED THE AUDIT[/]",
    "refused": "[bold red]FAILED THE AUDIT[/]",
    "not_enough_data": "[bold yellow]NOT ENOUGH DATA TO DECIDE[/]",
}

_FEW = 5
_VERDICTS = {
    "granted": "[bold green]GRANTED[/]",
    "refused": "[bold red]REFUSED[/]",
    "not_enough_data": "[bold yellow]NOT ENOUGH DATA TO DECIDE[/]",
}


def show_outcome(outcome: "Outcome", as_json: bool) -> int:
    """Print how a run ended; return its exit code."""
    from pratique_server.progress import time_table

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
        console.err.print(f"[bold red]error:[/] {escape(str(outcome.message))}", soft_wrap=True)
        return outcome.exit_code
    print_page_one(json.loads((outcome.path / "report.json").read_text()))
    console.out.print(f"report    {outcome.path / 'report.html'}", markup=False, soft_wrap=True)
    console.out.print(f"check it  pratique verify {outcome.path}", markup=False, soft_wrap=True)
    return outcome.exit_code


def print_page_one(report: dict[str, Any]) -> None:
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
        fine = "passed " if audit["bounds"] else "no sign"
        mark = f"[green]{fine}[/]" if audit["passed"] else "[bold red]failed [/]"
        low, high = audit["interval"]
        p = audit["p_adjusted"]
        detect = audit["limit_of_detection"]
        limit = f"; finds {detect} verbatim copies nine times in ten" if detect else ""
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
    if others := report.get("columns_left_out"):
        shown = ", ".join(others[:_FEW]) + (", ..." if len(others) > _FEW else "")
        out.print(f"not seen  {escape(shown)}: no columns of the study", soft_wrap=True)
    if outside := report.get("rows_outside_domain", {}).get("synthetic"):
        out.print(f"not seen  rows outside the study's domain or rules: {outside:,}")
    for reason in report["reasons"]:
        if not reason["passed"]:
            numbers = (
                f" ({reason['value']:.4g}, limit {reason['limit']:.4g})"
                if reason["value"] is not None
                else ""
            )
            out.print(f"[bold red]not met[/]   {escape(reason['rule'])}{numbers}", soft_wrap=True)
