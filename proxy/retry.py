"""Whether a failed attempt is repeated, and why.

Rules of this file:

- `decide` reads from top to bottom; the first line that applies answers, and its reason goes into the event.
- Nothing is repeated after a response byte. A connect that failed at once sent nothing, so it may go to the next
  upstream. What else fails on a fresh connection only `any_idempotent` and `always` repeat: it is not the race.
- A proxy MUST NOT repeat a request with a non-idempotent method (RFC 9110 §9.2.2). `when_proven` leans on the reason of
  that rule, `always` breaks it; both are here to be measured, and neither is the default.
- A repeat always goes to a fresh connection. The caller sees to that, and to the budget.
- While many wait in line for a connection, nothing is repeated: what is left of the line is for what is new. A proxy
  that drains repeats as ever: these are its last requests, and no storm can come of them.
- No clock: time is an argument, in seconds, from whichever monotonic clock the caller uses.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from proxy.config import PolicyName
from proxy.failure import Failure, Proof

# RFC 9110 §9.2.2: the safe methods (§9.2.1), PUT and DELETE.
IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})

# How a reused connection looks when the upstream closed it while it was idle.
DIED: Final = frozenset({Failure.CLOSED_BEFORE_RESPONSE, Failure.RESET_BEFORE_RESPONSE})

# No connection was made, and the upstream said so at once.
_NOT_CONNECTED: Final = frozenset({Failure.CONNECT_REFUSED, Failure.CONNECT_FAILED})


class Attempt(NamedTuple):
    """One try of a request on one upstream connection, after it failed."""

    number: int  # 1 = the first
    method: bytes
    reused: bool  # the connection had carried an exchange before
    failure: Failure
    proof: Proof
    response_started: bool
    sent_bytes: int
    replayable: bool  # the request can be sent again from its first byte: no body, or all of it was kept
    overloaded: bool = False  # many wait in line, wherever it could go


class Decision(NamedTuple):
    """The answer and its reason."""

    retry: bool
    because: str


_RESPONSE_STARTED = Decision(False, "part of a response has arrived")
_NOTHING_LEFT = Decision(False, "no port or descriptor left")
_OVERLOADED = Decision(False, "overloaded: many wait in line")
_NEVER = Decision(False, "the policy is never")
_USED_UP = Decision(False, "retries used up")
_BODY_GONE = Decision(False, "the body was not kept")
_ALWAYS = Decision(True, "the policy is always")
_FRESH = Decision(False, "fresh connection: not the race")
_NOT_A_CLOSE = Decision(False, "the connection did not close: not the race")
_NOTHING_SENT = Decision(True, "nothing was sent")
_IDEMPOTENT = Decision(True, "idempotent method")
_PROVEN = Decision(True, "proven unprocessed")
_MAYBE_EXECUTED = Decision(False, "it may have been executed")

OVER_BUDGET: Final = Decision(False, "over the retry budget")

# All there are, for those who count them.
DECISIONS: Final[tuple[Decision, ...]] = (
    *(_RESPONSE_STARTED, _NEVER, _NOTHING_LEFT, _OVERLOADED, _USED_UP, _BODY_GONE, _ALWAYS, _FRESH, _NOT_A_CLOSE),
    *(_NOTHING_SENT, _IDEMPOTENT, _PROVEN, _MAYBE_EXECUTED, OVER_BUDGET),
)


class RetryPolicy:
    """One of the five named policies."""

    __slots__ = ("max_retries", "name")

    def __init__(self, name: PolicyName, max_retries: int = 1) -> None:
        self.name = name
        self.max_retries = max_retries

    def __repr__(self) -> str:
        return f"<RetryPolicy {self.name}, at most {self.max_retries}>"

    def decide(self, attempt: Attempt) -> Decision:
        """Whether to repeat this attempt. The reason is one of a fixed set of phrases."""
        if attempt.response_started:
            return _RESPONSE_STARTED
        if self.name == "never":
            return _NEVER
        if attempt.failure is Failure.RESOURCES_EXHAUSTED:
            return _NOTHING_LEFT  # a repeat takes a fresh connection, and would want the same
        if attempt.overloaded:
            return _OVERLOADED
        if attempt.number > self.max_retries:
            return _USED_UP
        if not attempt.replayable:
            return _BODY_GONE
        if self.name == "always":
            return _ALWAYS
        if attempt.failure in _NOT_CONNECTED and attempt.sent_bytes == 0:
            return _NOTHING_SENT
        if self.name != "any_idempotent":
            if not attempt.reused:
                return _FRESH
            if attempt.failure not in DIED:
                return _NOT_A_CLOSE
        if attempt.sent_bytes == 0:
            return _NOTHING_SENT
        if attempt.method in IDEMPOTENT:
            return _IDEMPOTENT
        if self.name == "when_proven" and attempt.proof is Proof.UNPROCESSED:
            return _PROVEN
        return _MAYBE_EXECUTED


class RetryBudget:
    """Bounds retries to a share of recent requests, so that an upstream's bad minute is not made worse.

    At most `share` x requests, and at least `floor`, may be retries within any `window_s`. The window slides in ten
    steps, so what happened is forgotten up to a tenth of the window early.

    Counting a request must cost next to nothing, so it is no call: add 1 to `requests`, and once `step_ends` has
    passed call `step` before that.
    """

    STEPS = 10

    __slots__ = ("_before", "_floor", "_retries", "_share", "_step_s", "_steps", "requests", "step_ends", "window_s")

    def __init__(self, share: float, floor: int = 10, window_s: float = 10.0) -> None:
        self.window_s = window_s
        self.requests = 0  # ever
        self.step_ends = 0.0
        self._share = share
        self._floor = floor
        self._step_s = window_s / self.STEPS
        self._retries = 0  # ever
        self._before = (0, 0)  # requests and retries before the window
        # The same at the end of each step in the window but the last, which is under way.
        self._steps: deque[tuple[int, int]] = deque([self._before] * (self.STEPS - 1), maxlen=self.STEPS - 1)

    def __repr__(self) -> str:
        requests, retries = self._recent()
        allowed = max(self._floor, int(self._share * requests))
        return f"<RetryBudget {retries} of {allowed} retries, {requests} requests in {self.window_s:g} s>"

    def request(self, now: float) -> None:
        """Counts one request. Its retries are not counted here."""
        if now >= self.step_ends:
            self.step(now)
        self.requests += 1

    def take(self, now: float) -> bool:
        """Whether one more retry is within the budget; counts it if so."""
        if now >= self.step_ends:
            self.step(now)
        requests, retries = self._recent()
        if retries + 1 > max(self._floor, self._share * requests):
            return False
        self._retries += 1
        return True

    def step(self, now: float) -> None:
        """Opens the step that `now` falls into, and forgets what is ten steps old."""
        passed = (now - self.step_ends) // self._step_s + 1
        for _ in range(int(min(passed, self.STEPS))):
            self._before = self._steps[0]
            self._steps.append((self.requests, self._retries))
        self.step_ends += passed * self._step_s

    def _recent(self) -> tuple[int, int]:
        """Requests and retries in the window."""
        requests, retries = self._before
        return self.requests - requests, self._retries - retries
