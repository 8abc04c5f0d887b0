"""X.509 certificates: a site's own authority, its server, and clients with a role.

A client's certificate says who it is (CN) and what it may do (OU: viewer, operator or admin).
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from airan.core.errors import ConfigError, InvalidInputError

ROLES = ("viewer", "operator", "admin")
"""What a caller may do, from least to most."""
_BACKDATED = datetime.timedelta(minutes=5)  # clocks differ
_USE_OF = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True)
class _Issuer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make(
    folder: Path,
    hosts: Sequence[str],
    clients: Mapping[str, str],
    days: int = 365,
) -> list[Path]:
    """Makes ca.pem, server.pem and a NAME.pem per client (name: role), each with its .key.

    What is there already is kept, the authority above all, so that clients can be added later.
    Keys can be read by their owner only. Returns the certificates that were made.

    Raises:
        InvalidInputError: no host, an unknown role, a name that is none, or no days.
        ConfigError: the folder cannot be written, or its authority cannot be read.
    """
    for name, role in clients.items():
        _check_client(name, role)
    if not hosts:
        raise InvalidInputError("hosts", "must not be empty", remedy="name the server's host")
    if days < 1:
        raise InvalidInputError("days", f"must be at least 1, got {days}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = [] if (folder / "ca.pem").exists() else [_make_authority(folder, days)]
        issuer = _read_authority(folder)
        if not (folder / "server.pem").exists():
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            made.append(_issue(folder, "server", _subject(hosts[0]), issuer, days, names))
        for name, role in clients.items():
            if not (folder / f"{name}.pem").exists():
                made.append(_issue(folder, name, _subject(name, role), issuer, days))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"certificates cannot be made in {folder}: {error}",
            remedy="give a folder of its own that can be written",
        ) from error
    return made


def read_subject(pem: bytes) -> tuple[str, str]:
    """Who the certificate is of and its role; empty where it does not say, or is none."""
    try:
        subject = x509.load_pem_x509_certificate(pem).subject
    except ValueError:
        return "", ""
    return _only(subject, NameOID.COMMON_NAME), _only(subject, NameOID.ORGANIZATIONAL_UNIT_NAME)


def _only(subject: x509.Name, oid: x509.ObjectIdentifier) -> str:
    found = subject.get_attributes_for_oid(oid)
    # Two values leave open which one counts.
    return str(found[0].value) if len(found) == 1 else ""


def _check_client(name: str, role: str) -> None:
    if role not in ROLES:
        raise InvalidInputError("role", f"unknown role {role!r}", remedy=f"use {', '.join(ROLES)}")
    if not name.replace("-", "").replace(".", "").replace("_", "").isalnum() or name[0] == ".":
        raise InvalidInputError("client", f"{name!r} is no file's name", remedy="use letters")
    if name in ("ca", "server"):
        raise InvalidInputError("client", f"{name!r} is taken", remedy="use another name")


def _make_authority(folder: Path, days: int) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject("airan site authority")
    builder = _builder(subject, subject, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    signs = _key_usage(signs_certificates=True)
    certificate = builder.add_extension(signs, critical=True).sign(key, hashes.SHA256())
    return _write(folder, "ca", certificate, key)


def _read_authority(folder: Path) -> _Issuer:
    certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            f"{folder / 'ca.key'} is not an elliptic-curve key", remedy="give a folder of its own"
        )
    return _Issuer(certificate, key)


def _issue(
    folder: Path,
    name: str,
    subject: x509.Name,
    issuer: _Issuer,
    days: int,
    names: x509.SubjectAlternativeName | None = None,
) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(subject, issuer.certificate.subject, key.public_key(), days)
    use = _USE_OF["client" if names is None else "server"]
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    return _write(folder, name, builder.sign(issuer.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str, role: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "airan")]
    if role:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role))
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(host: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    return x509.DNSName(host)


def _write(
    folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> Path:
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / f"{name}.pem"
    handle = os.open(folder / f"{name}.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(secret)
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path
