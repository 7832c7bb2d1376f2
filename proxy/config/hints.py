"""What was probably meant by a value that cannot be taken: the end of an error message, or "" if nobody can know.

Rules of this file:

- A hint never changes what is read: the value is refused, and whoever wrote it decides.
- What is proposed can be written as it stands: tests/proxy/test_hints.py reads back every proposal.
- Whoever comes from nginx, HAProxy, Envoy or Go writes as it is written there. Those ways are known here.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from ipaddress import ip_address
from typing import Any, Final

_AMOUNT = re.compile(r"\s*([0-9]+(?:[.,][0-9]+)?)\s*([A-Za-zµ]*)\.?\s*")
_COMPOUND = re.compile(r"(?:[0-9]+(?:h|ms|m|s))+")
_PART = re.compile(r"([0-9]+)(h|ms|m|s)")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_WEIGHT = re.compile(r"(\S+)\s+([A-Za-z]*)\s*[= ]?\s*([0-9]{1,4})\s*;?\s*")
_PORT: Final = r"[0-9]{1,5}"

_UNITS_OF_TIME: Final = {
    "ms": ("ms", "msec", "msecs", "milli", "millis", "millisecond", "milliseconds"),
    "s": ("", "s", "sec", "secs", "second", "seconds"),
    "m": ("m", "min", "mins", "minute", "minutes"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
}
_UNITS_OF_SIZE: Final = {
    "B": ("", "b", "byte", "bytes"),
    "KiB": ("k", "kb", "kib", "kilobyte", "kilobytes"),
    "MiB": ("m", "mb", "mib", "megabyte", "megabytes"),
    "GiB": ("g", "gb", "gib", "gigabyte", "gigabytes"),
}
LONGEST: Final = 100  # characters of a proposal; nobody reads a longer one
_MS_IN: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_BYTES_IN: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_NO_UPGRADES: Final = ("h2c", "http", "tls")
_NO_LIMIT: Final = ("none", "never", "no", "inf", "infinite", "infinity", "unlimited", "disabled", "-1")
_YES: Final = ("true", "yes", "on", "1", "enabled")
_NO: Final = ("false", "no", "off", "0", "disabled")


def did_you_mean(proposal: str) -> str:
    return f"; did you mean {proposal}?" if len(proposal) <= LONGEST else ""


def near(wrong: str, known: Iterable[str], at_least: float = 0.6) -> str:
    """The known word that is nearest to a wrong one, in whatever case; "" if none is near."""
    by_fold = {word.casefold(): word for word in known}
    found = difflib.get_close_matches(wrong.casefold(), by_fold, n=1, cutoff=at_least)
    return by_fold[found[0]] if found else ""


# --- What has a unit


def of_duration(value: object) -> str:
    """ "4sec", "4 s", "1m30s" as Go has it, "none"; a number is of seconds."""
    text = str(value)
    if text.casefold() in _NO_LIMIT:
        return did_you_mean('"off"')
    if _COMPOUND.fullmatch(text):
        milliseconds = sum(int(number) * _MS_IN[unit] for number, unit in _PART.findall(text))
        seconds = milliseconds % 1000 == 0
        return did_you_mean(_quoted(f"{milliseconds // 1000}s" if seconds else f"{milliseconds}ms"))
    number, unit = _amount(text, _UNITS_OF_TIME)
    return did_you_mean(_quoted(number + unit)) if unit else ""


def of_size(value: object) -> str:
    """ "8MB", "1 KB", "8m" as nginx has it, "unlimited"."""
    text = str(value)
    if text.casefold() in _NO_LIMIT:
        return did_you_mean('"off"')
    number, unit = _amount(text, _UNITS_OF_SIZE)
    if not unit:
        return ""
    size = Decimal(number) * _BYTES_IN[unit]
    while size % 1 == 0 and "." in number and unit != "B":  # sizes are whole: 1.5MiB is 1536KiB
        unit = {"GiB": "MiB", "MiB": "KiB", "KiB": "B"}[unit]
        whole = size / _BYTES_IN[unit]
        number = f"{whole:f}" if whole % 1 else str(int(whole))
    return did_you_mean(_quoted(number + unit)) if "." not in number else ""


def _amount(text: str, units: dict[str, tuple[str, ...]]) -> tuple[str, str]:
    """Number and unit as they are written here; "" for both if it is no amount."""
    match = _AMOUNT.fullmatch(text)
    word = match[2].casefold() if match else ""
    unit = next((unit for unit, words in units.items() if word in words), "")
    return (match[1].replace(",", "."), unit) if match and unit else ("", "")


# --- What is plain


def of_plain(wanted: type, value: object) -> str:
    """ "yes" for true, "3" for 3."""
    text = str(value).strip().casefold()
    if wanted is bool and text in (*_YES, *_NO):
        return did_you_mean("true" if text in _YES else "false")
    if wanted is int and not isinstance(value, bool):
        whole = re.fullmatch(r"(-?[0-9]+)(?:\.0+)?", text.replace("_", ""))
        return did_you_mean(whole[1].lstrip("0") or "0") if whole and len(whole[1]) < 20 else ""
    if wanted is float and re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) and isinstance(value, str):
        return did_you_mean(text)
    return ""


def of_choice(value: object, choices: tuple[str, ...]) -> str:
    """ "common" for combined, "none" for never; of numbers the nearest."""
    text = str(value)
    if text.casefold() in (*_NO, *_NO_LIMIT) and "never" in choices:
        found = "never"
    elif all(map(_is_number, (text, *choices))):
        found = min(choices, key=lambda choice: abs(float(choice) - float(text)))
    else:
        found = near(text, choices, 0.5)
    return did_you_mean(found if isinstance(value, str) else _quoted(found)) if found else ""


def of_sink(value: object) -> str:
    """Words that would else be the name of a file."""
    text = str(value).casefold()
    if text in ("stdout", "console", "true", "yes", "on"):
        return did_you_mean('"-"')
    return did_you_mean('"off"') if text in ("false", "no", "none", "disabled") else ""


def of_share(value: object) -> str:
    """50, or "50%", for a half."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*%?", str(value))
    percent = Decimal(match[1]) if match else Decimal(0)
    is_percent = 1 < percent <= 100 and (str(value).endswith("%") or percent % 1 == 0)
    return did_you_mean(f"{(percent / 100).normalize():f}") if is_percent else ""


