"""Who may speak to the admin address, who may change something there, and what a change may look like.

Rules of this file:

- Nothing may come from a web page: its requests have a Host that is a name of its own (DNS rebinding) or an Origin.
- Nothing may come through a proxy of this make, so that no client of it can reach these pages, however it is set up.
- A change needs the token, and a content type that no form can send. Its JSON must leave nothing to guess.
- What is refused is told in words of ours. A header is never repeated, and neither is the token.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from hmac import compare_digest
from pathlib import Path
from typing import Final, NoReturn

from proxy.config import ConfigError, not_opened
from proxy.http1.grammar import PSEUDONYM

SHORTEST_TOKEN: Final = 16  # characters
LONGEST_TOKEN: Final = 4096
DEEPEST: Final = 8  # levels of a change
OURSELVES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})

Headers = Callable[[str], Sequence[str]]  # all values of a field

_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[0-9A-Za-z._-]+)(?::[0-9]{1,5})?")
_VIA = re.compile(rf"(?i)[0-9][ \t]+{PSEUDONYM.decode()}(?![0-9a-z])")
_TOKEN = re.compile(r"[!-~]+")


class Refusal(Exception):  # noqa: N818 - it is an answer, not a mistake
    """Why a request is not served, and the fields that its status calls for."""

    def __init__(self, status: int, why: str, **fields: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.fields = fields


def check_sender(headers: Headers, local_ip: str, allowed_hosts: Sequence[str]) -> None:
    """Raises Refusal if the request may have come from a web page or through this proxy."""
    hosts = headers("Host")
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    host = match[1].lower() if match else ""
    itself = f"[{local_ip}]" if ":" in local_ip else local_ip  # a page cannot have an address as its name
    if host not in OURSELVES and host != itself and host not in allowed_hosts:
        raise Refusal(421, "not a name of this server; admin.allowed_hosts can add one")
    if headers("Origin"):
        raise Refusal(403, "web pages may not use this server")
    if any(map(_VIA.search, headers("Via"))):
        raise Refusal(403, "this server cannot be reached through the proxy itself")


def check_change(headers: Headers, token: bytes) -> None:
    """Raises Refusal unless the request may change something. `token` is empty if nobody may."""
    if not token:
        raise Refusal(403, "nothing can be changed here: admin.token_file is not set")
    given = headers("Authorization")
    scheme, _, secret = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if not compare_digest(secret.strip().encode("utf-8", "surrogateescape"), token) or scheme.lower() != "bearer":
        raise Refusal(401, "a change needs Authorization: Bearer and the token", **{"WWW-Authenticate": "Bearer"})
    types = headers("Content-Type")
    if len(types) != 1 or types[0].partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "a change needs Content-Type: application/json")


def read_token(path: str, warn: Callable[[str], None]) -> bytes:
    """The token in a file, without the white space around it; b"" without a file. Raises ConfigError."""
    if not path:
        return b""
    try:
        with Path(path).open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            token = file.read(LONGEST_TOKEN + 1).strip()
    except OSError as problem:
        raise ConfigError(f"admin.token_file: {not_opened(path, problem)}") from None
    if len(token) > LONGEST_TOKEN or not _TOKEN.fullmatch(token.decode("latin-1")):
        raise ConfigError(f"admin.token_file: {path}: expected one line of visible ASCII without spaces")
    if len(token) < SHORTEST_TOKEN:
        raise ConfigError(f"admin.token_file: {path}: the token must have at least {SHORTEST_TOKEN} characters")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        warn(f"admin.token_file: {path}: others can read or write it (mode {mode:04o}); chmod 600 it")
    return token


def changes_of(body: bytes) -> dict[str, object]:
    """The keys and values of a change. Raises ConfigError."""
    try:
        changes = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise ConfigError("the change is not UTF-8") from None
    except RecursionError:
        raise ConfigError("the change is nested too deeply") from None
    except ValueError as problem:
        raise ConfigError(f"the change is not valid JSON: {problem}") from None
    if not isinstance(changes, dict) or not changes:
        raise ConfigError('expected an object of keys and values, such as {"timeouts.upstream_idle": "3s"}')
    if not all(map(str.isprintable, _texts(changes, DEEPEST))):
        raise ConfigError("the change has control characters or is not Unicode")
    return changes


def _texts(value: object, depth: int) -> Iterator[str]:
    """Every key and every string in it: something of the system may have to take them as a name."""
    if depth == 0:
        raise ConfigError("the change is nested too deeply")
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        yield from _texts(list(value.values()), depth)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, depth - 1)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
