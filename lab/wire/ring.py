"""A packet socket on one device: receives through a ring shared with the kernel (TPACKET_V2), sends by `send`.

The ring holds bursts that an ordinary user's socket buffer would lose, costs no system call per packet, and stamps each
packet when it arrived, not when Python came round to it. Layout: linux/if_packet.h, struct tpacket2_hdr.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Iterator

from lab.wire.clock import wall_minus_monotonic

SOL_PACKET = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, PACKET_IGNORE_OUTGOING = 5, 6, 10, 23
TPACKET_V2 = 1
STATUS_KERNEL, STATUS_USER = 0, 1
ETH_P_IP = 0x0800

FRAME = 2048  # room for one packet of 1,514 bytes and its header
FRAMES = 8192
BLOCK = 64 << 10
HEADER = struct.Struct("=IIIHHII")  # status, length, captured length, offset of the packet, _, seconds, nanoseconds
STATUS = struct.Struct("=I")


class Ring:
    """One end of the wire in the middle namespace."""

    def __init__(self, device: str) -> None:
        self.lost = 0
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._sock.setblocking(False)
        self._sock.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        self._sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        request = struct.pack("IIII", BLOCK, FRAME * FRAMES // BLOCK, FRAME, FRAMES)
        self._sock.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
        self._memory = mmap.mmap(self._sock.fileno(), FRAME * FRAMES)
        self._next = 0
        self._sock.bind((device, ETH_P_IP))

    def __repr__(self) -> str:
        return f"<Ring on {self._sock.getsockname()[0]}, {self.lost} lost>"

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(self, limit: int) -> Iterator[tuple[bytes, int]]:
        """Up to `limit` Ethernet frames, each with the moment it arrived, monotonic ns."""
        memory = self._memory
        ahead = wall_minus_monotonic()
        for _ in range(limit):
            at = self._next * FRAME
            status, length, captured, offset, _, seconds, nanoseconds = HEADER.unpack_from(memory, at)
            if not status & STATUS_USER:
                return
            packet = memory[at + offset : at + offset + captured]
            STATUS.pack_into(memory, at, STATUS_KERNEL)
            self._next = (self._next + 1) % FRAMES
            if captured < length:
                self.lost += 1
            else:
                yield packet, seconds * 1_000_000_000 + nanoseconds - ahead

    def send(self, packet: bytes) -> bool:
        """False when the device did not take it."""
        try:
            self._sock.send(packet)
        except OSError:
            self.lost += 1
            return False
        return True

    def close(self) -> None:
        """Counts what the kernel dropped because the ring was full."""
        _packets, dropped = struct.unpack("II", self._sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self.lost += dropped
        self._memory.close()
        self._sock.close()
