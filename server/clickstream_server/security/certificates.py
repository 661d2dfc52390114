"""The server's side of TLS: its certificate, read again when it is renewed."""

from __future__ import annotations

import logging
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import grpc

from clickstream.pem import PemFault, check_authorities, check_pair, expires_at, verdict
from clickstream_server.config import Settings
from clickstream_server.failures import StartFailure

_TRIES = 3
_JUDGE_EVERY_S = 600.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Files:
    cert: bytes
    key: bytes
    client_ca: bytes | None


class Certificates:
    """The certificate, its key and, for mutual TLS, who vouches for clients.

    Its maker must call `look` now and then. Raises StartFailure if the files cannot be used.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        try:
            self._files = self._checked()
        except (OSError, PemFault) as error:
            raise StartFailure(
                f"CLICKSTREAM_TLS_CERT, CLICKSTREAM_TLS_KEY, CLICKSTREAM_TLS_CLIENT_CA: {_said(error)}"
            ) from error
        self._configuration = _configuration(self._files)
        self._given = self._configuration
        self._wrong = ""
        self._verdict = ""
        self._expires_at = 0
        self._look_at_verdict()

    @property
    def expires_at(self) -> int:
        """When the certificate expires, in seconds since 1970."""
        return self._expires_at

    @property
    def mutual(self) -> bool:
        """Whether clients must show a certificate, too."""
        return self._client_ca is not None

    def look(self) -> None:
        """Take renewed files. If they do not fit or are not whole, those from before stay, and a warning is logged."""
        try:
            files = self._files if self._read() == self._files else self._checked()
        except (OSError, PemFault) as error:
            if (wrong := _said(error)) != self._wrong:
                _log.error("the renewed certificate is not used, the one from before stays: %s", wrong)
                self._wrong = wrong
            return
        mended, self._wrong = self._wrong != "", ""
        if files != self._files:
            self._files, self._configuration = files, _configuration(files)
            _log.log(_level(mended), "%s was renewed; new connections get it", self._cert)
            self._look_at_verdict()
        elif mended:
            _log.log(_level(mended), "%s is again what it was", self._cert)
        elif monotonic() - self._judged_at >= _JUDGE_EVERY_S:
            self._look_at_verdict()

    def credentials(self) -> grpc.ServerCredentials:
        """For one server. Connections that are up keep the certificate that they began with."""
        return grpc.dynamic_ssl_server_credentials(self._configuration, self._renewed, self.mutual)

    def _renewed(self) -> Any:
        """The certificate for a new connection; None: as before. gRPC asks in a thread of its own, one at a time."""
        now = self._configuration
        if now is self._given:
            return None
        self._given = now
        return now

    def _look_at_verdict(self) -> None:
        """Warn once if clients will not take the certificate: one that has expired can be served like any other."""
        self._judged_at = monotonic()
        before = self._verdict
        with suppress(OSError, ssl.SSLError):  # they are being renewed just now
            self._verdict, self._expires_at = verdict(self._cert, self._key), expires_at(self._cert, self._key)
        if self._verdict not in {"", before}:
            _log.warning("clients will not trust %s: %s", self._cert, self._verdict)

    def _checked(self) -> _Files:
        """The files, if they fit together. What is checked is what is read: a renewal may come in between."""
        for _ in range(_TRIES):
            files = self._read()
            check_pair(self._cert, self._key)
            if self._client_ca is not None:
                check_authorities(self._client_ca)
            if files == self._read():
                return files
        raise PemFault(f"{self._cert} or what belongs to it changes all the time")

    def _read(self) -> _Files:
        client_ca = None if self._client_ca is None else self._client_ca.read_bytes()
        return _Files(self._cert.read_bytes(), self._key.read_bytes(), client_ca)


def opened_certificates(settings: Settings) -> Certificates | None:
    """Those of the settings; None without TLS. Raises StartFailure."""
    cert, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if cert is None or key is None:
        if (cert, key, client_ca) == (None, None, None):
            return None
        missing = [
            name for name, path in (("CLICKSTREAM_TLS_CERT", cert), ("CLICKSTREAM_TLS_KEY", key)) if path is None
        ]
        raise StartFailure(f"TLS needs a certificate and its key: {' and '.join(missing)} missing")
    return Certificates(cert, key, client_ca)


def _level(mended: bool) -> int:  # noqa: FBT001  # one word says it
    """That a fault is over is told where the fault was told."""
    return logging.WARNING if mended else logging.INFO


def _configuration(files: _Files) -> Any:
    return grpc.ssl_server_certificate_configuration([(files.key, files.cert)], root_certificates=files.client_ca)


def _said(error: OSError | PemFault) -> str:
    return f"{error.filename} cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
