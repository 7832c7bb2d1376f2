"""C4: upstreams that say what they should not, and clients that must never hear another's answer.

Rules of this target:

- Whatever an upstream sends while it serves a request, or after it, is marked with that request's number and a
  checksum, so that a mutation cannot forge another's mark. A client that sees a whole mark must have asked that number.
- Bytes are delivered late and in pieces. Those that left before the next request arrived acknowledge nothing of it, and
  the kernel says so: the proxy may and must tell them from an answer. They arrive within a round trip of that request.
- Row 13, judged by the strict reader: a connection may carry a request only if what it delivered since the last one is
  exactly one whole response that lets it stay open.
- A POST is executed once at most (row 22).
"""

from __future__ import annotations

import re
from random import Random
from zlib import crc32

from fakes import FakeProxy, Peer
from findings import Result, Run, Stopwatch
from mutate import mutated, pieces
from stage import staged
from strict_reader import Unsound, read_requests, read_responses

STEPS = 60  # of one trial
NOTHING_ACKED = 1 << 40  # bytes
MARK = re.compile(rb"<(\d+)-([0-9a-f]{8})>")
TAGGED = re.compile(rb"/n(\d+)").fullmatch


def mark(number: int) -> bytes:
    return b"<%d-%08x>" % (number, crc32(b"%d" % number))


def marks(data: bytes) -> set[int]:
    return {int(number) for number, check in MARK.findall(data) if mark(int(number)).endswith(check + b">")}


def answers(number: int) -> list[bytes]:
    """Sound answers to the request with this number; mutations start from them."""
    tag = mark(number)
    length, chunk = b"Content-Length: %d\r\n" % len(tag), b"%x\r\n%b\r\n0\r\n\r\n" % (len(tag), tag)
    seen = b"X-Seen: %b\r\n" % tag
    return [
        b"HTTP/1.1 200 OK\r\n" + length + seen + b"\r\n" + tag,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + seen + b"\r\n" + chunk,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + length + b"\r\n" + tag,
        b"HTTP/1.1 200 OK\r\n" + seen + b"\r\n" + tag,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n" + length + b"\r\n" + tag,
        b"HTTP/1.1 103 Early Hints\r\n" + seen + b"\r\nHTTP/1.1 404 \r\n" + length + b"\r\n" + tag,
        b"HTTP/1.1 204 No Content\r\n" + seen + b"\r\n",
        b"HTTP/1.1 304 Not Modified\r\n" + seen + length + b"\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n" + seen + b"\r\n" + tag,
        b"HTTP/1.0 200 OK\r\n" + length + b"\r\n" + tag,
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + length + b"\r\n" + tag,
        b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\nConnection: close\r\n" + seen + b"\r\n",
        b"HTTP/1.1 100 \r\n" + seen + b"\r\n",
        tag,
    ]


class Client:
    """One client connection, and the request it waits for."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.number = 0  # of the request under way; 0: none
        self.method = b""
        self.unsent = b""
        self.got = b""


class Server:
    """One upstream connection, and what it has been asked and has said."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.asked = b""  # of it, what is not yet a whole request
        self.number = 0  # of the last request
        self.method = b""
        self.said = b""  # delivered since that request
        self.waiting: list[tuple[int, bytes]] = []  # on the way: for which request, and the bytes
        self.answered = True

    def crosses(self) -> bool:
        """Whether what arrives next left before the newest request arrived."""
        return self.waiting[0][0] != self.number or bool(self.asked)