def of_list(value: object) -> str:
    """One where a list is wanted."""
    if not isinstance(value, str) or not value:
        return ""
    items = [item.strip() for item in value.split(",") if item.strip()]
    return did_you_mean(f"[{', '.join(map(_quoted, items))}]")


# --- Addresses


def of_listen(port: int, *, for_everybody: bool) -> Callable[[Any], str]:
    """Where one listens: ":8080", "*:8080" and 8080, which are every address in some programs and loopback in others.

    So it must be said; `for_everybody`: whether every address may be what was meant.
    """

    def hint(value: object) -> str:
        text, _ = _without_scheme(str(value).strip())
        if text.casefold() in _NO or text.casefold() in _NO_LIMIT:
            return "" if for_everybody else did_you_mean('"off"')
        alone = re.fullmatch(rf"(?:\*?:)?({_PORT})", text)
        if alone and int(alone[1]) <= 65535:
            everybody = f', or for everybody "0.0.0.0:{int(alone[1])}"' if for_everybody else ""
            return did_you_mean(f'"127.0.0.1:{int(alone[1])}"{everybody}')
        found = _address(text, port) if isinstance(value, str) else ""
        return did_you_mean(_quoted(found)) if found else ""

    return hint


def of_upstream(value: object) -> str:
    """ "http://app:9000", "app", "app:9000 wieght=3"."""
    text, scheme = _without_scheme(str(value).strip())
    if scheme not in ("", "http", "https", "tcp") or text.startswith("unix:") or not isinstance(value, str):
        return ""
    weight = _WEIGHT.fullmatch(text)
    if weight and (weight[2] == "" or near(weight[2], ["weight"])):
        text, share = weight[1], f" weight={int(weight[3])}"
        if not 1 <= int(weight[3]) <= 1000:
            return ""
    else:
        share = ""
    found = _address(text, 443 if scheme == "https" else 80)
    if not found or re.search(":0+$", found) or len(found) > LONGEST:
        return ""
    meant = f"did you mean {_quoted(found + share)}"
    if scheme == "https":
        return f"; an address has no scheme: {meant}, and upstream_tls.enabled = true?"
    return f"; an address has no scheme: {meant}?" if scheme else f"; {meant}?"


