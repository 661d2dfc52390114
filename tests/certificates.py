"""An authority of a test's own, and certificates by it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)
Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Pair:
    """The files of a certificate and its key."""

    cert: Path
    key: Path

    def replace(self, other: Pair) -> None:
        """Put the other one in this one's place, as a renewal does."""
        for mine, its in ((self.cert, other.cert), (self.key, other.key)):
            new = mine.with_suffix(".new")
            new.write_bytes(its.read_bytes())
            new.replace(mine)


class Authority:
    """Vouches for servers and clients. `ca` is its certificate's file."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._issuer = _named(name)
        cert = _certificate(self._issuer, self._issuer, self._key, self._key, DAY, [], authority=True)
        self.ca = folder / f"{name}.pem"
        self.ca.write_bytes(cert.public_bytes(serialization.Encoding.PEM))

    def pair(
        self, name: str = "server", hosts: tuple[str, ...] = ("localhost", "127.0.0.1"), age: timedelta = DAY
    ) -> Pair:
        """A certificate for these hosts that is good for so long from now on; less than nothing: it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert = _certificate(_named(name), self._issuer, key, self._key, age, hosts)
        pair = Pair(self._folder / f"{self._name}-{name}.pem", self._folder / f"{self._name}-{name}.key")
        pair.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair


def encrypted(key: Path) -> bytes:
    """The same key under a password."""
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    password = serialization.BestAvailableEncryption(b"secret")
    return loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, password)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(  # noqa: PLR0917
    subject: x509.Name,
    issuer: x509.Name,
    key: Key,
    signer: Key,
    age: timedelta,
    hosts: tuple[str, ...] | list[str],
    *,
    authority: bool = False,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * DAY)
        .not_valid_after(now + age)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if hosts:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False
        )
    return builder.sign(signer, hashes.SHA256())


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
