"""What can be known of a config before anything is opened, and how it is told: `--check`, `--show-config`."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from proxy import sockets
from proxy.admin.guard import read_token
from proxy.config import ConfigError, Loaded, ProxyConfig, in_group, not_opened, placed, rows
from proxy.control import socket_settings
from proxy.tls import TlsError, client_context, server_context


def check(loaded: Loaded) -> list[str]:
    """Looks at what the config names, and says what is suspicious. Raises ConfigError or TlsError, each placed."""
    suspicious: list[str] = []
    try:
        _check_files(loaded.config, suspicious)
        _check_sockets(loaded.config)
    except (ConfigError, TlsError) as problem:
        raise ConfigError(placed(str(problem), loaded.origins)) from None
    return [placed(each, loaded.origins) for each in suspicious]


def _check_files(config: ProxyConfig, suspicious: list[str]) -> None:
    if config.tls.certificates:
        certificates = server_context(config.tls).certificates
        suspicious += [f"tls.certificates: {each.file}: it has expired" for each in certificates if each.expired]
    for name, group in config.group_configs().items():
        if group.upstream_tls.enabled:
            try:
                client_context(group.upstream_tls)
            except TlsError as problem:
                raise TlsError(in_group(name, str(problem))) from None
    if config.admin.listen != "off":
        read_token(config.admin.token_file, suspicious.append)
    for key, path in (("log.access", config.log.access), ("log.events", config.log.events)):
        if path not in ("", "-"):
            _check_log(key, path)


def _check_log(key: str, path: str) -> None:
    """Whether it could be opened, without leaving a file where there was none."""
    there = Path(path)
    code = 0
    if there.is_dir():
        code = errno.EISDIR
    elif not there.exists() and not there.parent.is_dir():
        code = errno.ENOTDIR if there.parent.exists() else errno.ENOENT
    elif not os.access(there if there.exists() else there.parent, os.W_OK):
        code = errno.EACCES
    if code:
        raise ConfigError(f"{key}: {not_opened(path, OSError(code, os.strerror(code)))}")


def _check_sockets(config: ProxyConfig) -> None:
    try:
        socket_settings(config)
    except OSError as problem:
        raise ConfigError(str(problem.strerror or problem)) from None


# ---- what is printed


def of_sockets(config: ProxyConfig) -> Iterator[str]:
    """Each socket option: what is asked for, and what the kernel makes of it. One socket listens for a moment."""
    listening, *_ = sockets.listen("127.0.0.1", 0, config.listener)
    with closing(listening):
        settings = [*socket_settings(config), *sockets.verify_listener(listening, config.listener)]
    return (f"{setting.key:<42}  {setting.asked:<8}  {setting.got}" for setting in settings)


def summary(loaded: Loaded, file: Path | None) -> Iterator[str]:
    """What a config that is valid amounts to."""
    config = loaded.config
    yield "the config is valid"
    yield f"  file       {file or 'none'}"
    yield f"  listens    {config.listen} ({scheme(config)})"
    fixed = config.admin.listen == "off" or config.admin.token_file
    yield f"  admin      {config.admin.listen}{'' if fixed else ', nothing can be changed there without a token'}"
    groups = [group for group in config.group_configs().values() if group.upstreams or group.discovery.kind != "static"]
    yield f"  groups     {_counted(group.name for group in groups)}"
    listed = sum(len(group.upstreams) for group in groups)
    found = Counter(group.discovery.kind for group in groups if group.discovery.kind != "static")
    how = "".join(f", {count} group{_s(count)} by {kind}" for kind, count in found.items())
    yield f"  upstreams  {listed}{how}"
    yield f"  routes     {_counted(route.pattern for route in config.routes)}"


def scheme(config: ProxyConfig) -> str:
    """What clients speak to it."""
    return "HTTPS" if config.tls.certificates else "HTTP"


def of_keys(loaded: Loaded) -> Iterator[str]:
    """Each key, its value and where that comes from."""
    table = rows(loaded)
    widths = [max(len(row[column]) for row in table) for column in (0, 1)]
    return (f"{key:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for key, value, origin in table)


def _counted(names: Iterator[str]) -> str:
    listed = list(names)
    return f"{len(listed)}: {', '.join(listed)}" if listed else "0"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
