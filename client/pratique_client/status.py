"""A site's status in words."""

from collections.abc import Iterator

from pratique_client.health import SiteStatus

_SHOWN_DIGITS = 12


def as_text(status: SiteStatus) -> Iterator[str]:
    """Yield the lines of ``pratique-client status``."""
    yield f"{status.site} is {'well' if status.well else 'NOT WELL'}"
    for part in status.parts:
        yield f"  {'OK  ' if part.well else 'FAIL'} {part.name}: {part.finding}"
    yield f"run      {_doing(status)}"
    spent = "unknown" if status.epsilon_spent is None else f"{status.epsilon_spent:.2f}"
    yield f"budget   ε = {spent} of {status.epsilon_budget:g} spent, per patient"
    refusal = status.last_refusal
    if refusal is None:
        yield "refusal  none in the security log"
    else:
        question = refusal.get("question", "?")
        yield f"refusal  {refusal['time']}: {question}: {refusal.get('code', '?')}"


def _doing(status: SiteStatus) -> str:
    doing = status.doing
    if doing is None:
        return "none yet" if status.parts[-1].well else "unknown"
    phase = " ".join(word[:_SHOWN_DIGITS] for word in doing.phase.split())
    since = f", paid for at {doing.since}" if doing.since else ""
    return f"{doing.run} of study {doing.study[:_SHOWN_DIGITS]}: {phase}{since}"
