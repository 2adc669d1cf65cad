"""A ledger that was restored from an old backup is noticed: the security log remembers its heads.

The chain of an old copy is intact, but patients would pay twice. Every spend stands in the security
log with the head it led to, so that head must be in the ledger. Where the whole folder was restored
this cannot help: docs/operations.md tells what to compare with then.
"""

from pratique_client.site import Site
from pratique_common.errors import VerificationError
from pratique_common.security_log import security_log


def require_newest(site: Site) -> str:
    """Check the ledger's chain and that it holds the last spend; return its head.

    Raises:
        VerificationError: the chain is broken, or the ledger is older than the security log.
    """
    head = site.ledger.verify()
    last = security_log(site.folder).last(["spent"])
    if last is None or "head" not in last or last["head"] == head:
        return head
    if last["head"] not in {entry.hash for entry in site.ledger.entries()}:
        raise VerificationError(
            f"{site.ledger.path}: the ledger is older than the security log, which holds a "
            f"spend of {last['time']} that it lacks; restore a newer copy, see docs/operations.md",
            code="ledger_older",
        )
    return head
