"""A DNS server for tests: answers what the script says, with scripted times to live and faults, over UDP and TCP."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Fault = Literal["SERVFAIL", "REFUSED", "NXDOMAIN", "silent", "garbage"]


@dataclass
class FakeDns:
    """`records[name, family]` is a zone line for each record, "300 A 10.0.0.1"; a name with none is NXDOMAIN.

    `faults[name]`, or for one family `faults[name, family]`, comes before the records. `asked` counts the questions.
    """

    records: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    faults: dict[str | tuple[str, str], Fault] = field(default_factory=dict)
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    over_tcp: int = 0
    largest_datagram: int = 512
    address: str = ""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def set(self, name: str, *lines: str) -> None:
        """Makes these all the records of a name: "300 A 10.0.0.1", "300 CNAME other.test."."""
        for family in ("A", "AAAA"):
            self.records[name, family] = [line for line in lines if line.split()[1] in (family, "CNAME")]

    async def until_asked(self, name: str, family: str = "A", times: int = 1) -> None:
        """Until a question has come so many times more."""
        wanted = self.asked[name, family] + times
        async with asyncio.timeout(20):
            while self.asked[name, family] < wanted:
                self._changed.clear()
                await self._changed.wait()

    def answer(self, wire: bytes) -> bytes | None:
        """The answer to a question, or nothing."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, family = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.asked[name, family] += 1
        self._changed.set()
        fault = self.faults.get((name, family)) or self.faults.get(name)
        if fault == "silent":
            return None
        if fault == "garbage":
            return wire[:2] + b"\xff" * 7
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if fault is not None:
            response.set_rcode(dns.rcode.from_text(fault))
        elif (name, family) not in self.records:
            response.set_rcode(dns.rcode.NXDOMAIN)
        else:
            self._fill(response, name, family)
        return response.to_wire()

    def _fill(self, response: dns.message.Message, name: str, family: str) -> None:
        for line in self.records[name, family]:
            ttl, kind, value = line.split()
            response.answer.append(dns.rrset.from_text(name, int(ttl), "IN", kind, value))
            if kind == "CNAME":
                self._fill(response, value, family)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: FakeDns) -> None:
        self.server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self.server.answer(data)
        if answer is not None and len(answer) > self.server.largest_datagram:
            truncated = dns.message.make_response(dns.message.from_wire(data))
            truncated.flags |= dns.flags.TC
            answer = truncated.to_wire()
        if answer is not None:
            self.transport.sendto(answer, addr)


@asynccontextmanager
async def fake_dns() -> AsyncIterator[FakeDns]:
    """A running server, on a port of 127.0.0.1 that is the same for UDP and TCP."""
    server = FakeDns()

    async def over_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        answer = server.answer(await reader.readexactly(size))
        server.over_tcp += 1
        if answer is not None:
            writer.write(len(answer).to_bytes(2, "big") + answer)
        writer.close()
        await writer.wait_closed()

    stream, datagrams = two_sockets()
    tcp = await asyncio.start_server(over_tcp, sock=stream)
    udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Datagrams(server), sock=datagrams)
    host, port = stream.getsockname()
    server.address = f"{host}:{port}"
    try:
        yield server
    finally:
        udp.close()
        tcp.close()
        await tcp.wait_closed()


def two_sockets() -> tuple[socket.socket, socket.socket]:
    """One for TCP and one for UDP, on the same free port."""
    for _ in range(100):
        stream = socket.create_server(("127.0.0.1", 0))
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            datagrams.bind(stream.getsockname())
        except OSError:
            stream.close()
            datagrams.close()
        else:
            return stream, datagrams
    raise OSError("no port is free for both TCP and UDP")
