"""An upstream that now and then says more than it was asked: `python out_of_step.py one|two|later|farewell`.

It answers GET /ID with ID. Behind every fifth answer on a connection comes another that nobody asked for: in the same
segment, in a segment of its own, a millisecond later, or as a 408 and a close within two. Its body says whether the
next request had already come when it was sent: then it looks like the answer, and nobody could tell.

It prints its port, and when its standard input ends how many such answers it has sent.
"""

from __future__ import annotations

import asyncio
import random
import sys
import termios
from array import array
from fcntl import ioctl
from typing import Any

import uvloop

EVERY = 5
UNASKED, TOO_LATE = b"unasked", b"unasked, and too late to tell"


class OutOfStep(asyncio.Protocol):
    mode = "one"
    sent = 0  # unasked answers, on all connections

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.requests = random.randrange(EVERY)

    def data_received(self, data: bytes) -> None:
        self.requests += 1
        answer = answer_of(b"200 OK", data.split(b" ", 2)[1])
        if self.requests % EVERY:
            self.transport.write(answer)
            return
        if self.mode == "one":
            OutOfStep.sent += 1
            self.transport.write(answer + answer_of(b"200 OK", UNASKED))
            return
        self.transport.write(answer)
        wait_s = {"two": 0.0, "later": 0.001, "farewell": random.choice((0.0, 0.001, 0.002))}[self.mode]
        if wait_s:
            asyncio.get_running_loop().call_later(wait_s, self.say_more, self.requests)
        else:
            self.say_more(self.requests)

    def say_more(self, requests: int) -> None:
        if self.transport.is_closing():
            return
        unread = array("i", [0])
        ioctl(self.transport.get_extra_info("socket").fileno(), termios.FIONREAD, unread)
        body = TOO_LATE if unread[0] or requests != self.requests else UNASKED
        OutOfStep.sent += 1
        if self.mode == "farewell":
            self.transport.write(answer_of(b"408 Request Timeout", body))
            self.transport.close()
        else:
            self.transport.write(answer_of(b"200 OK", body))

    def eof_received(self) -> None:
        self.transport.close()


def answer_of(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def serve(mode: str) -> None:
    OutOfStep.mode = mode
    loop = asyncio.get_running_loop()
    server = await loop.create_server(OutOfStep, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    print(OutOfStep.sent, flush=True)


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
