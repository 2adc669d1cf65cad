"""``pratique-client ledger``: what patients have spent."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pratique_common import console

EXAMPLE = "Example: pratique-client ledger /srv/pratique"

_PHASE_WIDTH = 18
"""An audit's phase names its candidate: twelve digits are enough to tell candidates apart."""


def ledger(
    site: Annotated[Path, typer.Argument(help="The site's folder, or its site.toml.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
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
