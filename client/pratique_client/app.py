"""The Flower ClientApp: a few questions; answers hold codes, keys and noised integers only."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from pydantic import ConfigDict

from pratique_client.approval import require
from pratique_client.disk import require_room
from pratique_client.reply_times import ReplyTimes
from pratique_client.run_folder import RunFolder
from pratique_client.session import SiteSession
from pratique_client.site import Site, load_site
from pratique_client.sums import Submission
from pratique_common.durable import disk_code
from pratique_common.errors import FederationError, PratiqueError, describe_without_values
from pratique_common.messages import (
    CANDIDATE,
    MODEL,
    NOISED,
    WEIGHTS,
    AuditInstructions,
    ConclusionInstructions,
    CountersignInstructions,
    HistogramInstructions,
    Instructions,
    JoinInstructions,
    Reply,
    RevealInstructions,
    RosterInstructions,
    StepInstructions,
    pack,
    unpack,
    unpack_array,
    vectors_of,
)
from pratique_common.security_log import security_log
from pratique_common.threads import use_one_thread

SITE_FILE_SETTING = "site-file"

log = logging.getLogger("pratique.client")
app = ClientApp()

_sessions: dict[str, SiteSession] = {}
"""Site file → the session of its present run; one run at a time."""

_times = ReplyTimes()
_IN_TIME = 0.75  # of the coordinator's patience: questions and answers travel as well
_LOADING = "join"
_HELD = {_LOADING, "histograms", "step", "audit"}
"""Handlers whose work depends on records: their answers leave at times that do not."""

Handler = Callable[[RecordDict, Path], RecordDict]


def _guarded(handler: Handler) -> Callable[[Message, Context], Message]:
    """Let nothing but a reply out: an error leaves as its code, and its text stays here."""

    @functools.wraps(handler)
    def guarded(message: Message, context: Context) -> Message:
        site_file = Path(str(context.node_config[SITE_FILE_SETTING]))
        # Without a session any answer loads the records first, as that to a join does.
        kind = handler.__name__ if str(site_file) in _sessions else _LOADING
        if kind not in _HELD:
            return answer(message, site_file)
        with _times.hold(kind) as interval:
            reply = answer(message, site_file)
            session = _sessions.get(str(site_file))
            if session is not None:
                training = session.study.training
                interval.seconds = training.reply_interval_s
                interval.latest_s = _IN_TIME * training.round_timeout_s
        return reply

    def answer(message: Message, site_file: Path) -> Message:
        try:
            content = handler(message.content, site_file)
        except PratiqueError as error:
            log.warning("%s: refused: %s: %s", handler.__name__, error.code, error)
            _record_refusal(site_file, handler.__name__, error.code, message)
            content = pack(Reply(code=error.code, site=_name(site_file)))
        except OSError as error:
            code = disk_code(error) or PratiqueError.code
            log.error("%s: %s: %s", handler.__name__, code, describe_without_values(error))
            _record_refusal(site_file, handler.__name__, code, message)
            content = pack(Reply(code=code, site=_name(site_file)))
        except Exception as error:  # noqa: BLE001 - Flower would send any other text to the server
            log.error("%s: %s", handler.__name__, describe_without_values(error))
            _record_refusal(site_file, handler.__name__, PratiqueError.code, message)
            content = pack(Reply(code=PratiqueError.code, site=_name(site_file)))
        return Message(content, reply_to=message)

    return guarded


def _record_refusal(site_file: Path, question: str, code: str, message: Message) -> None:
    try:
        named = unpack(message.content, _About)
        about = {"study": named.study_digest, "run": named.run}
    except PratiqueError:
        about = {}  # not even that could be read
    event = "vetoed" if question == "conclude" else "refused"
    security_log(site_file.parent).record(event, code=code, question=question, **about)


class _About(Instructions):
    """What any question names."""

    model_config = ConfigDict(extra="ignore")


def _name(site_file: Path) -> str:
    try:
        return load_site(site_file).name
    except PratiqueError:
        return ""  # the site file itself is what is wrong


def _session(site_file: Path, instructions: Instructions) -> SiteSession:
    """Return the session of a run; a daemon that was started again finds it on disk."""
    session = _sessions.get(str(site_file))
    if session is not None and _is_of(session, instructions):
        return session
    site = load_site(site_file)
    state = RunFolder(site, instructions.run).load()
    if state is None or state.study != instructions.study_digest:
        raise FederationError("this site did not join this run", code="not_joined")
    return _open_session(site_file, site, instructions)


def _open_session(site_file: Path, site: Site, instructions: Instructions) -> SiteSession:
    use_one_thread()
    require(site, instructions.study_digest)  # a made-up digest ends nobody's session
    _sessions.pop(str(site_file), None)
    session = SiteSession(site, instructions.study_digest, instructions.run)
    _sessions[str(site_file)] = session
    return session


def _is_of(session: SiteSession, instructions: Instructions) -> bool:
    return (session.run, session.study.digest) == (instructions.run, instructions.study_digest)


def _pack_sum(reply: Reply, submission: Submission) -> RecordDict:
    return pack(
        reply.model_copy(update={"masked": submission.masked}), **{NOISED: submission.words}
    )


@app.query("join")
@_guarded
def join(content: RecordDict, site_file: Path) -> RecordDict:
    """Take part in a run of an approved study; asked again, show the same keys again."""
    instructions = unpack(content, JoinInstructions)
    require_room(site_file.parent)
    session = _sessions.get(str(site_file))
    if session is None or not _is_of(session, instructions):
        session = _open_session(site_file, load_site(site_file), instructions)
    log.info("joined run %s of study %s", instructions.run, instructions.study_digest[:12])
    reply = session.joined()
    session.record("joined")
    return pack(reply)


@app.query("roster")
@_guarded
def roster(content: RecordDict, site_file: Path) -> RecordDict:
    """Check everybody's mask keys and take part in sums with them."""
    instructions = unpack(content, RosterInstructions)
    session = _session(site_file, instructions)
    session.sums.accept_roster(instructions.keys)
    return pack(session.reply())


