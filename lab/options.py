"""Options that several commands have in common, as typer reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WireOption = Annotated[
    str, typer.Option(help="What lies between proxy and upstream: relay, netns, loopback, or auto (the best here).")
]
UpstreamOption = Annotated[str, typer.Option(help="The server behind the proxy: lab, or a real one by name.")]
ArmOption = Annotated[list[str] | None, typer.Option(help="Only this arm (and its control); may be repeated.")]
MethodOption = Annotated[list[str] | None, typer.Option(help="Only this method, GET or POST; may be repeated.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One value otherwise, e.g. margin=25ms; may be repeated."),
]
RunsOption = Annotated[Path, typer.Option(help="Where run folders go.", envvar="KALAB_RUNS")]
StoredRunsOption = Annotated[Path, typer.Option(help="Where run folders are.", envvar="KALAB_RUNS")]
SeedOption = Annotated[int | None, typer.Option(help="Draws the order of arms and the gaps; random unless given.")]
JsonOption = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout, nothing else there.")]
