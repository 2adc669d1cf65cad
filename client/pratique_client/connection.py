"""The way to the coordinator: proxy, certificate, clock, and whether it knows this site's key.

One request asks all of it; what does not work first stops the rest. The question whether the key
is known stands on internals of Flower 1.41.0 (``tests/client/test_flower_contract.py``).
"""

import os
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.request import getproxies, proxy_bypass

import httpx
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from pratique_client.site import CoordinatorSettings, Site
from pratique_common.errors import FederationError, InvalidFileError
from pratique_common.flower_settings import no_proxy_at_home

FLEET = "/v1/fleet/"
"""The only path that a coordinator's proxy forwards."""

EARLIEST_S, LATEST_S = -(TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE), SYSTEM_TIME_TOLERANCE
"""How far a site's clock may be ahead of the coordinator's; below zero, behind it."""

EXPIRES_SOON_DAYS = 30
_TIMEOUT_S = 10.0
_NO_HEARTBEAT_S = 0.0
"""No interval that Flower takes: it looks the key up, refuses, and activates nothing."""

_WRONG_TIME = (9, 10)
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""

_PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy")
"""Python takes the small one if both are there."""

Finding = tuple[str, str | FederationError]


def proxy_environment(
    coordinator: CoordinatorSettings, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return variables that lead the daemon's connections out, and none of its own at home."""
    changes = no_proxy_at_home(environment)
    if coordinator.proxy is not None:
        changes |= dict.fromkeys(_PROXY_VARIABLES, coordinator.proxy)
    return changes


def load_node_key(site: Site) -> EllipticCurvePrivateKey:
    """Return the key with which the SuperNode connects.

    Raises:
        InvalidFileError: no such file, or not an ECDSA P-384 key of OpenSSH.
    """
    path = site.folder / site.settings.coordinator.node_key
    if not path.is_file():
        raise InvalidFileError(path, problem="no such key file", remedy="restore it, or join anew")
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP384R1):
        raise InvalidFileError(
            path, problem="not an ECDSA P-384 key of OpenSSH", remedy="restore it, or join anew"
        )
    return key


def trusted_roots(site: Site) -> ssl.SSLContext:
    """Return a context that trusts the coordinator's root certificates and no others.

    Raises:
        InvalidFileError: the file cannot be read or holds none.
    """
    name = site.settings.coordinator.root_certificates
    assert name is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=site.folder / name)
    except (OSError, ssl.SSLError):
        raise InvalidFileError(
            site.folder / name,
            problem="holds no certificates in PEM",
            remedy="take them from the coordinator's invitation",
        ) from None
    return context


def look_at_connection(site: Site) -> Iterator[Finding]:
    """Yield what was looked at, and what was found or what is wrong; it ends at the first error."""
    with _way_out(site.settings.coordinator):
        yield from _look(site)


@contextmanager
def _way_out(coordinator: CoordinatorSettings) -> Iterator[None]:
    """Use the proxy that the daemon would use: HTTP clients find it in the environment."""
    before = dict(os.environ)
    os.environ.update(proxy_environment(coordinator, os.environ))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _look(site: Site) -> Iterator[Finding]:
    coordinator = site.settings.coordinator
    host = coordinator.address.rpartition(":")[0]
    proxy = None if proxy_bypass(host) else _without_password(getproxies())
    sent = time.time()
    try:
        # A stream: once a reply was read to its end, its connection tells nothing any more.
        with (
            httpx.Client(verify=trusted_roots(site), timeout=_TIMEOUT_S) as client,
            client.stream("GET", f"https://{coordinator.address}{FLEET}") as reply,
        ):
            received, certificate = time.time(), _certificate(reply)
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
        yield from _unreached(error, coordinator, proxy)
        return
    yield "proxy", _shown(proxy)
    yield "certificate", certificate
    clock = _clock(reply, (sent + received) / 2)
    yield "clock", clock
    if isinstance(clock, str):
        yield "identity", _identity(site)