@app.train("histograms")
@_guarded
def histograms(content: RecordDict, site_file: Path) -> RecordDict:
    """Answer the histogram round."""
    instructions = unpack(content, HistogramInstructions)
    session = _session(site_file, instructions)
    submission = session.training.histograms(instructions.participants)
    return _pack_sum(session.reply(), submission)


@app.train("step")
@_guarded
def step(content: RecordDict, site_file: Path) -> RecordDict:
    """Answer one round of training."""
    instructions = unpack(content, StepInstructions)
    session = _session(site_file, instructions)
    weights = np.asarray(unpack_array(content, WEIGHTS), np.float32)
    submission = session.training.step(instructions.round, weights, instructions.participants)
    return _pack_sum(session.reply(), submission)


@app.query("audit")
@_guarded
def audit(content: RecordDict, site_file: Path) -> RecordDict:
    """Attack the candidate of a run that was trained here."""
    instructions = unpack(content, AuditInstructions)
    session = _session(site_file, instructions)
    candidate = np.asarray(unpack_array(content, CANDIDATE), np.uint8).tobytes()
    model = np.asarray(unpack_array(content, MODEL), np.uint8).tobytes()
    proofs = [
        (transcript, unpack_array(content, vectors_of(number)))
        for number, transcript in enumerate(instructions.transcripts)
    ]
    submission = session.audit.answer(candidate, model, proofs, instructions)
    log.info("audited candidate %s", instructions.candidate_sha256[:12])
    return _pack_sum(session.audited(), submission)


@app.query("countersign")
@_guarded
def countersign(content: RecordDict, site_file: Path) -> RecordDict:
    """Sign that this site saw a list of survivors; it signs one list a sum."""
    instructions = unpack(content, CountersignInstructions)
    session = _session(site_file, instructions)
    signature = session.sums.countersign(instructions.label, instructions.survivors)
    session.record("countersigned", phase=instructions.label)
    return pack(session.reply(survivors_signature=signature))


@app.query("reveal")
@_guarded
def reveal(content: RecordDict, site_file: Path) -> RecordDict:
    """Open a sum of survivors, once."""
    instructions = unpack(content, RevealInstructions)
    session = _session(site_file, instructions)
    revealed = session.sums.reveal(
        instructions.label, instructions.survivors, instructions.sealed, instructions.signatures
    )
    session.record("opened", phase=instructions.label)
    return pack(session.reply(revealed=revealed))


@app.query("conclude")
@_guarded
def conclude(content: RecordDict, site_file: Path) -> RecordDict:
    """Check the coordinator's conclusion and sign it, or not."""
    instructions = unpack(content, ConclusionInstructions)
    session = _session(site_file, instructions)
    signature = session.sign(instructions.manifest_json, instructions.report_json)
    log.info("signed the conclusion of run %s", instructions.run)
    session.record("signed")
    return pack(session.reply(manifest_signature=signature))
