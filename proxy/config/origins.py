"""Where each value of a config comes from, so that an error can begin with it.

What is found later than the config is read, such as a certificate that is missing, begins with its key like everything
else; `placed` puts file and line, the variable or the option in front of it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from proxy.config.knobs import DEFAULT_GROUP, ProxyConfig
from proxy.config.known_keys import GROUPS, place, split_group_key

DEFAULT: Final = "default"  # the origin of what nobody has set


class Loaded(NamedTuple):
    """A config, and for each key where its value comes from: "default", "proxy.toml:7", "KALAB_…" or "--…".

    Beside the plain keys, those of named groups and of routes that were said.
    """

    config: ProxyConfig
    origins: dict[str, str]


def in_group(name: str, problem: str) -> str:
    """An error that begins with a key, as one of this group."""
    return problem if name == DEFAULT_GROUP else f"{GROUPS}.{name}.{problem}"


def placed(problem: str, origins: Mapping[str, str]) -> str:
    """An error that begins with a key, behind the place where that key was set; any other as it is."""
    key, colon, what = problem.partition(": ")
    if key.startswith(f"{GROUPS}.") and key not in origins and key.count(".") > 1:
        _, key = split_group_key(key)  # inherited
    origin = origins.get(key, DEFAULT)
    return problem if origin == DEFAULT else f"{place(key, origin)}{colon}{what}"


def told(problem: Exception, loaded: Loaded) -> str:
    """What is wrong, in one line: where that is said, the key, and what happened."""
    if not isinstance(problem, OSError):
        return placed(str(problem), loaded.origins)
    name = str(problem.filename or loaded.config.listen)
    key = _key_of(name, loaded.config)
    if key == "listen":
        of_system = problem.errno is not None and problem.errno > 0  # and not of the resolver
        what = os.strerror(problem.errno or 0) if of_system else str(problem.strerror or problem)
        return placed(f"listen: {name}: {what}", loaded.origins)
    return placed(f"{key}: {not_opened(name, problem)}" if key else not_opened(name, problem), loaded.origins)


def _key_of(name: str, config: ProxyConfig) -> str:
    """The key that names what could not be opened; "" if none does."""
    if name == config.listen:
        return "listen"
    if name == config.log.access:
        return "log.access"
    of_worker = re.fullmatch(r"(.+?)(\.[0-9]+)?", name)
    return "log.events" if of_worker and config.log.events in (name, of_worker[1]) else ""


def not_opened(file: str, problem: OSError) -> str:
    """The file, and why it could not be opened.

    A relative one belongs to the folder that the proxy was started in, which may be another than one thinks.
    """
    missing = problem.errno in (errno.ENOENT, errno.ENOTDIR) and not Path(file).is_absolute()
    looked = f"; looked for {Path(file).absolute()}" if missing else ""
    return f"{file}: {problem.strerror or problem}{looked}"
