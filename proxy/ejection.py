"""Which upstreams of a group are fit to serve, as their answers and the active checks tell. No clock: `now` is given.

    READY --eject_after failures in a row--> EJECTED --eject_for--> HALF_OPEN --an answer, a check--> READY
                                                ^---------------------- a failure, a check ---|
    any   --check_fails failed checks in a row--> DOWN --check_passes passed ones in a row--> READY

Rules of this file:

- HALF_OPEN is given one request, on trial, or whatever an active check finds out first. A trial without a verdict (its
  client left) is offered again after `eject_for`.
- Ejections double in a row, from `eject_for` up to `eject_longest`. The row ends when an upstream has been ready for as
  long as it was out: one success alone may be luck.
- At most `eject_share` of the group is out at a time, and never all of it. Whoever reaches the count beyond that stays,
  and the count with it. But who is out may be well again, as when servers are restarted one after another: the one that
  has been out longest is then given its trial early, once a second, and makes room if it stands it.
- The active checks are bound by no share: they ask each upstream by itself, so what they say of all of them is no error
  of ours. When nobody is ready the group uses all; that is the group's business.
- While it is out, an upstream is judged by its trial and by the checks alone. What was under way before says how things
  were, and would eject it once for each request.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from math import inf
from typing import Final, NamedTuple

from proxy.config import HealthConfig
from proxy.failure import Failure

# On a connection that had carried an exchange before, these are how an idle timeout looks that crossed the request.
_THE_RACE: Final = frozenset({Failure.CLOSED_BEFORE_RESPONSE, Failure.RESET_BEFORE_RESPONSE})

EARLIEST_TRIAL_S: Final = 1.0  # how long the ejected are left alone, whatever becomes of the others

_OF_THE_UPSTREAM: Final = _THE_RACE | {
    Failure.CONNECT_REFUSED,
    Failure.CONNECT_TIMEOUT,
    Failure.CONNECT_FAILED,
    Failure.RESPONSE_TIMEOUT,
    Failure.TRUNCATED_RESPONSE,
    Failure.INVALID_RESPONSE,
}


def counts(failure: Failure, *, reused: bool) -> bool:
    """Whether a failed attempt speaks against its upstream; `reused`: on a connection that had been used before.

    It does not when a reused connection closes before an answer. A server that closes what has been idle does as it
    should, and under load the race is met often enough for five in a row, at every upstream of a group at once: taking
    them out would turn a few lost requests into an outage. If it was a crash after all, the next attempt is refused, or
    closed on a fresh connection, and that counts.

    Nor does what is the client's doing (`client_closed`, `bad_request`) or the proxy's (`resources_exhausted`;
    `pool_exhausted`: the upstream is busy, and without it the others would have its load as well). A status of 5xx is
    an answer.
    """
    return failure in _OF_THE_UPSTREAM and not (reused and failure in _THE_RACE)


class Health(StrEnum):
    """How an upstream stands."""

    READY = "ready"
    EJECTED = "ejected"
    HALF_OPEN = "half_open"
    DOWN = "down"


class Change(NamedTuple):
    """An upstream that stands differently now, and why, in words for the log."""

    name: str
    health: Health
    because: str


class _Member:
    """What is known of one upstream."""

    __slots__ = ("checks", "failures", "health", "lasts", "on_trial", "ready_since", "until")

    def __init__(self) -> None:
        self.health = Health.READY
        self.failures = 0  # in a row
        self.checks = 0  # in a row: passed ones, or minus the failed ones
        self.lasts = 0.0  # seconds, of its last ejection
        self.ready_since = -inf  # when that ended well
        self.until = inf  # when the ejection is over, or the trial has taken too long
        self.on_trial = False


class Ejection:
    """The members of one group. What a method returns has changed; what is ready may then be asked for anew."""

    def __init__(self, config: HealthConfig) -> None:
        self.config = config
        self._members: dict[str, _Member] = {}

    def __repr__(self) -> str:
        return f"<Ejection {len(self.ready())} of {len(self._members)} ready>"

    # ---- what there is to know

    def ready(self) -> list[str]:
        """Those that get requests, in the order of the group."""
        return [name for name, member in self._members.items() if member.health is Health.READY]

    def offered(self) -> list[str]:
        """Those that are to be given one request, on trial."""
        return [
            name for name, member in self._members.items() if member.health is Health.HALF_OPEN and not member.on_trial
        ]

    def health_of(self, name: str) -> Health:
        """READY also for one that is no member: nothing is known against it."""
        member = self._members.get(name)
        return Health.READY if member is None else member.health

    def failures_of(self, name: str) -> int:
        """Failures in a row. While it is more than 0, `succeeded` has to be called."""
        member = self._members.get(name)
        return 0 if member is None else member.failures

    def next_expiry(self) -> float | None:
        """When `expire` has something to do, if nothing happens before."""
        soonest = min((member.until for member in self._members.values()), default=inf)
        return None if soonest == inf else soonest

    # ---- what happens

    def apply(self, names: Iterable[str]) -> None:
        """The members of the group from now on. Those it had before stand as they stood."""
        self._members = {name: self._members.get(name) or _Member() for name in names}

    def failed(self, name: str, what: str, now: float) -> Change | None:
        """An attempt failed in a way that counts, or was answered too late. What changes may be another for it."""
        member = self._members.get(name)
        if member is None or self.config.eject_after == 0:
            return None
        if member.health is Health.HALF_OPEN:
            member.failures += 1
            return self._eject(name, member, now, f"failed on trial: {what}")
        if member.health is not Health.READY:
            return None
        member.failures += 1
        if member.failures < self.config.eject_after:
            return None
        if not self._room():
            return self._trial_of_another(now)
        return self._eject(name, member, now, f"{member.failures} failures in a row, the last: {what}")

    def succeeded(self, name: str, now: float) -> Change | None:
        """An attempt was answered, and in time."""
        member = self._members.get(name)
        if member is None:
            return None
        if member.health is Health.HALF_OPEN:
            return self._readmit(name, member, now, "answered on trial")
        if member.health is Health.READY:
            member.failures = 0
        return None

    def begin_trial(self, name: str, now: float) -> None:
        """One that was offered is given a request."""
        member = self._members[name]
        member.on_trial = True
        member.until = now + self.config.eject_for

    def checked(self, name: str, ok: bool, why: str, now: float) -> Change | None:
        """An active check has passed or failed."""
        member = self._members.get(name)
        if member is None:
            return None
        member.checks = max(member.checks, 0) + 1 if ok else min(member.checks, 0) - 1
        if ok:
            if member.health is Health.HALF_OPEN:
                return self._readmit(name, member, now, "passed a check")
            if member.health is Health.DOWN and member.checks >= self.config.check_passes:
                return self._readmit(name, member, now, f"passed {member.checks} checks")
        elif member.health is not Health.DOWN and -member.checks >= self.config.check_fails:
            member.until = inf
            return self._become(name, member, Health.DOWN, f"failed {-member.checks} checks, the last: {why}")
        elif member.health is Health.HALF_OPEN:
            return self._eject(name, member, now, f"failed a check: {why}")
        return None

    def expire(self, now: float) -> list[Change]:
        """Ends the ejections that are over, and the trials that have taken too long."""
        changes = []
        for name, member in self._members.items():
            if member.until <= now:
                member.until = inf
                if member.health is Health.EJECTED:
                    changes.append(self._become(name, member, Health.HALF_OPEN, f"after {member.lasts:g} s"))
                member.on_trial = False
        return changes

    def reconfigure(self, config: HealthConfig) -> list[Change]:
        """Other thresholds. Who was taken out by what is now off comes back."""
        self.config = config
        off: set[Health] = set()
        if config.eject_after == 0:
            off |= {Health.EJECTED, Health.HALF_OPEN}
        if not config.check_path:
            off.add(Health.DOWN)
        changes = []
        for name, member in self._members.items():
            if member.health in off:
                changes.append(self._readmit(name, member, -inf, "switched off"))
        return changes

    # ----

    def _room(self) -> bool:
        """Whether one more may be out."""
        size = len(self._members)
        most = min(max(1, int(self.config.eject_share * size + 1e-9)), size - 1)  # 0.29 * 100 is less than 29
        return size - len(self.ready()) < most

    def _trial_of_another(self, now: float) -> Change | None:
        """Of the one that has been out longest, if for long enough."""
        out = [(each.until - each.lasts, name) for name, each in self._members.items() if each.health is Health.EJECTED]
        since, name = min(out, default=(inf, ""))
        if now - since < EARLIEST_TRIAL_S:
            return None
        member = self._members[name]
        member.until = inf
        return self._become(name, member, Health.HALF_OPEN, f"after {now - since:.3g} s, because another fails")

    def _eject(self, name: str, member: _Member, now: float, because: str) -> Change:
        in_a_row = member.health is Health.HALF_OPEN or now - member.ready_since < member.lasts
        member.lasts = min(2 * member.lasts, self.config.eject_longest) if in_a_row else self.config.eject_for
        member.until = now + member.lasts
        return self._become(name, member, Health.EJECTED, because)

    def _readmit(self, name: str, member: _Member, now: float, because: str) -> Change:
        member.failures = 0
        member.ready_since = now
        member.until = inf
        return self._become(name, member, Health.READY, because)

    def _become(self, name: str, member: _Member, health: Health, because: str) -> Change:
        member.health = health
        member.on_trial = False
        return Change(name, health, because)
