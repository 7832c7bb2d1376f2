"""`kalab predict`: the model's figures in sentences. What they mean is in docs/predict.md."""

from __future__ import annotations

from math import floor, inf
from typing import Annotated

import msgspec
import typer

from lab.errors import UsageError
from lab.flags import choice, seconds
from lab.predict import DAY_S, Case, Order, Prediction, predict

NEVER_DAYS = 36_525
NEVER = "practically never, less than one in 100 years"
SPARE_S = 1.0  # what is left between what is needed and what is advised, if there is room for it

HELP = """
Says how often the race would hit, from timeouts, round trip and traffic, and which margin ends it. Nothing is measured.

\b
Examples:
  kalab predict --upstream-idle 5s --proxy-idle 60s --rtt 2ms --rate 20
  kalab predict --upstream-idle 5s --proxy-idle 4s --rtt 2ms --rate 20
  kalab predict --upstream-idle 75s --proxy-idle 60s --rtt 80ms --rate 1 --order one
  kalab predict --upstream-idle 2s --upstream-tick 1s --proxy-idle 90s --rate 50 --order oldest --connections 100
"""


def command(
    upstream_idle: Annotated[str, typer.Option(help="The upstream's idle timeout, e.g. 5s; off: it never closes.")],
    proxy_idle: Annotated[str, typer.Option(help="The proxy's idle timeout towards it, e.g. 60s; off: none.")],
    rate: Annotated[
        float, typer.Option(min=0, max=1e6, help="Requests a second, of one proxy process to one upstream.")
    ],
    rtt: Annotated[str, typer.Option(help="Round trip between the two.")] = "1ms",
    order: Annotated[
        str, typer.Option(help="Which idle connection is used next: newest, oldest, or one: it is alone.")
    ] = "newest",
    service: Annotated[
        str | None, typer.Option(help="How long a request takes, 50ms unless told; with newest.")
    ] = None,
    connections: Annotated[int | None, typer.Option(min=1, max=100_000, help="In the pool; with oldest.")] = None,
    upstream_lag: Annotated[str, typer.Option(help="How long the upstream may be busy before it closes.")] = "0ms",
    proxy_lag: Annotated[str, typer.Option(help="How late the proxy may notice a FIN, or its own timer.")] = "0ms",
    upstream_early: Annotated[str, typer.Option(help="How much sooner than told the upstream may close.")] = "0ms",
    upstream_tick: Annotated[str, typer.Option(help="How much later it may: gunicorn 1s, Waitress 30s.")] = "0ms",
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout, nothing else there.")] = False,
) -> None:
    wanted = choice("order", order, {each.value: each for each in Order})
    _refuse_what_does_not_count(wanted, service, connections)
    case = Case(
        upstream_idle_s=seconds("--upstream-idle", upstream_idle, or_off=True),
        proxy_idle_s=seconds("--proxy-idle", proxy_idle, or_off=True),
        rtt_s=seconds("--rtt", rtt),
        rate=rate,
        order=wanted,
        service_s=seconds("--service", service or "50ms"),
        connections=connections or 1,
        upstream_lag_s=seconds("--upstream-lag", upstream_lag),
        proxy_lag_s=seconds("--proxy-lag", proxy_lag),
        early_s=seconds("--upstream-early", upstream_early),
        tick_s=seconds("--upstream-tick", upstream_tick),
    )
    if not case.upstream_idle_s:
        raise UsageError(f"--upstream-idle {upstream_idle}: it must be longer than 0")
    if case.early_s >= case.upstream_idle_s:
        raise UsageError(f"--upstream-early {upstream_early}: it must be shorter than --upstream-idle")
    found = predict(case)
    if as_json:
        print(msgspec.json.encode({"case": case, "prediction": found}).decode())
    else:
        print("\n".join(told(case, found)))


def _refuse_what_does_not_count(order: Order, service: str | None, connections: int | None) -> None:
    if service is not None and order is not Order.NEWEST:
        raise UsageError(f"--service {service}: it counts with --order newest only")
    if connections is not None and order is not Order.OLDEST:
        raise UsageError(f"--connections {connections}: they count with --order oldest only")
    if connections is None and order is Order.OLDEST:
        raise UsageError("--order oldest: say how many connections the pool has, such as --connections 100")


def told(case: Case, found: Prediction) -> list[str]:
    """The prediction in sentences."""
    closes, keeps = length(case.upstream_idle_s), length(case.proxy_idle_s)
    if case.upstream_idle_s == inf:
        return ["An upstream that never closes an idle connection loses nothing to this race."]
    lines = [f"The upstream closes a connection that was idle for {closes}; the proxy reuses it for up to {keeps}."]
    if found.window_s:
        spread = "somewhere from" if case.early_s or case.tick_s else "from"
        ages = f"{spread} {moment(found.from_s)} to {moment(found.to_s)} after the last answer"
        lines.append(f"Lost is what is sent on it in a window of {length(found.window_s)}, {ages}.")
        lines.append(f"Expected: {how_often(case, found)}.")
    elif case.proxy_idle_s <= found.safe_idle_s:
        margin = length(found.margin_s)
        lines.append(f"Nothing is lost: the proxy gives up first, by at least the {margin} that it takes.")
    else:
        lines.append("Nothing is lost as long as the way takes no time and nobody is ever late: give --rtt.")
    return [*lines, _advice(found), "", *_assumptions(case)]


def how_often(case: Case, found: Prediction) -> str:
    """So many of the requests, and how soon that is."""
    if not found.share:
        return "nothing, as nothing is sent" if not case.rate else NEVER
    share = f"1 request in {1 / found.share:,.0f}" if found.share < 0.1 else f"{found.share:.0%} of the requests"
    if found.per_second >= 1:
        return f"{share}, {found.per_second:,.1f} a second"
    if found.per_day >= 1:
        return f"{share}, {found.per_day:,.1f} a day"
    days = 1 / found.per_day if found.per_day else inf
    return f"{share}, one in {days:,.0f} days" if days < NEVER_DAYS else NEVER


def _advice(found: Prediction) -> str:
    if found.safe_idle_s <= 0:
        return "No idle timeout of the proxy is short enough: raise the upstream's, or do not reuse connections."
    spare = found.safe_idle_s - SPARE_S if found.safe_idle_s >= 2 * SPARE_S else found.safe_idle_s / 2
    zero = f"It is exactly nothing with an idle timeout of the proxy up to {moment(found.safe_idle_s)}"
    return f"{zero}; {moment(spare)} leaves room for what is not known here."


def _assumptions(case: Case) -> list[str]:
    pool = {
        Order.ONE: "one connection",
        Order.NEWEST: f"the newest idle connection first, requests of {length(case.service_s)}",
        Order.OLDEST: f"the oldest idle connection first, {case.connections} in the pool",
    }[case.order]
    return [
        f"Assumed: {case.rate:g} a second at random times, {pool}, no retries, no lost packets.",
        "Restarts and recycled workers close connections too; no timeout helps against those.",
    ]


def moment(age_s: float) -> str:
    """An age to the microsecond, never rounded up: a limit that is told must hold."""
    if age_s == inf:
        return "any time"
    return f"{floor(age_s * 1e6 + 1e-3) / 1e6:.6f}".rstrip("0").rstrip(".") + " s"


def length(duration_s: float) -> str:
    """A length of time for people: four digits, and the unit that fits."""
    if duration_s == inf:
        return "any time"
    if duration_s < 1:
        return f"{duration_s * 1e3:.4g} ms"
    return f"{duration_s:.4g} s" if duration_s < DAY_S else f"{duration_s / DAY_S:.4g} days"
