"""``pratique server``: the coordinator's folder, and who joins."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pratique_common import console
from pratique_common.errors import FederationError
from pratique_common.signing import fingerprint, public_hex

app = typer.Typer(
    help="A coordinator for hospitals on other machines: certificates, joining, serving.",
    no_args_is_help=True,
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The coordinator's folder.")]
SiteName = Annotated[str, typer.Argument(metavar="SITE", help="The site's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def _say(text: str) -> None:
    console.out.print(text, markup=False, soft_wrap=True)


@app.command(
    "init", epilog="Example: pratique server init /srv/coordinator --host pratique.example.org"
)
def server_init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to make.")],
    host: Annotated[str, typer.Option(help="Name by which hospitals reach this coordinator.")],
    port: Annotated[int, typer.Option(help="Port of the proxy, for hospitals.")] = 443,
    superlink_port: Annotated[int, typer.Option(help="Port on the loopback address.")] = 8000,
    health_port: Annotated[int, typer.Option(help="Port on the loopback address.")] = 8001,
    certificate: Annotated[
        Path | None, typer.Option(help="Your own certificate with its chain, PEM.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    ca: Annotated[Path | None, typer.Option(help="The CA that hospitals shall trust, PEM.")] = None,
) -> None:
    """Make keys, certificates (or take your own) and the proxy's configuration."""
    from pratique_server.deployment.certificates import days_left
    from pratique_server.deployment.folder import NGINX_FILE
    from pratique_server.deployment.setup import create_server, own_certificates

    server = create_server(
        folder,
        host=host,
        port=port,
        superlink_port=superlink_port,
        health_port=health_port,
        own=own_certificates(certificate, key, ca),
    )
    _say(f"coordinator  {server.public_address} in {folder}")
    _say(f"fingerprint  {fingerprint(public_hex(server.key))}")
    _say(f"certificate  {server.certificate}, {days_left(server.certificate)} days")
    _say(
        f"1. Give {folder / NGINX_FILE} to nginx and reload it. Let nothing else in: the "
        "SuperLink asks nobody on this machine for a password.\n"
        f"2. pratique server start {folder}\n"
        f"3. pratique server invite {folder} SITE    for every hospital\n"
        "Keep this folder to yourself and back it up: its keys sign every release."
    )


@app.command("start", epilog="Example: pratique server start /srv/coordinator")
def server_start(folder: Folder) -> None:
    """Serve hospitals on the loopback address, behind the proxy, until SIGTERM or Ctrl-C."""
    from pratique_server.deployment.certificates import RENEW_DAYS, days_left
    from pratique_server.deployment.folder import CA, LINK_CERTIFICATE, load_server
    from pratique_server.deployment.serving import serve

    server = load_server(folder)
    for path in (server.certificate, server.folder / LINK_CERTIFICATE, server.folder / CA):
        left = days_left(path)
        if left < RENEW_DAYS:
            remedy = f"run 'pratique server renew {folder}' and reload nginx"
            if path == server.certificate and not server.has_own_ca:
                remedy = "replace it with a new one of yours and reload nginx"
            console.err.print(
                f"[bold yellow]warning:[/] {path} expires in {left} days; {remedy}", soft_wrap=True
            )

    def ready() -> None:
        _say(
            f"serving on {server.link_address}, for the proxy at {server.public_address}; "
            "Ctrl-C stops"
        )

    serve(server, ready)
    _say("stopped")


@app.command("renew", epilog="Example: pratique server renew /srv/coordinator")
def server_renew(folder: Folder) -> None:
    """Make the server's certificates anew; hospitals notice nothing."""
    from pratique_server.deployment.certificates import days_left
    from pratique_server.deployment.folder import load_server
    from pratique_server.deployment.setup import renew_certificates

    server = load_server(folder)
    renew_certificates(server)
    _say(
        f"certificate  {server.certificate}, {days_left(server.certificate)} days\n"
        "Reload nginx, and start the server anew when no run is under way."
    )


