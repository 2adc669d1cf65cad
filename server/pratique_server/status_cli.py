"""``pratique status``: who is connected and what runs, live on a terminal."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from pratique_common import console
from pratique_common.errors import ExitCode

EXAMPLE = "Example: pratique status /srv/coordinator"
_EVERY_S = 1.0


def status(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The coordinator's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines, once.")] = False,
) -> int:
    """Show who is connected, which run, phase and round, what was spent, what was refused last.

    On a terminal it goes on until Ctrl-C, elsewhere it prints once. Exit code 7: nothing serves.
    """
    from pratique_server.deployment.folder import load_server
    from pratique_server.deployment.status import as_table, status_of

    server = load_server(folder)
    found = status_of(server)
    if as_json:
        console.print_json(found.as_json())
    elif not console.out.is_terminal:
        console.out.print(as_table(found))
    else:
        with Live(as_table(found), console=console.out, auto_refresh=False) as live:
            try:
                while True:
                    time.sleep(_EVERY_S)
                    found = status_of(server)
                    live.update(as_table(found), refresh=True)
            except KeyboardInterrupt:
                pass  # how one leaves it
    return int(ExitCode.DONE if found.serving else ExitCode.FEDERATION_FAILED)
