"""What a master and its workers say to each other, over a socket for each: calls and answers, and three words unasked.

Rules of this file:

- Calls are answered in their order. Every call has an end: an answer, a limit of time, or that the other side has gone;
  and then at once, also for whoever calls later.
- Who speaks there is this very program, run by the same user: what is said is pickled.
- A worker says a beat each BEAT_S, of its own accord, so that it is heard from while an answer takes its time. The beat
  comes from its event loop: one whose loop does not turn is silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
from typing import Any, Final

from proxy.admin.api import Unavailable

ANSWER_S: Final = 4.0  # how long a worker may take for an answer; two of them are less than an admin page may take
BEAT_S: Final = 1.0

LAST_WORDS: Final = 0  # the number of no call: how many connections its drain has cut off
BEAT: Final = -1  # nor of this
TOLD_TO_STOP: Final = -2  # nor of this: somebody else has told it to
_SIZE: Final = 8  # bytes in front of each message, which say how long it is


class Gone(Unavailable):
    """It has ended, or is about to."""

    def __init__(self) -> None:
        super().__init__("a worker has gone; ask again")


class Channel:
    """The master's end: calls to one process, and their answers; the other end is `worker.Part`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._number = LAST_WORDS
        self._last_words: int | None = None
        self.told_to_stop = False
        self._lost = False
        self._heard = True  # since the last `silence`
        self._silence = 0
        self._answers = asyncio.get_running_loop().create_task(self._read())

    async def call(self, verb: str, *args: object, within_s: float = ANSWER_S) -> Any:
        """What it answers. Raises what it raised, or Unavailable."""
        if self._lost or self._writer.is_closing():
            raise Gone
        self._number += 1
        number = self._number
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            send(self._writer, (number, verb, args))
            async with asyncio.timeout(within_s):
                return await answer
        except TimeoutError:
            raise Unavailable(f"a worker has not answered within {within_s:g}s; ask again") from None
        finally:
            self._calls.pop(number, None)

    def silence(self) -> int:
        """How often in a row this has been asked, and nothing had come since it was asked before."""
        self._silence = 0 if self._heard else self._silence + 1
        self._heard = False
        return self._silence

    async def last_words(self) -> int | None:
        """How many connections its drain has cut off; once it has gone. None: it was killed, and has not said."""
        await asyncio.wait([self._answers])
        return self._last_words

    def close(self) -> None:
        self._answers.cancel()
        self._writer.close()
        self._lose()

    async def _read(self) -> None:
        try:
            while (message := await receive(self._reader)) is not None:
                self._heard = True
                self._take(*message)
        finally:
            self._lose()

    def _take(self, number: int, answer: Any, problem: Exception | None) -> None:
        if number == LAST_WORDS:
            self._last_words = answer
        elif number == TOLD_TO_STOP:
            self.told_to_stop = True
        call = self._calls.get(number)
        if call is not None and not call.done():
            if problem is None:
                call.set_result(answer)
            else:
                call.set_exception(problem)

    def _lose(self) -> None:
        """Nothing more will come."""
        self._lost = True
        for call in self._calls.values():
            if not call.done():
                call.set_exception(Gone())


async def beat(writer: asyncio.StreamWriter) -> None:
    """Says that the loop turns, until the other end has gone. While nobody reads, once."""
    while not writer.is_closing():
        if not writer.transport.get_write_buffer_size():
            send(writer, (BEAT, None, None))
        await asyncio.sleep(BEAT_S)


# ---- messages


def send(writer: asyncio.StreamWriter, message: object) -> None:
    """Does nothing if the other end has gone."""
    if writer.is_closing():
        return
    data = pickle.dumps(message)
    writer.write(len(data).to_bytes(_SIZE, "big") + data)


async def receive(reader: asyncio.StreamReader) -> Any:
    """The next message; None: the other end has gone."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        size = int.from_bytes(await reader.readexactly(_SIZE), "big")
        return pickle.loads(await reader.readexactly(size))
    return None