@app.command("invite", epilog="Example: pratique server invite /srv/coordinator cleveland")
def server_invite(
    folder: Folder,
    site: SiteName,
    out: Annotated[
        Path | None, typer.Option(help="File to write; default SITE.invitation.json here.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=365, help="Days until it expires.")] = 14,
) -> None:
    """Write a hospital's invitation: one file, with no secret in it."""
    from pratique_server.deployment.folder import load_server
    from pratique_server.deployment.joining import invite

    server = load_server(folder)
    path = invite(server, site, out, valid=timedelta(days=days))
    _say(f"invitation   {path}, for {days} days; an older one for {site} no longer counts")
    _say(f"coordinator  {fingerprint(public_hex(server.key))}")
    _say(
        "1. Send it to the hospital. There they run: pratique-client init "
        f"{path.name} --folder FOLDER --data TABLE\n"
        "2. They send request.json back and read you a fingerprint over the telephone. Then: "
        f'pratique server accept {folder} request.json --fingerprint "..."'
    )


@app.command(
    "accept",
    epilog="Example: pratique server accept /srv/coordinator request.json --fingerprint "
    '"5f2a 90c1 ..."',
)
def server_accept(
    folder: Folder,
    request: Annotated[Path, typer.Argument(help="The request.json that the hospital sent.")],
    told: Annotated[
        str, typer.Option("--fingerprint", help="As the hospital's people read it aloud.")
    ],
) -> None:
    """Take a hospital in whose request has the fingerprint that was told over the telephone."""
    from pratique_common.joining import node_key_pem
    from pratique_server.deployment.folder import SITES_FILE, load_server
    from pratique_server.deployment.joining import accept, control_of

    server = load_server(folder)
    accepted = accept(server, request, told)
    _say(f"{accepted.site} has joined; it stands in {folder / SITES_FILE}")
    try:
        with control_of(server) as control:
            control.register(accepted.site, node_key_pem(accepted.node_key))
    except FederationError:
        _say("The SuperLink is not running: it will know this site when it is started.")


@app.command("sites", epilog="Example: pratique server sites /srv/coordinator")
def server_sites(folder: Folder, as_json: Json = False) -> None:
    """List the hospitals that joined, with fingerprints, and whether they are connected."""
    from pratique_server.deployment.folder import load_server
    from pratique_server.deployment.joining import joined_sites

    sites = joined_sites(load_server(folder))
    if as_json:
        console.print_json(
            [
                {
                    "site": site.name,
                    "public_key": site.public_key,
                    "fingerprint": fingerprint(site.public_key),
                    "connected": site.connected,
                }
                for site in sites
            ]
        )
        return
    table = Table()
    table.add_column("site")
    table.add_column("fingerprint", no_wrap=True)
    table.add_column("connected")
    shown = {True: "yes", False: "[bold]no[/]", None: "?"}
    for site in sites:
        table.add_row(escape(site.name), fingerprint(site.public_key), shown[site.connected])
    console.out.print(table)
    if any(site.connected is None for site in sites):
        _say(f"The SuperLink is not running; start it with: pratique server start {folder}")


@app.command("remove", epilog="Example: pratique server remove /srv/coordinator cleveland")
def server_remove(folder: Folder, site: SiteName) -> None:
    """Take a hospital out: its key no longer opens a connection."""
    from pratique_common.joining import node_key_pem
    from pratique_server.deployment.folder import load_server
    from pratique_server.deployment.joining import control_of, remove

    server = load_server(folder)
    removed = remove(server, site)
    try:
        with control_of(server) as control:
            control.unregister(node_key_pem(removed.node_key))
    except FederationError:
        _say("The SuperLink is not running: it will turn this site away when it is started.")
    _say(f"{site} has left. The other hospitals' approvals still name it: they approve anew.")
