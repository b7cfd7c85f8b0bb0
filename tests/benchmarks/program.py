"""A contestant's program: it imports what it needs once and then waits on its standard input for work.

So all of them can take turns, and since each run is forked off anew, none finds what another left behind.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from typing import TYPE_CHECKING, cast

from tests.benchmarks.crowd import CROWDS
from tests.benchmarks.stage import CLIENT_CORE, SERVER_CORE, Role
from tests.benchmarks.work import Contestant, Figures, Server, Tell, Work

if TYPE_CHECKING:
    from collections.abc import Mapping


def play(contestant: Contestant, work: Work) -> Figures:
    """Run server and client, and return what both have measured."""
    roles = [server := Role(SERVER_CORE, lambda pipe: contestant.serve(work, Tell(pipe)))]
    try:
        seen = Server(cast("int", server.next()), server.pid)
        call = CROWDS.get(work.kind, contestant.call)
        roles.append(client := Role(CLIENT_CORE, lambda pipe: pipe.send(call(work, seen))))
        figures = cast("Figures", client.next())
        if work.kind in {"throughput", "disconnect", "shutdown"}:
            figures |= cast("Figures", server.next())
    finally:
        for role in roles:
            role.end()
    if work.kind == "throughput" and figures["received"] != figures["sent"]:
        raise RuntimeError(f"messages were lost: {figures}")
    if "ended" in figures:
        figures["ms"] = (figures["ended"] - figures["began"]) * 1e3
    return figures


def take_turns(contestants: Mapping[str, Contestant]) -> None:
    """Read who does what, a line of JSON, and answer with what came of it, until there is no more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer: object = {"figures": play(contestants[order["name"]], Work(**order["work"]))}
        except Exception:  # noqa: BLE001  # whoever gave the order reports it, and goes on
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers)
