"""Which heads let their connection stay open: the same for requests and responses (RFC 9112 §9.3)."""

from __future__ import annotations

# version, the Connection lines, whether it may
KEEP_ALIVE = [
    (b"1.1", b"", True),
    (b"1.1", b"Connection: close\r\n", False),
    (b"1.1", b"Connection: Keep-Alive, CLOSE\r\n", False),
    (b"1.1", b"Connection: x\r\nConnection: close\r\n", False),
    (b"1.0", b"", False),
    (b"1.0", b"Connection: Keep-Alive\r\n", True),
    (b"1.0", b"Connection: keep-alive, close\r\n", False),
]
