"""Hosts as network namespaces: each with an address, a name table and a wire that can be pulled."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_NETWORK = "10.213.77"


def why_not() -> str | None:
    """Return why no host can be made here."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program, package in (
        ("ip", "iproute2"),
        ("nginx", "nginx-light"),
        ("mkfs.ext4", "e2fsprogs"),
    ):
        if shutil.which(program, path=PATH) is None:
            return f"{program} is not here (Debian: apt-get install {package})"
    tried = _ip("netns", "add", "pratique-try", check=False)
    if tried.returncode:
        return f"network namespaces cannot be made: {tried.stderr.strip()}"
    _ip("netns", "delete", "pratique-try")
    return None


def _ip(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    result = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, check=False, env={"PATH": PATH}
    )
    assert result.returncode == 0 or not check, f"ip {' '.join(arguments)}: {result.stderr}"
    return result


class Network:
    """Hosts on one switch, which is a namespace as well: nothing here touches the machine's own.

    Args:
        names: of the hosts; the switch is made besides. The first part of a namespace's name is the
            number of this process, so that two test runs do not meet.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._prefix = f"pq{os.getpid()}"
        self.addresses = {name: f"{_NETWORK}.{i}" for i, name in enumerate(names, start=1)}
        self._switch = f"{self._prefix}-switch"
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for index, (name, address) in enumerate(self.addresses.items()):
            self._add(name, address, f"port{index}")

    def _add(self, name: str, address: str, port: str) -> None:
        space = self.space(name)
        _ip("netns", "add", space)
        _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", self._switch, "link", "add", port, "type", "veth",
            "peer", "name", "eth0", "netns", space)  # fmt: skip
        _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
        _ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")
        # `ip netns exec` lays these files over those in /etc.
        names = Path("/etc/netns") / space
        names.mkdir(parents=True)
        (names / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in self.addresses.items())
        )

    def space(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def command(self, name: str, command: Sequence[object]) -> list[str]:
        """Return a command line that runs on a host."""
        return ["ip", "netns", "exec", self.space(name), *map(str, command)]

    def pids(self, name: str) -> list[int]:
        """Return the processes of a host."""
        return [int(pid) for pid in _ip("netns", "pids", self.space(name)).stdout.split()]

    def find(self, name: str, words: str) -> list[int]:
        """Return the processes of a host whose command line has these words."""
        return [pid for pid in self.pids(name) if words in _command_line(pid)]

    def kill(self, name: str, words: str) -> int:
        """Kill -9 what `find` finds; return how many there were."""
        found = self.find(name, words)
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return len(found)

    def cut(self, name: str) -> None:
        """Pull a host's wire at the switch: nothing is told to either side."""
        _ip("-n", self._switch, "link", "set", self._port(name), "down")

    def heal(self, name: str) -> None:
        _ip("-n", self._switch, "link", "set", self._port(name), "up")

    def _port(self, name: str) -> str:
        return f"port{list(self.addresses).index(name)}"

    def close(self) -> None:
        for name in self.addresses:
            self.kill(name, "")
            _ip("netns", "delete", self.space(name), check=False)
            shutil.rmtree(Path("/etc/netns") / self.space(name), ignore_errors=True)
        _ip("netns", "delete", self._switch, check=False)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
