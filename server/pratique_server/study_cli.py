"""``pratique study``: check and draft the contract that every site approves."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pratique_common import console
from pratique_common.durable import require_place
from pratique_common.errors import UsageError

app = typer.Typer(help="Study files: the contract that every site approves.", no_args_is_help=True)

StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an older file.")]


@app.command("check", epilog="Example: pratique study check heart.toml")
def study_check(study: StudyArgument, as_json: Json = False) -> None:
    """Validate a study; show its digest, what ε buys in words, noise, traffic and time."""
    from pratique_common.study import load_study
    from pratique_common.words import study_in_words
    from pratique_server.planning import plan_of, warnings_of

    loaded = load_study(study)
    plan, warnings = plan_of(loaded, source=study), warnings_of(loaded)
    if as_json:
        found = {"name": loaded.name, "digest": loaded.digest, **plan, "warnings": warnings}
        console.print_json(found)
        return
    for line in study_in_words(loaded):
        console.out.print(line, markup=False, soft_wrap=True)
    console.out.print()
    for name, value in plan.items():
        shown = f"{value:,.4g}" if isinstance(value, float) else str(value)
        console.out.print(f"{name.replace('_', ' '):42} {shown}", soft_wrap=True)
    for warning in warnings:
        console.out.print()
        console.out.print(f"[bold yellow]warning:[/] {escape(warning)}", soft_wrap=True)


@app.command(
    "draft",
    epilog="Example: pratique study draft --dictionary columns.csv --name heart-2026 "
    "--expected-patients 10000 --out heart.toml",
)
def study_draft(
    name: Annotated[str, typer.Option(help="The study's name: small letters, digits, dashes.")],
    expected_patients: Annotated[int, typer.Option(min=1, help="A public planning number.")],
    out: Annotated[Path, typer.Option(help="Study file to write.")],
    dictionary: Annotated[
        Path | None, typer.Option(help="CSV of columns: name, type, lower, upper, categories ...")
    ] = None,
    public_table: Annotated[
        Path | None, typer.Option(help="A table that everybody may see: never patients' records.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column of the outcome.")] = None,
    force: Force = False,
) -> None:
    """Draft a study from a data dictionary, or from a public table of the same kind."""
    from pratique_server.drafting import draft_study

    if (dictionary is None) == (public_table is None):
        raise UsageError("give either --dictionary or --public-table")
    if out.exists() and not force:
        raise UsageError(f"{out} exists; give another --out, or --force")
    require_place(out)
    source = dictionary if dictionary is not None else public_table
    assert source is not None
    text = draft_study(
        source,
        dictionary=dictionary is not None,
        name=name,
        expected_patients=expected_patients,
        target=target,
    )
    out.write_text(text, encoding="utf-8")
    console.out.print(
        f"draft     {out}\nnow       correct limits and levels, write the disclosure, then: "
        f"pratique study check {out}",
        markup=False,
        soft_wrap=True,
    )
