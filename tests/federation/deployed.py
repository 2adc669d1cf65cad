"""A federation over TLS with real processes: coordinator, proxies, daemons."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from pratique_client.cli import app as client_cli
from pratique_server.cli import app as server_cli
from pratique_server.superlink import free_port

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")


def pratique(*arguments: object) -> Result:
    """Call a command of the coordinator in this process."""
    return CliRunner().invoke(server_cli, [str(argument) for argument in arguments])


def client(*arguments: object) -> Result:
    """Call a command of a hospital in this process."""
    return CliRunner().invoke(client_cli, [str(argument) for argument in arguments])


def done(result: Result) -> str:
    """Return what a command printed after checking that it succeeded."""
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


class ConnectProxy:
    """A hospital's way out: an HTTP proxy that knows CONNECT and nothing else."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.asked: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._connect, args=(connection,), daemon=True).start()

    def _connect(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            received = connection.recv(4096)
            if not received:
                return
            head += received
        method, target, _ = head.split(b"\r\n")[0].decode().split()
        assert method == "CONNECT"
        self.asked.append(target)
        host, _, port = target.rpartition(":")
        try:
            upstream = socket.create_connection((host, int(port)))
        except OSError:
            connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            connection.close()
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        threading.Thread(target=_pump, args=(connection, upstream), daemon=True).start()
        _pump(upstream, connection)


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
    except OSError:
        pass  # the other side is gone
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


@dataclass
class Deployed:
    """Folders, ports and processes of one federation."""

    folder: Path
    study: Path
    port: int
    link_port: int
    proxy: ConnectProxy
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def server(self) -> Path:
        return self.folder / "coordinator"

    def site(self, name: str) -> Path:
        return self.folder / name

    def spawn(
        self, name: str, command: Sequence[object], **environment: str
    ) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.out").open("ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command], stdout=log, stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        self.processes.append(process)
        return process

    def start_server(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "pratique_server.cli", "server", "start", self.server]
        process = self.spawn("server", command)
        self.wait_for("server", "serving on", process)
        return process

    def server_process(self) -> "subprocess.Popen[bytes]":
        """Return the server that was started last."""
        started = [p for p in self.processes if {"server", "start"} <= set(map(str, p.args))]  # type: ignore[arg-type]
        return started[-1]

    def start_daemon(self, name: str, *options: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "pratique_client.cli", "start", self.site(name), *options]
        return self.spawn(name, command)

    def start_nginx(self) -> None:
        """Include the configuration that ``server init`` made in a whole one of a user's own."""
        assert NGINX is not None
        home = self.folder / "nginx"
        home.mkdir()
        paths = "".join(
            f"{kind}_temp_path {home}/{kind}; "
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root; " if os.geteuid() == 0 else ""
        (home / "whole.conf").write_text(
            f"{user}daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;\n"
            f"events {{}}\nhttp {{ access_log {home}/access.log; {paths}\n"
            f"include {self.server}/nginx.conf; }}\n"
        )
        process = self.spawn("nginx", [NGINX, "-p", home, "-c", home / "whole.conf"])
        end = time.monotonic() + 20
        while time.monotonic() < end:
            assert process.poll() is None, (self.folder / "nginx.out").read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError("nginx does not listen")

    def wait_for(
        self, name: str, text: str, process: "subprocess.Popen[bytes]", timeout_s: float = 90
    ) -> None:
        path, end = self.folder / f"{name}.out", time.monotonic() + timeout_s
        while time.monotonic() < end:
            if text in path.read_text():
                return
            assert process.poll() is None, path.read_text()
            time.sleep(0.05)
        raise AssertionError(path.read_text())

    def invite_and_init(self, name: str, data: Path, *options: object) -> str:
        """Return the fingerprint that the hospital's people read aloud."""
        invitation = self.folder / f"{name}.invitation.json"
        done(pratique("server", "invite", self.server, name, "--out", invitation))
        told = done(client("init", invitation, "--folder", self.site(name), "--data", data,
                           "--simulated", *options))  # fmt: skip
        (line,) = (line for line in told.splitlines() if line.startswith("this site"))
        return line.removeprefix("this site").strip()

    def accept(self, name: str, told: str) -> Result:
        request = self.site(name) / "request.json"
        return pratique("server", "accept", self.server, request, "--fingerprint", told)

    def stop(self) -> None:
        self.proxy.close()
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def deploy(folder: Path, study: Path, data: Mapping[str, Path]) -> Deployed:
    """Bring up a coordinator and its hospitals as people would; the first one has a proxy.

    Without nginx the hospitals connect to the SuperLink itself.
    """
    link_port = free_port()
    port = link_port if NGINX is None else free_port()
    deployed = Deployed(folder, study, port, link_port, ConnectProxy())
    done(pratique("server", "init", deployed.server, "--host", "localhost", "--port", port,
                  "--superlink-port", link_port, "--health-port", free_port()))  # fmt: skip
    try:
        first = next(iter(data))
        for name, path in data.items():
            way_out = ("--proxy", deployed.proxy.address) if name == first else ()
            told = deployed.invite_and_init(name, path, *way_out)
            # One is accepted while nothing serves, the others later.
            if name != first:
                continue
            done(deployed.accept(name, told))
        deployed.start_server()
        if NGINX is not None:
            deployed.start_nginx()
        for name in data:
            if name != first:
                key = (deployed.site(name) / "site.pub").read_text().strip()
                done(deployed.accept(name, _fingerprint(key)))
        for name in data:
            done(client("approve", study, "--site", deployed.site(name), "--yes",
                        "--sites", deployed.server / "sites.toml"))  # fmt: skip
            deployed.start_daemon(name)
    except BaseException:
        deployed.stop()
        raise
    return deployed


def _fingerprint(key: str) -> str:
    from pratique_common.signing import fingerprint

    return fingerprint(key)
