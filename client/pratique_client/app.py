"""The Flower ClientApp: five questions, and answers that hold codes and noised integers only."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from pratique_client.session import SiteSession
from pratique_client.site import load_site
from pratique_client.training import use_one_thread
from pratique_common.errors import FederationError, PratiqueError, describe_without_values
from pratique_common.messages import (
    CANDIDATE,
    NOISED,
    WEIGHTS,
    AuditInstructions,
    ConclusionInstructions,
    HistogramInstructions,
    Instructions,
    JoinInstructions,
    Reply,
    StepInstructions,
    pack,
    unpack,
    unpack_array,
)

SITE_FILE_SETTING = "site-file"

log = logging.getLogger("pratique.client")
app = ClientApp()

_sessions: dict[str, SiteSession] = {}
"""Site file → the session of its present run; one run at a time."""

Handler = Callable[[RecordDict, Path], RecordDict]


def _guarded(handler: Handler) -> Callable[[Message, Context], Message]:
    """Let nothing but a reply out: an error leaves as its code, and its text stays here."""

    @functools.wraps(handler)
    def guarded(message: Message, context: Context) -> Message:
        site_file = Path(str(context.node_config[SITE_FILE_SETTING]))
        try:
            content = handler(message.content, site_file)
        except PratiqueError as error:
            log.warning("%s: refused: %s: %s", handler.__name__, error.code, error)
            content = pack(Reply(code=error.code, site=_name(site_file)))
        except Exception as error:  # noqa: BLE001 - Flower would send any other text to the server
            log.error("%s: %s", handler.__name__, describe_without_values(error))
            content = pack(Reply(code=PratiqueError.code, site=_name(site_file)))
        return Message(content, reply_to=message)

    return guarded


def _name(site_file: Path) -> str:
    try:
        return load_site(site_file).name
    except PratiqueError:
        return ""  # the site file itself is what is wrong


def _session(site_file: Path, instructions: Instructions) -> SiteSession:
    session = _sessions.get(str(site_file))
    if (
        session is None
        or session.run != instructions.run
        or session.study.digest != instructions.study_digest
    ):
        raise FederationError("this site did not join this run", code="not_joined")
    return session


@app.query("join")
@_guarded
def join(content: RecordDict, site_file: Path) -> RecordDict:
    """Take part in a run of an approved study."""
    use_one_thread()
    instructions = unpack(content, JoinInstructions)
    known = _sessions.get(str(site_file))
    if known is not None and known.run == instructions.run:
        raise FederationError("this site joined this run already", code="repeated_request")
    _sessions.pop(str(site_file), None)
    session = SiteSession(load_site(site_file), instructions.study_digest, instructions.run)
    _sessions[str(site_file)] = session
    log.info("joined run %s of study %s", instructions.run, instructions.study_digest[:12])
    return pack(session.joined())


@app.train("histograms")
@_guarded
def histograms(content: RecordDict, site_file: Path) -> RecordDict:
    """Answer the histogram round."""
    session = _session(site_file, unpack(content, HistogramInstructions))
    noised = session.training.histograms()
    return pack(session.reply(), **{NOISED: noised})


@app.train("step")
@_guarded
def step(content: RecordDict, site_file: Path) -> RecordDict:
    """Answer one DP-SGD step."""
    instructions = unpack(content, StepInstructions)
    session = _session(site_file, instructions)
    weights = np.asarray(unpack_array(content, WEIGHTS), np.float32)
    noised = session.training.step(instructions.round, weights)
    return pack(session.reply(), **{NOISED: noised})


@app.query("audit")
@_guarded
def audit(content: RecordDict, site_file: Path) -> RecordDict:
    """Attack the candidate of a run that was trained to its end here."""
    instructions = unpack(content, AuditInstructions)
    session = _session(site_file, instructions)
    session.require_trained()
    candidate = np.asarray(unpack_array(content, CANDIDATE), np.uint8).tobytes()
    noised = session.audit.answer(candidate, instructions.candidate_sha256, instructions.attempt)
    log.info("audited candidate %s", instructions.candidate_sha256[:12])
    return pack(session.audited(), **{NOISED: noised})


@app.query("conclude")
@_guarded
def conclude(content: RecordDict, site_file: Path) -> RecordDict:
    """Check the coordinator's conclusion and sign it, or not."""
    instructions = unpack(content, ConclusionInstructions)
    session = _session(site_file, instructions)
    signature = session.sign(instructions.manifest_json, instructions.report_json)
    log.info("signed the conclusion of run %s", instructions.run)
    return pack(session.reply(manifest_signature=signature))
