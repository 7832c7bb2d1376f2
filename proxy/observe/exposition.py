"""The Prometheus text format, version 0.0.4: metrics as families of samples, and how they are written.

By hand, because there is nothing to keep: the client library would cost 14 MiB and six times the time, on the loop that
also proxies, to print numbers that it has not counted. Its parser judges this file in the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final, NamedTuple

from proxy.observe.counters import Histogram, Names

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Labelled = Iterable[tuple[dict[str, str], float]]


class Sample(NamedTuple):
    """One line: what is added to the family's name, the labels, the value."""

    suffix: str
    labels: Mapping[str, str]
    value: float


class Family(NamedTuple):
    """One metric. The name of a counter ends in `_total`."""

    name: str
    kind: str
    help: str
    samples: Iterable[Sample]


def gauge(name: str, text: str, values: Labelled) -> Family:
    """What goes up and down."""
    return Family(name, "gauge", text, (Sample("", labels, value) for labels, value in values))


def counter(name: str, text: str, values: Labelled) -> Family:
    """What only grows."""
    return Family(name, "counter", text, (Sample("", labels, value) for labels, value in values))


def histogram(name: str, text: str, values: Iterable[tuple[dict[str, str], Histogram]]) -> Family:
    """Buckets, each with those below it, their sum and their number."""
    return Family(name, "histogram", text, (sample for labels, each in values for sample in _buckets(labels, each)))


def by(label: str, counts: Names) -> Iterator[tuple[dict[str, str], float]]:
    """A sample for each name."""
    return (({label: name}, count) for name, count in counts.items())


def text_of(families: Iterable[Family], prefix: str) -> bytes:
    """The page. `prefix` goes before each name; a family without samples is left out."""
    lines: list[str] = []
    for family in families:
        name = prefix + family.name
        samples = [f"{name}{suffix}{_labels(labels)} {_number(value)}" for suffix, labels, value in family.samples]
        if samples:
            lines += (f"# HELP {name} {_escaped(family.help)}", f"# TYPE {name} {family.kind}", *samples)
    return "\n".join((*lines, "")).encode()


def _buckets(labels: dict[str, str], each: Histogram) -> Iterator[Sample]:
    *below, count = accumulate(each.counts)
    for bound, so_far in zip(each.bounds, below, strict=True):
        yield Sample("_bucket", {**labels, "le": _number(bound)}, so_far)
    yield Sample("_bucket", {**labels, "le": "+Inf"}, count)
    yield Sample("_sum", labels, each.sum)
    yield Sample("_count", labels, count)


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    quoted = [f'{name}="{_escaped(value, quotes=True)}"' for name, value in labels.items()]
    return "{" + ",".join(quoted) + "}"


def _escaped(text: str, *, quotes: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
