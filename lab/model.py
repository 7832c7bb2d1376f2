"""The words of an experiment: what is declared before a run (Scenario, Arm, Aim, Expect) and what comes out of it
(Exposure, Outcome, Verdict).

Rules of this file:

- Declarations are frozen data without behaviour that touches the world; `lab.runner` acts on them.
- A fix is a change of configuration, never code. Keys start with the room they change: "proxy.", "middle.",
  "upstream.", "wire.".
- Expectations are written before the run. A verdict compares evidence with them and has three values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

UPSTREAM_GIVES_UP_FIRST: Mapping[str, str] = {
    "timeouts.upstream_idle": "60s",
    "pool.honour_hint": "false",
    "pool.order": "oldest",
    "retry.policy": "never",
    "retry.budget": "1",
}
"""The proxy that most scenarios start from. It keeps connections far longer than the upstream does: the order that
loses requests. Oldest first, so that in a sweep the first request gets the connection that was primed first. The budget
is wide open because nearly every aimed request is lost, and no retry may be refused for their number."""


class Verdict(StrEnum):
    """What a check found. `INCONCLUSIVE` means that the experiment did not happen as planned; it is never a pass."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 2 inconclusive."""
        return (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE).index(self)

    @staticmethod
    def worst(verdicts: Iterable[Verdict]) -> Verdict:
        """A failure outweighs all; nothing judged at all is inconclusive."""
        found = set(verdicts)
        for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS):
            if verdict in found:
                return verdict
        return Verdict.INCONCLUSIVE


class Exposure(StrEnum):
    """Where a request met the upstream's close, told from the wire's log, never from the status code."""

    CROSSED = "crossed"
    """The FIN left the upstream before the request arrived there, and had not arrived at the proxy when it left."""
    FIN_DELIVERED = "fin_delivered"
    """The FIN was already at the proxy's host when the proxy sent the request all the same."""
    UNREAD = "unread"
    """The request arrived first and lay unread in the upstream's kernel at close(): a reset, no FIN before it."""
    CLOSED_AFTER_ARRIVAL = "closed_after_arrival"
    """The upstream had the request, then closed without an answer: it may have been executed."""
    FORGOTTEN = "forgotten"
    """Something on the way had forgotten the connection and dropped the request: no reset, no close, nothing."""
    NOT_EXPOSED = "not_exposed"
    """Sent on a reused connection that the upstream did not close meanwhile."""
    NEW_CONNECTION = "new_connection"
    """Sent on a connection that had carried nothing before: there was no race to lose."""
    NEVER_ACCEPTED = "never_accepted"
    """Sent on a new connection that only the upstream's kernel had taken: its listener was closed before accept()."""
    NOT_SENT = "not_sent"
    """No witness saw the request go upstream."""


class Outcome(StrEnum):
    """What the client got."""

    ANSWERED = "answered"
    CLOSED_WITHOUT_RESPONSE = "closed_without_response"
    RESET = "reset"
    TRUNCATED = "truncated"
    TIMED_OUT = "timed_out"


class Aim(StrEnum):
    """Which instant the aimed requests are to hit."""

    HELD_FIN = "held_fin"
    """Wait until the wire holds the FIN of every primed connection (or the proxy closed it first), then fire."""
    GAPS = "gaps"
    """Fire at idle gaps spread around the measured close: the map of the window. Blind, so each trial is classed."""
    STALLED_PROXY = "stalled_proxy"
    """Stop the proxy, hand it requests, then the FINs, and wake it: the FIN is in its kernel but unnoticed."""
    CRASH = "crash"
    """No idle close at all: the upstream executes the request and then dies. The look-alike."""
    FROZEN_UPSTREAM = "frozen_upstream"
    """Stop the upstream shortly before its idle timeout, fire, and wake it after: the requests lie unread there."""
    LATE_READER = "late_reader"
    """As with a held FIN, but the proxy is stopped once the requests have left, until FIN and RST are in its kernel."""
    LATE_WRITER = "late_writer"
    """The same, and the rest of each body comes to the proxy while it stands: it writes on into the reset."""
    FORGOTTEN = "forgotten"
    """Fire after a silence that the wire forgets connections in, at `Arm.at` times that silence."""
    ELSEWHERE = "elsewhere"
    """Fire far from the close, at `Arm.at` times the idle timeout: nothing may be lost there."""
    TRAFFIC = "traffic"
    """No aim: requests at random moments, as `Arm.traffic` says, while `Arm.acts` happen. Each trial is classed."""