class Trial:
    """One proxy, a few clients, and an upstream gone wrong."""

    def __init__(self, proxy: FakeProxy, seed: int) -> None:
        self.proxy = proxy
        self.random = Random(seed)
        self.clients: list[Client] = []
        self.servers: list[Server] = []
        self.numbers = 0
        self.executed: dict[int, int] = {}
        self.exchanges = 0
        self.problem = ""

    def play(self) -> str:
        actions = (self.ask, self.ask, self.accept, self.answer, self.deliver, self.deliver, self.deliver, self.rest)
        for _ in range(STEPS):
            self.random.choice(actions)()
            self.look_around()
            if self.problem:
                break
        return self.problem

    # ---- what may happen

    def ask(self) -> None:
        random = self.random
        idle = [client for client in self.clients if not client.number and client.peer.transport.reading]
        if not idle:
            if len(self.clients) >= 4:
                return
            idle = [Client(self.proxy.client())]
            self.clients += idle
        client = random.choice(idle)
        self.numbers += 1
        client.number, client.got = self.numbers, b""
        client.method = random.choice((b"GET", b"GET", b"HEAD", b"POST", b"PUT"))
        head = b"%b /n%d HTTP/1.1\r\nHost: shop\r\n" % (client.method, client.number)
        if client.method in (b"POST", b"PUT"):
            head += b"Content-Length: 4\r\n\r\nbody"
        else:
            head += b"\r\n"
        cut = random.randrange(len(head)) if random.random() < 0.3 else len(head)
        client.unsent = head[cut:]
        client.peer.sends(head[:cut] or head)
        if not cut:
            client.unsent = b""

    def accept(self) -> None:
        for _ in list(self.proxy.loop.dials):
            self.servers.append(Server(self.proxy.accept()))

    def answer(self) -> None:
        """An upstream answers what it was asked, more or less."""
        asked = [server for server in self.servers if not server.answered]
        if not asked:
            return
        server, random = self.random.choice(asked), self.random
        choices = answers(server.number)
        said = random.choice(choices[:2]) if random.random() < 0.4 else random.choice(choices)
        if server.method == b"HEAD" and random.random() < 0.7:
            said = said.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        if random.random() < 0.5:
            said = mutated(random, said, random.choice(choices), most=2)
        server.answered = True
        server.waiting += [(server.number, piece) for piece in pieces(random, said) if piece]
        if random.random() < 0.3:  # and then says more, to nobody
            server.waiting.append((server.number, random.choice(choices)))

    def deliver(self) -> None:
        ready = [server for server in self.servers if server.waiting and server.peer.transport.reading]
        if not ready:
            return
        self.deliver_from(self.random.choice(ready))

    def deliver_from(self, server: Server) -> None:
        self.proxy.kernel.unacked = NOTHING_ACKED if server.crosses() else 0
        _, piece = server.waiting.pop(0)
        server.said += piece
        server.peer.sends(piece)
        self.proxy.kernel.unacked = 0

    def rest(self) -> None:
        """The rare things."""
        random = self.random
        what = random.randrange(5)
        open_servers = [server for server in self.servers if not server.peer.closed]
        if what == 0 and open_servers:
            server = random.choice(open_servers)
            self.servers.remove(server)
            server.peer.closes() if random.random() < 0.5 else server.peer.resets()
        elif what == 1 and self.clients:
            client = random.choice(self.clients)
            self.clients.remove(client)
            client.peer.closes()
        elif what == 2:
            self.arrive()
            self.proxy.loop.passes(random.choice((0.1, 1.0, 3.9, 4.1, 61.0)))
        elif what == 3:
            for client in self.clients:
                if client.unsent and client.peer.transport.reading:
                    client.peer.sends(client.unsent)
                    client.unsent = b""
        else:
            self.proxy.kernel.unread = random.randrange(2)  # something has come that nobody has read yet

    def arrive(self) -> None:
        """What crossed a request is here within a round trip, so before any time has passed."""
        for server in list(self.servers):
            while server.waiting and server.crosses() and server.peer.transport.reading and not server.peer.closed:
                self.deliver_from(server)

    # ---- what must hold

    def look_around(self) -> None:
        self.proxy.loop.turn()
        for server in list(self.servers):
            self.read_requests(server)
            if server.peer.closed:
                self.servers.remove(server)
                server.peer.loses(None)
        for client in list(self.clients):
            self.read_answer(client)

    def read_requests(self, server: Server) -> None:
        written = server.peer.gets()
        if not written:
            return
        if not server.asked and server.number and not self.may_be_reused(server):
            self.problem = f"a request went out behind {server.said!r}"
        server.asked += written
        found, end = read_requests(server.asked, canonical=True)
        server.asked = server.asked[end:]
        if len(found) > 1 or (found and server.asked):
            self.problem = "two requests at a time went to one connection"
        for request in found:
            tag = TAGGED(request.head.start[1])
            assert tag is not None
            server.number, server.method, server.said = int(tag[1]), request.head.start[0], b""
            server.answered = False
            self.exchanges += 1
            self.executed[server.number] = self.executed.get(server.number, 0) + 1
            if self.executed[server.number] > (1 if server.method == b"POST" else 2):
                self.problem = f"request {server.number}, a {server.method!r}, went out too often"

    def may_be_reused(self, server: Server) -> bool:
        try:
            found, end = read_responses(server.said, [server.method], closed=False, canonical=False)
        except Unsound:
            return False
        final = [message for message in found if message.status >= 200]
        if len(final) != 1 or end != len(server.said):
            return False
        head = final[0].head
        options = {option.strip(b" \t") for value in head.all(b"connection") for option in value.lower().split(b",")}
        if b"close" in options or any(message.status == 101 for message in found):
            return False
        return head.start[0] == b"HTTP/1.1" or b"keep-alive" in options

    def read_answer(self, client: Client) -> None:
        data = client.peer.gets()
        closed = client.peer.closed or client.peer.transport.eof_written
        if data and not client.number:
            self.problem = f"an answer to nothing: {data!r}"
            return
        client.got += data
        if client.number and marks(client.got) - {client.number}:
            self.problem = f"request {client.number} was answered with {client.got!r}"
        elif client.number:
            refused = client.unsent and b"X-Kalab-Cause" in client.got  # the proxy may not know the method yet
            method = b"GET" if refused else client.method
            try:
                found, end = read_responses(client.got, [method], closed=closed)
            except Unsound as unsound:
                self.problem = f"the client got what is no response, {unsound}: {client.got!r}"
                return
            if any(message.status >= 200 for message in found):
                client.number = 0
                client.unsent = b""
                if end != len(client.got):
                    self.problem = f"bytes behind the answer: {client.got!r}"
        if closed:
            self.clients.remove(client)
            client.peer.loses(None)


def trial(seed: int) -> tuple[str, int]:
    """What went wrong, and how many exchanges there were."""
    with staged(pool__max_connections=3) as stage:
        play = Trial(stage.proxy, seed)
        try:
            return play.play(), play.exchanges
        except Exception as problem:  # any at all is what is looked for here
            return f"{type(problem).__name__}: {problem}", play.exchanges


def run(seed: int, seconds: float | None = None, count: int | None = None) -> Result:
    run = Run(seed, seconds, count)
    exchanges = 0
    for number in run.seeds():
        watch = Stopwatch()
        what, carried = trial(number)
        exchanges += carried
        if watch.hung():
            again = Stopwatch()  # a collection of garbage happens once
            trial(number)
            what = what or ("it takes too long" if again.hung() else "")
        if what:
            run.found(number, what, b"")
    return run.result()._replace(trials=exchanges)
