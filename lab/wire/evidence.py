"""What a wire leaves in the run folder: the flow log and a capture of each side. Both makes write it the same way."""

from __future__ import annotations

from pathlib import Path

from lab.wire.contract import WireStats
from lab.wire.flowlog import FlowLog
from lab.wire.lateness import Lateness
from lab.wire.pcap import PcapFile


class Evidence:
    """`proxy_side` and `upstream_side`: the packets as the two hosts saw them."""

    def __init__(self, run_dir: Path, link_type: int) -> None:
        self.log = FlowLog(run_dir / "wire.jsonl")
        self.proxy_side = PcapFile(run_dir / "proxy-side.pcap", link_type)
        self.upstream_side = PcapFile(run_dir / "upstream-side.pcap", link_type)

    def __repr__(self) -> str:
        return f"<Evidence {self.proxy_side!r}, {self.upstream_side!r}>"

    def close(self, make: str, forwarded: int, lost: int, late: Lateness) -> WireStats:
        """Completes the files; returns all numbers of the run."""
        pcaps = (self.proxy_side, self.upstream_side)
        self.log.close()
        for pcap in pcaps:
            pcap.close()
        return WireStats(
            make=make,
            forwarded=forwarded,
            lost=lost,
            late_p50_ms=late.percentile_ms(0.5),
            late_p99_ms=late.percentile_ms(0.99),
            late_max_ms=late.max_ms,
            log_emitted=self.log.emitted,
            log_dropped=self.log.dropped,
            pcap_packets=sum(pcap.packets for pcap in pcaps),
            pcap_dropped=sum(pcap.dropped for pcap in pcaps),
        )
