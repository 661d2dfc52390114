"""Decides who may call what, for the API and for the page; counts and logs whom it refuses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

from clickstream.errors import ClickstreamError, InvalidCredentials, MethodNotAllowed, MissingCredentials
from clickstream_server.security.roles import Role, named
from clickstream_server.security.token_file import TokenFile
from clickstream_server.security.tokens import NOBODY, TokenLine, key_id_of

_SCHEME = "bearer"
_SAY_EVERY_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call is not let in. `caller`: the name of the token that it carries, or claims to; "" if unknown.

    `key_id`: of what has the form of a token and is none of ours; that of one that was revoked tells whose it was.
    """

    error: ClickstreamError
    caller: str
    what: str
    key_id: str = ""


class Gate:
    """Lets in who has a token of the right role; everyone if there is no tokens file.

    `refused` is called with the reason and the token's name ("" if unknown) for each call that is not let in.
    """

    def __init__(
        self, tokens: TokenFile | None, *, refused: Callable[[str, str], None] = lambda _reason, _caller: None
    ) -> None:
        self._tokens = tokens
        self._refused = refused
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    @property
    def asks(self) -> bool:
        """Whether it asks for tokens at all."""
        return self._tokens is not None

    def check(
        self, authorization: Sequence[str | bytes], roles: Collection[Role], what: str
    ) -> TokenLine | Refusal | None:
        """Who calls, by all the `authorization` headers of the call; None without tokens. `what`: for the log."""
        if self._tokens is None:
            return None
        try:
            token = _bearer(authorization)
        except ClickstreamError as error:
            return Refusal(error, "", what)
        key_id = key_id_of(token) or ""
        known = self._tokens.lines.get(key_id, NOBODY)
        if not known.matches(token):
            return Refusal(InvalidCredentials("the token is not known here, or was revoked"), known.name, what, key_id)
        misfit = _misfit(known, roles, what)
        return known if misfit is None else Refusal(misfit, known.name, what)

    def ended(self, caller: TokenLine, roles: Collection[Role], what: str) -> ClickstreamError | None:
        """Why someone who was let in may go on no longer; None: may go on."""
        now = None if self._tokens is None else self._tokens.lines.get(caller.key_id)
        if now is None or now.digest != caller.digest:
            return InvalidCredentials("the token was revoked")
        return _misfit(now, roles, what)

    def report(self, refusal: Refusal, peer: str) -> None:
        """Count it, and log it: once a second at most for each reason and name, else strangers could flood the log."""
        reason = refusal.error.reason
        self._refused(reason, refusal.caller)
        now = monotonic()
        at, silent = self._said.get((reason, refusal.caller), (-_SAY_EVERY_S, 0))
        if now - at < _SAY_EVERY_S:
            self._said[reason, refusal.caller] = (at, silent + 1)
            return
        self._said[reason, refusal.caller] = (now, 0)
        unknown = f"a token that is not in the file, key id {refusal.key_id}," if refusal.key_id else "someone unknown"
        caller = f"the token of {refusal.caller}" if refusal.caller else unknown
        more = f" (and {silent} more since the last such line)" if silent else ""
        _log.warning("refused %s to %s at %s: %s%s", refusal.what, caller, peer, reason, more)


def _misfit(known: TokenLine, roles: Collection[Role], what: str) -> ClickstreamError | None:
    """Why this token, which is genuine, does not do; None if it does."""
    if known.expired(datetime.now(UTC)):
        return InvalidCredentials(f"the token of {known.name} has expired; ask whoever runs the server for a new one")
    if known.roles.isdisjoint(roles):
        return MethodNotAllowed(
            f"the token of {known.name} has the roles {named(known.roles)}; "
            f"{what.rpartition('/')[2]} needs one of {named(roles)}"
        )
    return None


def _bearer(authorization: Sequence[str | bytes]) -> str:
    """The token. Raises what is wrong with the headers, without anything of them."""
    if not authorization:
        raise MissingCredentials("this server asks for a token: send the metadata authorization: Bearer TOKEN")
    if len(authorization) > 1:
        raise InvalidCredentials(f"the call has {len(authorization)} authorization headers, and must have one")
    text = authorization[0]
    scheme, _, token = text.partition(" ") if isinstance(text, str) else ("", "", "")
    if scheme.lower() != _SCHEME:
        raise InvalidCredentials("the authorization header must be the word Bearer, a space and a token")
    if key_id_of(token) is None:
        raise InvalidCredentials(
            "what stands behind Bearer is not a token of this service; is it cut off, or another's?"
        )
    return token
