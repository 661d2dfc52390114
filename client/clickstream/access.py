"""A client's way to a server: the connection, what it carries, and what is not let out on it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from clickstream.credentials import Tls, Token
from clickstream.errors import MissingCredentials
from clickstream.values import text_fault

_ONE_WORD = re.compile(r"[\x21-\x7e]+")
_CLOSED = (
    "the server closes the connection at once: if it has TLS, use TLS; if it has mutual TLS, show it a certificate of "
    "its authority"
)
_HINTS = (
    ("WRONG_VERSION_NUMBER", "the server does not speak TLS: leave TLS out, or check the address"),
    ("certificate has expired|not yet valid", "the server's certificate is out of date, or this clock is wrong"),
    ("CERTIFICATE_VERIFY_FAILED", "no authority that this client trusts vouches for the server: give its own (ca)"),
    ("is not in peer certificate|Hostname Verif", "the server's certificate is not for the name it was called by"),
    # What a server with TLS does to a client without; with mutual TLS, to one without a certificate of its authority.
    ("last error: .*Socket closed", _CLOSED),
    ("http1.x server", "what answers there is no gRPC: is it the port of the page, or of the metrics?"),
)
"""What gRPC says of connections that it could not make, by which alone they can be told apart, and what to do."""
_LOCAL_SCHEMES = ("unix:", "unix-abstract:")
_SCHEME = re.compile(r"^(dns:///|dns:(?!/)|ipv4:|ipv6:)")
_ADDRESS = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(:[\w-]+)?|(?P<bare>[0-9A-Fa-f:]+)")


@dataclass(frozen=True, slots=True)
class Access:
    """What a client brings along. Raises ValueError or OSError for what cannot work, or would give the token away.

    `token_in_clear`: send the token without TLS to another machine, too.
    """

    target: str
    token: Token | None = field(default=None, repr=False)
    tls: Tls | None = None
    token_in_clear: bool = False

    @classmethod
    def of(cls, target: str, token: Token | None, *, tls: bool | Tls, token_in_clear: bool) -> Access:
        """From what a client is given."""
        if not isinstance(tls, bool | Tls):
            raise TypeError(f"tls must be True, False or a Tls, not {type(tls).__name__}")
        if not (token is None or isinstance(token, str) or callable(token)):
            raise TypeError(f"token must be a string or a callable that returns one, not {type(token).__name__}")
        return cls(target, token, Tls() if tls is True else tls or None, token_in_clear)

    def __post_init__(self) -> None:
        if fault := text_fault(self.target):
            raise ValueError(f"the target {fault}")
        if self.target.startswith(("http://", "https://")):  # gRPC would take that for a name, and look for it
            raise ValueError(
                f"the target must be an address such as 127.0.0.1:50051, without the scheme of {self.target}"
            )
        if self.tls is not None:
            self.tls.check()
        if isinstance(self.token, str):
            _checked(self.token)
        if self.token is not None and self.tls is None and not self.token_in_clear and not is_local(self.target):
            raise ValueError(
                f"without TLS, anyone on the way to {self.target} could read the token: give tls=True or Tls(...), or "
                "token_in_clear=True if something else protects it, such as a mesh"
            )

    @property
    def arguments(self) -> dict[str, Any]:
        """What to give a client that is to have it."""
        return {
            "target": self.target,
            "token": self.token,
            "tls": self.tls or False,
            "token_in_clear": self.token_in_clear,
        }

    def channel(self, options: Sequence[tuple[str, Any]]) -> Any:
        """A connection; what is called over it carries the token."""
        if self.tls is None:
            # Never through a proxy that the environment names: it could read the token.
            more = [] if self.token is None else [("grpc.enable_http_proxy", 0)]
            channel = grpc.aio.insecure_channel(self.target, options=[*options, *more])
        else:
            channel = grpc.aio.secure_channel(self.target, self.tls.credentials(), options=options)
        return channel if self.token is None else _TokenChannel(channel, self.token)


class _TokenChannel:
    """A channel whose calls carry a token: as much of one as the generated stubs use."""

    def __init__(self, channel: grpc.aio.Channel, token: Token) -> None:
        self._token = token
        self.close = channel.close
        self.unary_unary = self._carrying(channel.unary_unary)
        self.unary_stream = self._carrying(channel.unary_stream)
        self.stream_unary = self._carrying(channel.stream_unary)
        self.stream_stream = self._carrying(channel.stream_stream)

    def _carrying(self, opened: Callable[..., Any]) -> Callable[..., Any]:
        def method(*args: Any, **options: Any) -> Callable[..., Any]:
            call = opened(*args, **options)
            return lambda *given, metadata=(), **more: call(*given, metadata=(*metadata, *self._metadata()), **more)

        return method

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        try:
            token = self._token if isinstance(self._token, str) else _checked(self._token())
        except ValueError as error:
            raise MissingCredentials(str(error)) from error
        return (("authorization", f"Bearer {token}"),)


def _checked(token: str) -> str:
    """The token, if it can be sent. gRPC's own complaint would show it."""
    if not isinstance(token, str) or not _ONE_WORD.fullmatch(token):
        raise ValueError(
            "the token must be one word of printable ASCII characters; it is empty, or has a space, a line's end or "
            "something else in it"
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether this is an address that only this machine reaches. An IPv6 address may stand in brackets."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def is_local(target: str) -> bool:
    """Whether all of a gRPC target is on this machine. What is not understood is taken for elsewhere."""
    if target.startswith(_LOCAL_SCHEMES):
        return True
    addresses = _SCHEME.sub("", target, count=1).split(",")
    found = [_ADDRESS.fullmatch(address) for address in addresses]
    return all(address is not None and is_loopback(address["host"] or address["bare"] or "") for address in found)


def hint(failure: str) -> str:
    """What to do about a connection that gRPC could not make, by its words; "" if nothing is known of it."""
    return next((words for told, words in _HINTS if re.search(told, failure)), "")
