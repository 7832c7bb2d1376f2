"""What a master hears of a worker: answers, that it has gone, that it is silent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from proxy import channel as channel_module
from proxy import workers as workers_module
from proxy.admin.api import Unavailable
from proxy.channel import Channel, Gone, beat, receive, send
from proxy.config import ProxyConfig, override
from proxy.workers import MOST_SILENT, Master

WAIT_S = 20.0


class Far:
    """The other end of a channel: a worker as the test plays it."""

    def __init__(self, channel: Channel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.channel, self.reader, self.writer = channel, reader, writer

    async def answers(self, problem: Exception | None = None) -> None:
        number, verb, _ = await receive(self.reader)
        send(self.writer, (number, verb, problem))


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    ours, theirs = socket.socketpair()
    channel = Channel(*await asyncio.open_unix_connection(sock=ours))
    other = Far(channel, *await asyncio.open_unix_connection(sock=theirs))
    yield other
    channel.close()
    other.writer.close()


async def test_a_call_is_answered_or_refused(far: Far) -> None:
    async with asyncio.TaskGroup() as tasks:
        call = tasks.create_task(far.channel.call("sing"))
        await far.answers()
    assert call.result() == "sing"
    call = asyncio.create_task(far.channel.call("sing"))
    await far.answers(OSError(2, "No such song"))
    with pytest.raises(OSError, match="No such song"):
        await call


async def test_a_call_without_an_answer_ends_in_time(far: Far) -> None:
    with pytest.raises(Unavailable, match=r"not answered within 0\.05s") as raised:
        await far.channel.call("sing", within_s=0.05)
    assert not isinstance(raised.value, Gone)


async def test_whoever_waits_for_one_that_goes_is_told_at_once(far: Far) -> None:
    calls = [asyncio.create_task(far.channel.call("sing", within_s=1000)) for _ in range(3)]
    await receive(far.reader)
    far.writer.close()
    async with asyncio.timeout(WAIT_S):
        assert [type(each) for each in await asyncio.gather(*calls, return_exceptions=True)] == [Gone] * 3


@pytest.mark.parametrize("closed_here", [True, False])
async def test_whoever_calls_one_that_has_gone_is_told_at_once(far: Far, closed_here: bool) -> None:
    if closed_here:
        far.channel.close()
    else:
        far.writer.close()
        await far.channel.last_words()
    async with asyncio.timeout(WAIT_S):
        for _ in range(3):
            with pytest.raises(Gone):
                await far.channel.call("sing", within_s=1000)


async def test_what_is_no_message_is_an_end_too(far: Far) -> None:
    """Of a worker that was killed while it wrote, or whose program is another by now."""
    call = asyncio.create_task(far.channel.call("sing", within_s=1000))
    far.writer.write((5).to_bytes(8, "big") + b"junk\n")
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(Gone):
            await call
        with pytest.raises(Gone):
            await far.channel.call("sing", within_s=1000)


async def test_silence_is_counted_in_questions(far: Far) -> None:
    assert [far.channel.silence() for _ in range(4)] == [0, 1, 2, 3]
    send(far.writer, (channel_module.BEAT, None, None))
    async with asyncio.timeout(WAIT_S):
        while far.channel.silence():
            await asyncio.sleep(0.001)
    assert far.channel.silence() == 1


async def test_a_loop_that_turns_beats_until_nobody_is_there(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "BEAT_S", 0.001)
    beating = asyncio.create_task(beat(far.writer))
    async with asyncio.timeout(WAIT_S):
        for _ in range(5):
            far.channel.silence()
            while far.channel.silence():
                await asyncio.sleep(0)
        far.channel.close()
        await beating


# ---- who watches them


class FakeWorker:
    """One that has said nothing for so many looks, or that somebody has told to stop."""

    def __init__(self, number: int, silence: int = 0, code: int | None = None, *, told_to_stop: bool = False) -> None:
        self.number = number
        self.channel = self.process = self
        self.pid = 1000 + number
        self.killed = asyncio.Event()
        self.told_to_stop, self.leaves = told_to_stop, False
        self._silence, self._code = silence, code
        self.looks = 0

    def silence(self) -> int:
        self.looks += 1
        return self._silence

    def poll(self) -> int | None:
        return self._code

    def kill(self) -> None:
        self.killed.set()

    async def stop(self) -> None:
        self.leaves = True


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., None]]:
    """Has a master watch these."""
    monkeypatch.setattr(workers_module, "BEAT_S", 0.001)
    master = Master(override(ProxyConfig(), {"workers": 2}))
    watching = asyncio.create_task(master._watch())

    def watch(*workers: FakeWorker) -> None:
        master.workers = {each.number: each for each in workers}  # type: ignore[misc]

    yield watch
    watching.cancel()
    await asyncio.wait([watching])


async def until_looked_at(worker: FakeWorker, times: int = 20) -> None:
    async with asyncio.timeout(WAIT_S):
        while worker.looks < times:
            await asyncio.sleep(0)


async def test_only_who_has_been_silent_for_long_is_killed(
    watched: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    workers = FakeWorker(0, MOST_SILENT - 1), FakeWorker(1, MOST_SILENT), FakeWorker(2, MOST_SILENT, code=-9)
    watched(*workers)
    await until_looked_at(workers[0])
    assert [each.killed.is_set() for each in workers] == [False, True, False]
    assert capfd.readouterr().err.startswith("worker 1 (pid 1001) has been silent for ")


async def test_of_those_who_are_told_to_stop_one_at_a_time_is_let_go(watched: Callable[..., None]) -> None:
    first, second = FakeWorker(0, told_to_stop=True), FakeWorker(1, told_to_stop=True)
    watched(first, second)
    await until_looked_at(second)
    assert (first.leaves, second.leaves) == (True, False)
    watched(second)
    await until_looked_at(second, 2 * second.looks)
    assert not second.leaves
    watched(FakeWorker(0), second)
    await until_looked_at(second, 2 * second.looks)
    assert second.leaves