def _unreached(
    error: Exception, coordinator: CoordinatorSettings, proxy: str | None
) -> Iterator[Finding]:
    refused = _certificate_error(error)
    if refused is not None:
        yield "proxy", _shown(proxy)
        yield "certificate", _refused(refused, coordinator)
        return
    kind = type(error).__name__
    if proxy is not None and isinstance(error, (httpx.ProxyError, httpx.ConnectError)):
        yield (
            "proxy",
            FederationError(
                f"{proxy} leads to no connection with {coordinator.address} ({kind}); let it "
                "CONNECT to that address, or correct coordinator.proxy in site.toml",
                code="proxy_failed",
            ),
        )
        return
    yield (
        "connection",
        FederationError(
            f"{coordinator.address} cannot be reached ({kind}); let this machine connect out to "
            "it, set coordinator.proxy in site.toml, or ask the coordinator",
            code="coordinator_unreachable",
        ),
    )


def _without_password(proxies: Mapping[str, str]) -> str | None:
    """Return the proxy as it may be shown to somebody who helps."""
    proxy = proxies.get("https", proxies.get("all"))
    if proxy is None or "@" not in proxy:
        return proxy
    return f"{proxy.partition('://')[0]}://...@{proxy.rpartition('@')[2]}"


def _shown(proxy: str | None) -> str:
    return proxy if proxy is not None else "none: the daemon connects directly"


def _certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _refused(
    error: ssl.SSLCertVerificationError, coordinator: CoordinatorSettings
) -> FederationError:
    if error.verify_code in _WRONG_TIME:
        return FederationError(
            f"{coordinator.address}: {error.verify_message}; set this machine's clock right, or "
            "ask the coordinator for 'pratique server renew'",
            code="certificate_expired",
        )
    return FederationError(
        f"{coordinator.address} shows a certificate that is not the coordinator's "
        f"({error.verify_message}); look for a firewall that opens TLS, else ask the coordinator",
        code="certificate_refused",
    )


def _certificate(reply: httpx.Response) -> str:
    encrypted = reply.extensions["network_stream"].get_extra_info("ssl_object")
    certificate = x509.load_der_x509_certificate(encrypted.getpeercert(True))
    left = (certificate.not_valid_after_utc - datetime.now(UTC)).days
    soon = "; it expires soon: tell the coordinator" if left < EXPIRES_SOON_DAYS else ""
    return f"{encrypted.version()}, the coordinator's, {left} days left{soon}"


def _clock(reply: httpx.Response, now: float) -> str | FederationError:
    try:
        shown = parsedate_to_datetime(reply.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return "the coordinator does not tell its time"
    ahead = now - shown
    # The header has whole seconds.
    if EARLIEST_S < ahead < LATEST_S + 1:
        return f"{abs(ahead):.0f} s from the coordinator's"
    side = "ahead of" if ahead > 0 else "behind"
    return FederationError(
        f"this machine is {abs(ahead):.0f} s {side} the coordinator, which refuses more than "
        f"{LATEST_S} s ahead or {-EARLIEST_S} s behind; set both clocks by NTP",
        code="clock_wrong",
    )


def _identity(site: Site) -> str | FederationError:
    """Ask for an activation that Flower refuses, to learn why: it looks for the key first."""
    key, coordinator = load_node_key(site), site.settings.coordinator
    roots = (site.folder / str(coordinator.root_certificates)).read_bytes()
    request = ActivateNodeRequest(
        public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=_NO_HEARTBEAT_S
    )
    client = FleetHttpClient.from_server_address(
        coordinator.address,
        False,
        roots,
        interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
    )
    try:
        client.ActivateNode(request)
    except httpx.HTTPStatusError as error:
        told = FlowerError.from_json(error.response.text)
        if told is not None and told.code == ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL:
            return "the coordinator knows this site's key"
        if told is not None and told.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
            return FederationError(
                "the coordinator does not know this site's key; send it request.json, and read "
                "it this site's fingerprint by telephone",
                code="not_accepted",
            )
        return FederationError(
            f"the coordinator's proxy answers, and its SuperLink does not (HTTP "
            f"{error.response.status_code}); ask the coordinator: a daemon waits by itself",
            code="superlink_unreachable",
        )
    except httpx.HTTPError as error:
        return FederationError(
            f"the connection broke ({type(error).__name__}); try again",
            code="coordinator_unreachable",
        )
    finally:
        client.close()
    return FederationError("the coordinator's Flower is not the one that this software was made "
                           "for; ask it for its version", code="wrong_flower")  # fmt: skip