class Act(StrEnum):
    """What happens behind a proxy while traffic flows. It happens to the member that has served longest."""

    SUCCEED = "succeed"
    """Before the traffic: a successor listens on the same socket, which both have inherited."""
    SHARE = "share"
    """Before the traffic: another one listens on the same port with a socket of its own (SO_REUSEPORT)."""
    JOIN = "join"
    """Before the traffic: another one listens on a port of its own, and the file of endpoints lists it."""
    WITHDRAW = "withdraw"
    """The file of endpoints says that it is going: it is to get nothing more."""
    QUIET = "quiet"
    """Wait until the proxies have closed every connection to it."""
    MIGRATE = "migrate"
    """The upstream's kernel is told to hand over connections that a listener leaves behind (net.ipv4.tcp_migrate_req).
    That is for all its sockets, so what follows comes late in the traffic, when the other stages have had theirs."""
    TERMINATE = "terminate"
    """SIGTERM. What becomes of its connections, its `drain` says."""
    KILL = "kill"
    """SIGKILL: its kernel closes every connection."""
    LATER = "later"
    """Half a second passes."""


CLOSING = (Act.TERMINATE, Act.KILL)
LISTED = (Act.JOIN, Act.WITHDRAW)
"""Acts that the proxy learns of by the file of endpoints."""


class Ends(StrEnum):
    """What ends a scenario's connections, and so what its requests are aimed at."""

    IDLE = "idle"
    """The upstream closes one that was idle for its timeout."""
    COUNT = "count"
    """The upstream closes one behind its n-th answer, n being its `max-requests`."""
    LEAVES = "leaves"
    """The upstream ends, or a worker of it, and its connections with it."""
    CRASH = "crash"
    """The upstream executes a request and dies before it answers."""
    SILENCE = "silence"
    """The wire forgets one on which nothing has passed for its `forget`, and drops what comes then."""


class Expect(StrEnum):
    """What an arm's aimed requests should do."""

    LOST = "every exposed request is lost"
    BOX = "lost when it meets the close, and not otherwise"
    MENDED = "none is lost, each is executed once"
    PREDICTED = "lost where the model says, and nowhere else"
    EXECUTED_TWICE = "answered, but executed twice"
    EXECUTED_ONCE = "lost, but executed once only"
    REPEATED = "lost, and executed as often as its policy repeats it"
    BUDGETED = "lost, and repeated no more often than the budget allows"
    DAMAGED = "every exposed request is lost, executed or not, and nothing else"
    ANSWERED = "no exposed request is lost, some are executed twice"
    FORECAST = "as many are lost as the model says"


@dataclass(frozen=True)
class ByWire:
    """An expectation that depends on the wire: what a packet proves on a real path, a relay may hide."""

    netns: Expect
    otherwise: Expect
    because: str

    def on(self, make: str) -> Expect:
        return self.netns if make == "netns" else self.otherwise


@dataclass(frozen=True)
class Below:
    """A proxy timeout that ends `margin_ms` before the upstream's idle timeout, as configured or as measured.

    `round_trips` adds to the margin, in round trips of the arm.
    """

    margin_ms: float
    measured: bool = False
    round_trips: float = 0.0


@dataclass(frozen=True)
class Hint:
    """What the upstream says of its idle timeout in `Keep-Alive: timeout=`: whole seconds, and `plus_s` more."""

    plus_s: int


