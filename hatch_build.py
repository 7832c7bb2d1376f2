"""The compiled build: with `KALAB_COMPILE=1`, `pip install .` makes C extensions of what every request runs through.

Rules of this file:

- The sources are the same `.py` files, compiled by mypyc as they are. There is no second statement of what is accepted.
- It is never the default, and never made for an editable install: an extension would outlive the source it is made of.
- Nothing is written into the tree.

Needed are a C compiler and Python's headers (Debian: gcc and python3-dev). `proxy/build.py` says which build runs.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SWITCH = "KALAB_COMPILE"
NEEDS = ["mypy>=2.4,<3", "setuptools>=80"]

# All of the chain or nothing of it: between two compiled modules a call is a C call, an attribute a field of a struct.
COMPILED = (
    *("http1/grammar", "http1/trailers", "http1/framing", "http1/forwarding"),
    *("http1/request_head", "http1/request_reader", "http1/response_head", "http1/response_reader"),
    *("deadline", "failure", "retry", "pool", "balancer", "ejection", "router"),
    *(
        "sides",
        "upstream_socket",
        "upstream_life",
        "upstream_connection",
        "upstream",
        "group",
        "groups",
        "gateway",
        "record",
    ),
    *("outgoing", "exchange", "tunnel", "downstream_socket", "downstream_body", "downstream"),
)


class CompiledProxy(BuildHookInterface):  # type: ignore[type-arg]  # of no use to a hook
    """Adds the extensions to the wheel, beside the sources that they are made of."""

    PLUGIN_NAME = "custom"
    _made: Path | None = None

    def dependencies(self) -> list[str]:
        # mypyc goes by types, so those of the packages that the proxy stands on are needed too.
        return [*NEEDS, *self.metadata.core.dependencies] if self._wanted("standard") else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not self._wanted(version):
            return
        self._made = Path(mkdtemp(prefix="kalab-compiled-"))
        compile_proxy(Path(self.root), self._made)
        for extension in self._made.rglob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"):
            build_data["force_include"][str(extension)] = str(extension.relative_to(self._made))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatchling's
        if self._made is not None:
            shutil.rmtree(self._made)

    def _wanted(self, version: str) -> bool:
        return os.environ.get(SWITCH, "0") not in ("", "0") and self.target_name == "wheel" and version != "editable"


def compile_proxy(tree: Path, into: Path) -> None:
    """Compiles the modules of the proxy in `tree`; the extensions come to lie in `into` as they are imported."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    os.chdir(tree)
    work = into / "work"
    extensions = mypycify(
        ["--strict", *(f"proxy/{name}.py" for name in COMPILED)],
        opt_level="2",
        debug_level="0",
        target_dir=str(work),
        group_name="proxy",
    )
    build = Distribution({"name": "kalab", "ext_modules": extensions}).get_command_obj("build_ext")
    build.build_lib, build.build_temp = str(into), str(work)
    build.ensure_finalized()
    build.run()
    shutil.rmtree(work)
