"""A record holds what was said, and replaying it says the same bytes in the same order."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest

import pea2pea._command_line
from pea2pea import Heuristics
from pea2pea._command_line import main

from ..helpers import LOCALHOST, RawListener, RawPeer, wait_until
from .program import finish, running, show

HELP = pea2pea._command_line.__doc__ or ""
SAID = [b"one\r\n", b"\0\xff\x1b\n", b"tail without an end"]


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_record_of_a_listener_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    with path.open("wb", buffering=0) as record:
        async with running("listen", ":0", "--frame", "delimiter:0a", record=record) as program:
            host, port = (await program.address()).rsplit(":", 1)
            with await RawPeer.dial((host, int(port))) as peer:
                for each in SAID:
                    await peer.send(each)
                await program.shows("00ff1b")
                program.type(b"answer\n")
                assert await peer.receive() == b"answer\n"
            await program.shows("has ended: ", aside=True)
    events = entries(path)
    assert [each["event"] for each in events] == [
        "listening", "connected", "message", "message", "message", "bytes", "disconnected", "statistics",
    ]  # fmt: skip
    assert [each["sender"] for each in events if "sender" in each] == [
        "initiator",
        "initiator",
        "responder",
        "initiator",
    ]
    assert events[2]["text"] == "one\r"
    for event in events:  # the help tells of each, and of what it has
        assert re.search(rf"^    {event['event']}\b", HELP, re.MULTILINE)
        assert not [key for key in event if key not in HELP and not hasattr(Heuristics(), key)]
    assert "text" not in events[3]
    assert events[5]["hex"] == SAID[2].hex()

    with RawListener.open() as listener:
        async with running("replay", str(path), show(listener.addr), "--speed", "1000", "--timeout", "0.2") as replay:
            with await listener.accept() as peer:
                assert await peer.receive_all() == b"".join(SAID)
                await peer.send(b"good\n")
                await replay.shows("<- 1 .*good")
            await replay.finished.wait()
    assert replay.code == 0


@pytest.mark.parametrize("frame", ["lines", "raw", "u16", "varint", "frames_of_tests:objects"])
async def test_a_record_of_a_proxy_has_the_bytes_of_both_sides(
    frame: str, tmp_path: Path, codecs_of_tests: None
) -> None:
    path = tmp_path / "talk.jsonl"
    asked, answered = b"\0\3abc\0\0\r\n\0\1x", b'{"a":  1}\r\n[2]\n'
    with path.open("wb", buffering=0) as record, RawListener.open() as target:
        async with running("proxy", ":0", show(target.addr), "--frame", frame, record=record) as program:
            host, port = (await program.address()).rsplit(":", 1)
            with await RawPeer.dial((host, int(port))) as client, await target.accept() as server:
                await client.send(asked)
                assert await server.receive_exactly(len(asked)) == asked
                await server.send(answered)
                server.half_close()
                assert await client.receive_all() == answered
                client.half_close()
                assert await server.receive_all() == b""
            await wait_until(lambda: program.err.count(b"has ended: ") == 2)
    for side, data in (("initiator", asked), ("responder", answered)):
        assert "".join(each["wire"] for each in entries(path) if each.get("sender") == side) == data.hex()
    if frame == "frames_of_tests:objects":
        objects = [(each["repr"], each["wire"]) for each in entries(path) if "repr" in each]
        assert objects == [("{'a': 1}", b'{"a":  1}\r\n'.hex()), ("[2]", b"[2]\n".hex())]


async def test_a_large_piece_of_a_codec_of_ones_own_is_recorded_whole(tmp_path: Path, codecs_of_tests: None) -> None:
    path = tmp_path / "talk.jsonl"
    data = b"[1, 2]\n" * 5000
    with path.open("wb", buffering=0) as record:
        async with running("listen", ":0", "--frame", "frames_of_tests:objects", record=record) as program:
            host, port = (await program.address()).rsplit(":", 1)
            with await RawPeer.dial((host, int(port))) as peer:
                await peer.send(data)
            await program.shows("from it 5000 messages", aside=True)
    assert "".join(each.get("wire", "") for each in entries(path)) == data.hex()


async def test_replay_of_connections_and_pauses(tmp_path: Path) -> None:
    """Each connection of a record has one in the replay and pauses are kept."""
    path = tmp_path / "talk.jsonl"
    said = [(0.0, 1, b"a\n"), (0.0, 2, b"b\n"), (0.4, 1, b"c\n")]
    path.write_text(
        "".join(
            json.dumps(
                {"time": 9e8 + at, "event": "message", "connection": number, "sender": "initiator", "wire": data.hex()}
            )
            + "\n"
            for at, number, data in said
        )
    )
    with RawListener.open() as listener:
        begun = time.monotonic()
        async with running("replay", str(path), show(listener.addr), "--speed", "2", "--timeout", "0.1") as replay:
            with await listener.accept() as one, await listener.accept() as two:
                assert await two.receive() == b"b\n"
                assert await one.receive_exactly(4) == b"a\nc\n"
                assert time.monotonic() - begun >= 0.2
            await replay.finished.wait()
    assert replay.code == 0


async def test_a_record_by_hand(tmp_path: Path) -> None:
    """A connection may have any name."""
    path = tmp_path / "talk.jsonl"
    entry = {"time": 1, "sender": "initiator", "connection": ["any", "name"], "wire": "610a"}
    path.write_text(f"{json.dumps(entry)}\n" * 2)
    with RawListener.open() as listener:
        async with running("replay", str(path), show(listener.addr)) as replay:
            with await listener.accept() as peer:
                assert await peer.receive_all() == b"a\na\n"
            await replay.finished.wait()
    assert replay.code == 0


async def test_a_peer_that_leaves_early_fails_the_replay(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    entry = {"event": "message", "connection": 1, "sender": "initiator", "wire": "610a"}
    path.write_text("".join(json.dumps({"time": at, **entry}) + "\n" for at in (1, 2)))
    with RawListener.open() as listener:
        async with running("replay", str(path), show(listener.addr), "--speed", "5") as replay:
            (await listener.accept()).close()
            await replay.finished.wait()
    await replay.shows("has left before all was replayed", aside=True)
    assert replay.code == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "has nothing that an initiator said"),
        (b'{"time": 1, "event": "connected"}\n', "has nothing that an initiator said"),
        (b"no JSON\n", "line 1: no line of a record"),
        (b'{"time": 1, "sender": "responder"}\n[]\n', "line 2: no line of a record"),
        (b'{"sender": "initiator", "time": 1, "connection": 1, "wire": "xyz"}\n', "line 1: no line of a record"),
        (b'{"sender": "initiator", "time": NaN, "connection": 1, "wire": ""}\n', "line 1: no line of a record"),
        (b'{"sender": "initiator", "time": [], "connection": [], "wire": ""}\n', "line 1: no line of a record"),
        (b'{"sender": "initiator", "time": 1e999, "connection": 1, "wire": ""}\n', "line 1: no line of a record"),
        (b"\xff\n", "no line of a record"),
        (None, "No such file or directory; correct the path"),
    ],
)
async def test_a_file_that_is_no_record(content: bytes | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "record"
    if content is not None:
        path.write_bytes(content)
    done = await finish("replay", str(path), "127.0.0.1:9")
    assert done.code == 2
    (line,) = done.err.decode().splitlines()
    assert line.startswith("pea2pea: ")
    assert told in line
    assert str(path) in line


async def test_a_record_that_cannot_be_written(tmp_path: Path) -> None:
    with RawListener.open() as listener, Path("/dev/full").open("wb", buffering=0) as record:  # noqa: ASYNC230  # it never waits
        async with running("connect", show(listener.addr), record=record) as program:
            await program.finished.wait()
    await program.shows("^pea2pea: cannot write to None: No space left on device$", aside=True)
    assert program.code == 1


def test_a_record_is_opened_by_its_path(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{name}", None)
    with socket.create_server((LOCALHOST, 0)) as server:
        addr = show(server.getsockname())
    assert main(["connect", addr, "--record", str(tmp_path / "talk.jsonl"), "--json"]) == 1
    assert [each["event"] for each in entries(tmp_path / "talk.jsonl")] == ["statistics"]


def test_a_record_in_no_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(SystemExit) as end:
        main(["connect", "127.0.0.1:9", "--record", str(tmp_path / "no" / "where")])
    assert end.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    told = f"pea2pea: cannot write to {tmp_path}/no/where: No such file or directory; correct the path; see"
    assert line.startswith(told)
