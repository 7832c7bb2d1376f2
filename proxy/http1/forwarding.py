"""What this proxy vouches for to an upstream: where a request came from, and through what. No I/O.

Rules of this file:

- From a client that nobody vouches for, the proxy's own knowledge replaces whatever it says (X-Forwarded-*, Forwarded).
- A client in `trusted_proxies` is a proxy itself. Its list of addresses is continued and its scheme and host are kept,
  each only if it is sound; what is not is replaced. Other X-Forwarded-* fields, and Forwarded, are never passed on.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.http1.grammar import OWS, PSEUDONYM, Said, is_authority

LONGEST_LIST: Final = 32  # addresses in a client's X-Forwarded-For

# An address, perhaps with a port, or what stands for one that is not told (RFC 7239 §6 has the same two).
_ADDRESS = re.compile(
    rb"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?|[0-9A-Fa-f:.]{2,45}|unknown"
).fullmatch


class Forwarding:
    """Of one client's connection: its address, the scheme it speaks (http or https), and whether it is trusted."""

    __slots__ = ("_peer", "_proto", "_trusted", "_usual")

    def __init__(self, peer: bytes, proto: bytes = b"http", *, trusted: bool = False) -> None:
        self._peer = peer
        self._proto = proto
        self._trusted = trusted
        self._usual = b"" if trusted else self._behind_host(peer, proto, http10=False)

    def __repr__(self) -> str:
        return f"<Forwarding {self._proto.decode()} from {self._peer.decode()}{', trusted' if self._trusted else ''}>"

    def lines(self, host: bytes, said: Said, *, http10: bool) -> bytes:
        """The last field lines of a request to `host`, and the empty line. `said`: what the client's own fields say."""
        if self._usual and not http10:
            return b"X-Forwarded-Host: %b%b" % (host, self._usual)
        if not self._trusted:
            return b"X-Forwarded-Host: %b%b" % (host, self._behind_host(self._peer, self._proto, http10=http10))
        addresses = [part.strip(OWS) for part in said.get(b"x-forwarded-for", b"").split(b",")]
        if len(addresses) > LONGEST_LIST or not all(map(_ADDRESS, addresses)):
            addresses = []
        proto = said.get(b"x-forwarded-proto", b"").lower()
        named = said.get(b"x-forwarded-host", b"")
        return b"X-Forwarded-Host: %b%b" % (
            named if is_authority(named) else host,  # no list is
            self._behind_host(
                b", ".join([*addresses, self._peer]),
                proto if proto in (b"http", b"https") else self._proto,
                http10=http10,
            ),
        )

    @staticmethod
    def _behind_host(addresses: bytes, proto: bytes, *, http10: bool) -> bytes:
        """All that follows X-Forwarded-Host. Via: RFC 9110 §7.6.3."""
        return b"\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nVia: 1.%d %b\r\n\r\n" % (
            addresses,
            proto,
            not http10,
            PSEUDONYM,
        )
