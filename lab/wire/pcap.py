"""Writes pcap files (the classic format, nanoseconds), and builds the packets that the relay never saw.

Format: https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcap/ ; link types: https://www.tcpdump.org/linktypes.html.
A file is limited; what does not fit is counted in `dropped`.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from lab.wire.clock import wall_minus_monotonic

ETHERNET = 1
RAW_IP = 101

TCP_FIN, TCP_SYN, TCP_RST, TCP_PSH, TCP_ACK = 0x01, 0x02, 0x04, 0x08, 0x10

NANOSECOND_MAGIC = 0xA1B23C4D
LIMIT_BYTES = 512 << 20
# Packets are stamped when they enter or leave, and come here a little out of order. They wait in a window of this many.
WINDOW = 512

FILE_HEADER = struct.Struct("<IHHiIII")
RECORD = struct.Struct("<IIII")
IPV4 = struct.Struct("!BBHHHBBH4s4s")
TCP = struct.Struct("!HHIIBBHHH")


class PcapFile:
    """One vantage point's packets. Times come in monotonic and go out as wall-clock time."""

    def __init__(self, path: Path, link_type: int, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self.packets = 0
        self.dropped = 0
        self._left = limit_bytes
        self._window: list[tuple[int, int, bytes]] = []
        self._wall_minus_mono = wall_minus_monotonic()
        self._file = open(path, "wb", buffering=1 << 16)  # noqa: SIM115 - closed by close()
        self._file.write(FILE_HEADER.pack(NANOSECOND_MAGIC, 2, 4, 0, 0, 0xFFFF, link_type))

    def __repr__(self) -> str:
        return f"<PcapFile {self._file.name}, {self.packets} packets, {self.dropped} dropped>"

    def add(self, t_ns: int, packet: bytes) -> None:
        size = len(packet) + RECORD.size
        if self._left < size:
            self.dropped += 1
            return
        self._left -= size
        self.packets += 1
        self._window.append((t_ns, self.packets, packet))
        if len(self._window) >= WINDOW:
            self._write(WINDOW // 2)

    def close(self) -> None:
        """Idempotent."""
        if not self._file.closed:
            self._write(len(self._window))
            self._file.close()

    def _write(self, count: int) -> None:
        self._window.sort()
        ready, self._window = self._window[:count], self._window[count:]
        for t_ns, _, packet in ready:
            seconds, nanoseconds = divmod(t_ns + self._wall_minus_mono, 1_000_000_000)
            self._file.write(RECORD.pack(seconds, nanoseconds, len(packet), len(packet)) + packet)


def packets_in(path: Path) -> tuple[int, bool]:
    """How many packets one of these files holds, and whether it ends where a packet does."""
    data = path.read_bytes()
    packets, at = 0, FILE_HEADER.size
    while at + RECORD.size <= len(data):
        at += RECORD.size + RECORD.unpack_from(data, at)[2]
        packets += at <= len(data)
    return packets, at == len(data)


class Endpoint:
    """An IPv4 address and port, packed once."""

    __slots__ = ("ip", "port")

    def __init__(self, address: tuple[str, int]) -> None:
        self.ip = socket.inet_aton(address[0])
        self.port = address[1]


def tcp_packet(source: Endpoint, target: Endpoint, seq: int, ack: int, flags: int, data: bytes = b"") -> bytes:
    """An IPv4 packet with a TCP segment, with valid checksums."""
    size = 20 + len(data)
    numbers = (source.port, target.port, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, 5 << 4, flags, 0xFFFF)
    pseudo_header = source.ip + target.ip + struct.pack("!HH", socket.IPPROTO_TCP, size)
    tcp_sum = _checksum(pseudo_header + TCP.pack(*numbers, 0, 0) + data)
    ip_sum = _checksum(IPV4.pack(0x45, 0, 20 + size, 0, 0x4000, 64, socket.IPPROTO_TCP, 0, source.ip, target.ip))
    ip = IPV4.pack(0x45, 0, 20 + size, 0, 0x4000, 64, socket.IPPROTO_TCP, ip_sum, source.ip, target.ip)
    return ip + TCP.pack(*numbers, tcp_sum, 0) + data


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071). 65536 is 1 modulo 65535, so the sum of the words is one remainder."""
    words = int.from_bytes(data + b"\0" if len(data) % 2 else data, "big")
    return 0xFFFF - (words % 0xFFFF or 0xFFFF)
