"""A fake proxy for each test that asks for one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fakes import FakeProxy

MakeProxy = Callable[..., FakeProxy]


@pytest.fixture
def make_proxy(monkeypatch: pytest.MonkeyPatch) -> MakeProxy:
    """Makes a proxy with some keys changed: `make_proxy(retry__policy="never")`."""

    def make(**changes: object) -> FakeProxy:
        return FakeProxy(monkeypatch, **changes)

    return make


@pytest.fixture
def proxy(make_proxy: MakeProxy) -> FakeProxy:
    """A proxy with the default config."""
    return make_proxy()