def of_resolver(value: object) -> str:
    """One without its port."""
    found = _address(str(value), 53)
    return did_you_mean(_quoted(found)) if found and _is_ip(found.rpartition(":")[0].strip("[]")) else ""


def _without_scheme(text: str) -> tuple[str, str]:
    match = _SCHEME.match(text)
    return (text[match.end() :], match[1].lower()) if match else (text, "")


def _address(text: str, port: int) -> str:
    """Host and port of it, with this port if it has none; "" if it is neither."""
    host = text.partition("/")[0] if text.count("/") else text
    if not host.startswith("[") and host.count(":") > 1:
        head, _, tail = host.rpartition(":")
        if _is_ip(head) and re.fullmatch(_PORT, tail):
            host = f"[{head}]:{tail}"
        elif _is_ip(host):
            host = f"[{host}]"
    match = re.fullmatch(rf"([0-9A-Za-z._-]*[0-9A-Za-z]|\[[0-9A-Fa-f:.]+\])(?::({_PORT})?)?", host)
    if match is None or (match[2] and int(match[2]) > 65535) or re.fullmatch("[0-9]+", match[1]):
        return ""
    return f"{match[1]}:{match[2] or port}"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) is not None


def _is_ip(text: str) -> bool:
    try:
        return bool(ip_address(text))
    except ValueError:
        return False


# --- Names and paths


def of_host(value: object) -> str:
    """ "API.example.com:80" for "api.example.com"."""
    text, _ = _without_scheme(str(value).strip())
    host = re.sub(r"(?<=.)(:[0-9]+)?(/.*)?$", "", text.lower()).rstrip(".")
    host = f"*{host}" if host.startswith(".") else host
    label = r"[0-9a-z_](?:[0-9a-z_-]{0,61}[0-9a-z_])?"
    is_host = re.fullmatch(rf"(?:\*\.)?{label}(?:\.{label})*", host) and len(host) <= 253
    return did_you_mean(_quoted(host)) if is_host and host != value else ""


def of_exact_host(value: object) -> str:
    """The same where no wildcard is allowed."""
    hint = of_host(value)
    return "" if "*" in hint else hint


def of_path(value: object) -> str:
    """ "v1", "/v1/", "/v1/*" for "/v1"."""
    text = re.split(r"[?#]", str(value).strip())[0].rstrip("*")
    path = "/" + "/".join(part for part in text.split("/") if part)
    if re.search(r"/\.{1,2}(/|$)", path) or not re.fullmatch(r"[!\"$->@-\[\]-~]+", path) or "*" in path:
        return ""
    return did_you_mean(_quoted(path))


def of_target(value: object) -> str:
    """ "healthz", or a whole URL, for "/healthz"."""
    text, scheme = _without_scheme(str(value).strip())
    target = "/" + (text.partition("/")[2] if scheme else text.lstrip("/"))
    target = target.partition("#")[0]
    return did_you_mean(_quoted(target)) if re.fullmatch(r"/[!\"$-~]*", target) else ""


def of_hash_key(value: object) -> str:
    """ "ip" for "client", "X-User" for "header:X-User"."""
    text = str(value).strip()
    if text.casefold().lstrip("$") in ("client", "client_ip", "ip", "source", "source_ip", "address", "remote_addr"):
        return did_you_mean('"client"')
    match = re.fullmatch(r"(?:(?:header|hdr)\s*[:=(]\s*)?([0-9A-Za-z_-]*-?[0-9A-Za-z_-]+)\)?", text, re.IGNORECASE)
    named = match and (match[1] != text or "-" in text) and match[1].casefold() != "header"
    return did_you_mean(_quoted(f"header:{match[1]}")) if match and named else ""


def of_protocol(value: object) -> str:
    """ "WebSocket" for "websocket"."""
    text = str(value).strip().lower()
    known = near(text, ["websocket"])
    if not known and re.fullmatch(r"[0-9a-z.+_-]+(/[0-9a-z.+_-]+)?", text) and not text.startswith(_NO_UPGRADES):
        known = text
    return did_you_mean(_quoted(known)) if known and known != value else ""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
