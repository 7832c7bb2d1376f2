"""The wire's own measures: captures that readers accept, and lateness that is never made small."""

from __future__ import annotations

from pathlib import Path
from time import monotonic_ns

import dpkt
import pytest
from wire_peers import packets

from lab.wire.lateness import Lateness
from lab.wire.pcap import ETHERNET, RAW_IP, TCP_ACK, TCP_PSH, WINDOW, Endpoint, PcapFile, packets_in, tcp_packet

HERE, THERE = Endpoint(("127.0.0.1", 40000)), Endpoint(("127.0.0.1", 80))


def test_packets_come_out_in_order_of_time(tmp_path: Path) -> None:
    pcap = PcapFile(tmp_path / "a.pcap", RAW_IP)
    base = monotonic_ns()
    for number in range(3 * WINDOW):
        swapped = number ^ 1  # every two in the wrong order
        pcap.add(base + swapped, tcp_packet(HERE, THERE, swapped, 0, TCP_ACK))
    pcap.close()
    assert [packet.seq for packet in packets(tmp_path / "a.pcap")] == list(range(3 * WINDOW))


def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    pcap = PcapFile(tmp_path / "a.pcap", ETHERNET, limit_bytes=250)
    for _ in range(3):
        pcap.add(1, b"x" * 100)
    pcap.close()
    pcap.close()
    assert (pcap.packets, pcap.dropped) == (2, 1)
    assert (tmp_path / "a.pcap").stat().st_size == 24 + 2 * 116


@pytest.mark.parametrize(
    ("size", "holds"), [(0, (0, False)), (24, (0, True)), (24 + 116, (1, True)), (24 + 2 * 116 - 1, (1, False))]
)
def test_a_capture_that_breaks_off_is_seen(tmp_path: Path, size: int, holds: tuple[int, bool]) -> None:
    path = tmp_path / "a.pcap"
    pcap = PcapFile(path, ETHERNET)
    for _ in range(3):
        pcap.add(1, b"x" * 100)
    pcap.close()
    assert packets_in(path) == (3, True)
    path.write_bytes(path.read_bytes()[:size])
    assert packets_in(path) == holds


@pytest.mark.parametrize("data", [b"", b"a", b"ab", bytes(range(256)) * 100])
def test_built_packets_have_valid_checksums(data: bytes) -> None:
    raw = tcp_packet(HERE, THERE, 2**32 + 5, 7, TCP_PSH | TCP_ACK, data)
    ip = dpkt.ip.IP(raw)
    assert (ip.data.seq, ip.data.ack, bytes(ip.data.data)) == (5, 7, data)
    sums = ip.sum, ip.data.sum
    ip.sum = ip.data.sum = 0
    again = dpkt.ip.IP(bytes(ip))  # dpkt fills in what is 0
    assert (again.sum, again.data.sum) == sums


def test_lateness() -> None:
    late = Lateness()
    assert (late.percentile_ms(0.5), late.max_ms) == (None, None)
    for micros in range(1, 101):
        late.add(micros * 10_000 - 1)
    assert late.percentile_ms(0.5) == pytest.approx(0.5)
    assert late.percentile_ms(0.99) == pytest.approx(0.99)
    assert late.max_ms == pytest.approx(1.0)