@dataclass(frozen=True)
class Traffic:
    """Requests at random moments (Poisson), whatever becomes of those before: an open model."""

    rate: float
    """Requests a second: to each member where `apart`, otherwise to all together."""
    members: int = 1
    """Upstream addresses behind the proxy."""
    answer_ms: float = 0.0
    """How long the upstream takes for each answer."""
    apart: bool = False
    """Each member has a pool and a stream of requests of its own; they share one upstream process."""


@dataclass(frozen=True)
class Arm:
    """One configuration under test, and what is expected of it. The arms of a run are interleaved.

    `change` overrides the scenario's base; a value may be `Below` or `Hint`. `control` names the arm that must break
    in the same run before this one is credited. `prevents` says that the fix keeps requests off the dying connection:
    nothing is exposed then, and what counts is trials aimed where the control is lost. `reuses` says that connections
    are reused all the same, which the run makes sure of: a proxy that never reuses loses nothing. `needs` names
    abilities of the upstream or the wire without which the arm is not judged. `at` is for `Aim.ELSEWHERE` and
    `Aim.FORGOTTEN`; `waits_ms`: what is lost keeps its client waiting at least, and in the median at most, so long.
    `body` is the size of its requests' bodies; None: a POST has a small one, others have none. `attempts`, by method:
    how often a request is sent if no attempt is answered and no budget is in the way. `primes`: answers that its
    connections carry before.
    `traffic` and `acts` are for `Aim.TRAFFIC`; there a fix that `prevents` counts what it was sent while its control
    lost requests.
    """

    name: str
    title: str
    why: str
    aim: Aim
    expect: Mapping[str, Expect | ByWire]
    change: Mapping[str, str | Below | Hint] = field(default_factory=dict)
    control: str | None = None
    prevents: bool = False
    reuses: bool = True
    needs: tuple[str, ...] = ()
    at: float = 0.5
    traffic: Traffic | None = None
    acts: tuple[Act, ...] = ()
    waits_ms: tuple[float, float] | None = None
    told_as: str = ""
    """What the proxy must call the failure of what is lost; "": whatever it likes."""
    body: int | None = None
    attempts: Mapping[str, int] = field(default_factory=dict)
    primes: int = 1

    @property
    def is_fix(self) -> bool:
        return self.control is not None

    def expected(self, method: str, make: str) -> Expect:
        """What this arm's requests with `method` should do on a wire of this make."""
        expect = self.expect[method]
        return expect.on(make) if isinstance(expect, ByWire) else expect


@dataclass(frozen=True)
class Size:
    """How much evidence a run gathers. `trials` is per arm, method and block; the block is the unit of interleaving."""

    blocks: int
    trials: int
    min_exposed: int
    """Fewer exposed trials than this in an arm: inconclusive."""


@dataclass(frozen=True)
class Scenario:
    """One question about the race, declared as data.

    `keep_alive_s` is the upstream's idle timeout and `rtt_ms` the round trip between proxy and upstream; both can be
    changed for a run. `proxy` and `upstream` are the base that every arm starts from; keys of the upstream are options
    of `python -m upstreams.lab`, and of its switches "true" or "false".
    """

    name: str
    sentence: str
    teaches: str
    keep_alive_s: float
    rtt_ms: float
    proxy: Mapping[str, str]
    upstream: Mapping[str, str]
    arms: tuple[Arm, ...]
    full: Size
    short: Size
    ends: Ends = Ends.IDLE
    traffic: Traffic | None = None
    """What arms with `Aim.TRAFFIC` send, unless they say otherwise."""
    stall_ms: float = 0.0
    """For how long the lab upstream's loop is blocked before each idle deadline, unless `--stall` says otherwise."""
    on: str = ""
    """The only wire that it is about, and runs on, whatever `--wire` says; "": any."""
    middle: Mapping[str, str] | None = None
    """Of a chain: the base of a second proxy, between the wire and the upstream. What the arms try is then the balancer
    in front of it, and `keep_alive_s` is its `timeouts.downstream_idle`; the upstream behind it has `keep-alive` of
    `upstream`. None: the upstream answers by itself."""
    wire: Mapping[str, str] = field(default_factory=dict)
    """The base of what changes with "wire." override, but for the round trip: `forget`, a duration."""

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)
