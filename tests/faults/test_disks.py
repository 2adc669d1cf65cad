"""A hospital's disk that is full or read-only in the middle of a run, and well again."""

import json
import subprocess

import pytest

from tests.faults.conftest import TOLD, Deploy
from tests.faults.federation import CLIENT, DECISIONS, Federation, wait
from tests.faults.ledgers import require_consistent

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1_200)]

ROUNDS = 20
SITE = "lakeside"
SIZE_MB = 1_400  # the daemon demands 1 GiB of free space


def _fill(federation: Federation) -> None:
    """Take every block, as somebody else's dump does."""
    filler = federation.folder / SITE / "filler"
    for unit in ("M", "K"):
        for _ in range(4_000):
            size = filler.stat().st_size if filler.exists() else 0
            step = 64 if unit == "M" else 4
            command = ["fallocate", "-o", str(size), "-l", f"{step}{unit}iB", str(filler)]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                break


def _break(federation: Federation) -> None:
    """Have ext4 do what it does at an error of the device: nothing is written any more."""
    folder = federation.folder / SITE
    subprocess.run(["mount", "-o", "remount,abort", folder], check=True, timeout=30)


def _mend(federation: Federation, fault: str) -> None:
    if fault == "full":
        (federation.folder / SITE / "filler").unlink()
        return
    if fault == "read-only":
        federation.stop(SITE)
    federation.unmount(SITE)
    federation.mount(SITE)
    federation.start_daemon(SITE)


def _cut_the_power(federation: Federation) -> None:
    """Lose every process, and all that was written and not synced."""
    _break(federation)
    federation.forget(SITE)
    federation.network.kill(SITE, "")


def test_the_power_fails_at_a_hospital(deploy: Deploy) -> None:
    federation = deploy(rounds=ROUNDS, mounted={SITE: SIZE_MB})
    run = federation.start_run()
    name = federation.wait_for_event(run, set(), kind="round", round=2)
    _cut_the_power(federation)
    federation.wait_for_event(run, set(), kind="dropped", site=SITE)
    _mend(federation, "power")
    out, _ = run.communicate(timeout=600)
    assert run.returncode in DECISIONS, out
    _, report = federation.result(name)
    drops = report["evidence"]["dropped"][SITE]
    TOLD.append(f"| power of a hospital | training | {drops} |")
    assert drops[-1]["returned"] is not None
    require_consistent(federation, SITE, name, report, rounds=ROUNDS)


@pytest.mark.parametrize(
    ("fault", "code"), [("full", "disk_full"), ("read-only", "folder_not_writable")]
)
def test_a_disk_fails_and_is_mended(deploy: Deploy, fault: str, code: str) -> None:
    federation = deploy(rounds=ROUNDS, mounted={SITE: SIZE_MB})
    run = federation.start_run()
    name = federation.wait_for_event(run, set(), kind="round", round=2)
    (_fill if fault == "full" else _break)(federation)
    federation.wait_for_event(run, set(), kind="dropped", site=SITE)
    # What a person at the hospital sees.
    checked = federation.checks(SITE)
    assert checked["disk"]["code"] == code
    _mend(federation, fault)
    out, _ = run.communicate(timeout=600)
    assert run.returncode in DECISIONS, out
    _, report = federation.result(name)
    drops = report["evidence"]["dropped"][SITE]
    TOLD.append(f"| disk {fault} | training | {drops} |")
    assert drops[0]["round"] >= 2
    assert drops[-1]["returned"] is not None
    assert {drop["code"] for drop in drops} <= {code, "timeout", "unreachable"}
    assert sorted(report["sites"]["answered"]) == sorted(federation.sites)
    require_consistent(federation, SITE, name, report, rounds=ROUNDS)
    assert "Traceback" not in (federation.folder / f"{SITE}.out").read_text()
    wait(lambda: _well(federation), "the site is not well again")


def _well(federation: Federation) -> bool:
    shown = federation.on(SITE, *CLIENT, "status", federation.home(SITE), "--json")
    return bool(json.loads(shown.stdout)["well"])
