"""Who may look, and what a browser may do with the page."""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web

from clickstream.access import is_loopback
from clickstream_server.security.gate import Gate, Refusal
from clickstream_server.security.roles import READERS

_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # Text never becomes HTML or script, not even by a mistake in the page's own code.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",  # what people search is personal data
}


GATE: web.AppKey[Gate] = web.AppKey("gate", Gate)
_WHAT = "the page"


def admit(request: web.Request) -> None:
    """Raise HTTPForbidden for what no browser may do, Unauthenticated or PermissionDenied for who may not look.

    The data need a token, if the server asks for tokens; the page itself does not, since it holds the form for it. With
    or without: no foreign page in a browser gets anything, not under a name of its own that leads here (DNS rebinding),
    and not across origins.
    """
    hosts = request.headers.getall("Host", [])
    if len(hosts) != 1 or not _names_loopback(hosts[0]):
        raise web.HTTPForbidden(text="Open this page as http://127.0.0.1 or http://localhost, with its port.\n")
    if not request.path.startswith("/api/"):
        return
    if request.headers.get("Sec-Fetch-Site", "none") not in {"same-origin", "none"}:
        raise web.HTTPForbidden(text="Only this page itself may ask for data.\n")
    gate = request.app[GATE]
    found = gate.check(request.headers.getall("Authorization", []), READERS, _WHAT)
    if isinstance(found, Refusal):
        gate.report(found, request.remote or "")
        raise found.error


def _names_loopback(host: str) -> bool:
    """Whether a Host header names this machine's loopback. Any port: it may come through a tunnel."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.netloc == host and parts.username is None and is_loopback(parts.hostname or "")
    except ValueError:
        return False


async def harden(_request: web.Request, response: web.StreamResponse) -> None:
    """Give every answer the headers that a browser goes by."""
    response.headers.update(_HEADERS)
    response.headers.popall("Server", None)
