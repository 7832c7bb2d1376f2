"""TLS contexts, from the config: one for clients, one for each group of upstreams.

Rules of this file:

- Nothing is weaker than OpenSSL's and Python's defaults. Verifying an upstream ends only by `verify = false`.
- Files are read when a context is made, never later. A new context is for new connections; those that are open keep
  theirs. So a reload that fails here has changed nothing.
- Whatever is wrong is a `TlsError` of one line that names the key and the file.
- Which certificate a client gets is decided by the name that it asks for (SNI, RFC 6066 section 3): the names in the
  certificates, exact before wildcard (one label, RFC 9525 section 6.3); no such name, or none asked for: the first.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Any, Final, NamedTuple, NoReturn

from proxy.config import TlsConfig, UpstreamTls, not_opened

PROTOCOLS: Final = ["http/1.1"]  # ALPN (RFC 7301); what else a client offers is not spoken here
VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which the ssl module has no name for
HANDSHAKE_STEPS: Final = 4  # of both sides in turn; two are enough for TLS 1.3


class TlsError(ValueError):
    """What is wrong with a certificate, a key or an authority, in one line."""


class Certificate(NamedTuple):
    """What is in a file of `tls.certificates`."""

    file: str
    names: tuple[str, ...]  # DNS names, lower case; may begin with "*."
    expires: float  # seconds since 1970

    @property
    def expired(self) -> bool:
        return self.expires < time()


class ServerTls(NamedTuple):
    """What clients are met with."""

    context: ssl.SSLContext
    certificates: tuple[Certificate, ...]


def server_context(config: TlsConfig) -> ServerTls:
    """For the clients' side. `config.certificates` is not empty."""
    contexts = []
    certificates = []
    for file in config.certificates:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = VERSIONS[config.min_version]
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(PROTOCOLS)
        _load_pair(context, "tls.certificates", file)
        certificates.append(_read(context, file))
        if config.client_ca:
            _load_authorities(context, "tls.client_ca", config.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        contexts.append(context)
    chosen_by_name: dict[str, ssl.SSLContext] = {}
    for certificate, context in zip(certificates, contexts, strict=True):
        for name in certificate.names:
            chosen_by_name.setdefault(name, context)
    if len(contexts) > 1:
        contexts[0].sni_callback = _chooser(chosen_by_name)
    return ServerTls(contexts[0], tuple(certificates))


class ClientTls(NamedTuple):
    """What upstreams are met with."""

    context: ssl.SSLContext
    read: tuple[str, ...]  # what was in the files, so that a change of them can be seen


def client_context(config: UpstreamTls) -> ClientTls:
    """For connections to upstreams. Which name is verified is said when connecting."""
    read = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and checks the name
    context.minimum_version = VERSIONS[config.min_version]
    context.set_alpn_protocols(PROTOCOLS)
    if not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif config.ca_file:
        read.append(_load_authorities(context, "upstream_tls.ca_file", config.ca_file))
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if config.certificate:
        read.append(_load_pair(context, "upstream_tls.certificate", config.certificate))
    return ClientTls(context, tuple(read))


def certificate_for(name: str, by_name: Mapping[str, ssl.SSLContext]) -> ssl.SSLContext | None:
    """The context whose certificate is for this name, exactly or by a wildcard; None: none is."""
    name = name.lower().removesuffix(".")
    return by_name.get(name) or by_name.get("*." + name.partition(".")[2])


def _chooser(by_name: Mapping[str, ssl.SSLContext]) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]:
    def choose(connection: ssl.SSLObject, name: str | None, _default: ssl.SSLContext) -> None:
        if name and (context := certificate_for(name, by_name)) is not None:
            connection.context = context

    return choose


# ---- files


def _load_pair(context: ssl.SSLContext, key: str, file: str) -> str:
    """A chain and its key; returns what was in the file."""
    text = _text(key, file)
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise TlsError(f"{key}: {file}: no certificate in it; expected a PEM file with the chain and the key")
    if "PRIVATE KEY-----" not in text:
        raise TlsError(f"{key}: {file}: no private key in it; expected a PEM file with the chain and the key")

    def no_password() -> NoReturn:  # without this, OpenSSL would ask on the terminal
        raise TlsError(f"{key}: {file}: the private key is encrypted; it must not be")

    try:
        context.load_cert_chain(file, password=no_password)
    except ssl.SSLError as problem:
        if problem.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"{key}: {file}: the private key does not match the first certificate") from None
        raise TlsError(f"{key}: {file}: {_words(problem)}") from None
    except OSError as problem:  # gone since it was read
        raise TlsError(f"{key}: {not_opened(file, problem)}") from None
    return text


def _load_authorities(context: ssl.SSLContext, key: str, file: str) -> str:
    text = _text(key, file)
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise TlsError(f"{key}: {file}: no certificate in it; expected a PEM file with those of the authorities")
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as problem:
        raise TlsError(f"{key}: {file}: {_words(problem)}") from None
    return text


def _text(key: str, file: str) -> str:
    try:
        return Path(file).read_text("ascii")
    except OSError as problem:
        raise TlsError(f"{key}: {not_opened(file, problem)}") from None
    except ValueError:
        raise TlsError(f"{key}: {file}: not a PEM file") from None


def _words(problem: Exception) -> str:
    """What OpenSSL complains of, without the place in its own source."""
    reason = getattr(problem, "reason", None) or str(problem).partition("(_ssl.c")[0]
    return "OpenSSL: " + str(reason).strip().lower().replace("_", " ")


def _read(context: ssl.SSLContext, file: str) -> Certificate:
    """The names in a certificate and when it expires, which the ssl module tells only of a peer's.

    So the context talks to a client in memory that trusts this very file, and asks no date.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(file)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(NO_CHECK_TIME)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(back, there)
    answering = context.wrap_bio(there, back, server_side=True)
    try:
        for _ in range(HANDSHAKE_STEPS):
            for side in (asking, answering):
                with suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        found = asking.getpeercert()
    except (ssl.SSLError, ValueError) as problem:
        why = getattr(problem, "verify_message", "") or _words(problem)
        raise TlsError(f"tls.certificates: {file}: no client would accept it: {why}") from None
    assert found is not None
    alternatives: Any = found.get("subjectAltName", ())
    names = (value.lower() for kind, value in alternatives if kind == "DNS")
    return Certificate(file, tuple(names), float(ssl.cert_time_to_seconds(str(found["notAfter"]))))
