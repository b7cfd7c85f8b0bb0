"""What it shows of messages, and what it makes of input."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from pea2pea._screen import fit, text_of

from ..helpers import RawListener, RawPeer, wait_until
from .program import Program, finish, running, show


async def peer_of(program: Program) -> RawPeer:
    host, port = (await program.address()).rsplit(":", 1)
    return await RawPeer.dial((host, int(port)))


async def test_the_address_is_the_first_line_and_a_message_is_one() -> None:
    async with running("listen", "127.0.0.1:0") as program:
        with await peer_of(program) as peer:
            await peer.send(b"hello\n")
            shown = await program.shows(r"^\d\d:\d\d:\d\d\.\d{3} <- 1 (\S+)     5  68656c6c6f  hello$")
            assert shown[1] == show(peer.addr)
            program.type(b"hi there\n")
            assert await peer.receive() == b"hi there\n"
            await program.shows(r" -> 1 \S+     8  6869207468657265  hi there$")
        await program.shows(
            r"-- 1 .*: the peer has closed it; from it 1 messages, 6 bytes; to it 1 messages, 9 bytes", aside=True
        )
    await program.shows(
        r"^-- connections: 1, messages received: 1, messages sent: 1, bytes received: 6, bytes sent: 9$", aside=True
    )
    assert program.code == 0
    assert program.lines[0] == await program.address()


@pytest.mark.parametrize(
    ("frame", "sent", "shown"),
    [
        ("lines", b"a\r\nb\n", ["61  a", "62  b"]),
        ("raw", b"a\nb", [r"610a62  a\\nb"]),
        ("u16", b"\0\1a\0\2bc", ["61  a", "6263  bc"]),
        ("u32be", b"\0\0\0\1a\0\0\0\0", ["61  a", "  $"]),
        ("u32le", b"\1\0\0\0a", ["61  a"]),
        ("varint", b"\1a\2bc", ["61  a", "6263  bc"]),
        ("delimiter:0d0a", b"a\nb\r\nc\r\n", [r"610a62  a\\nb", "63  c"]),
        ("frames_of_tests:unprintable", b"a\n", ["610a  <Unprintable whose repr raises ValueError>"]),
        ("frames_of_tests:objects", b'{"a": 1}\n"b"\n', [r"7b2261223a20317d0a  \{'a': 1\}", "2262220a  'b'"]),
    ],
)
async def test_frames(frame: str, sent: bytes, shown: list[str], codecs_of_tests: None) -> None:
    async with running("listen", ":0", "--frame", frame) as program:
        with await peer_of(program) as peer:
            await peer.send(sent)
            for each in shown:
                await program.shows(f"  {each}$")


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"\x1b[2J\x07\x08\x7f", r"\x1b[2J\x07\x08\x7f"),
        ("\u009b31m \u202e \u200b".encode(), r"\x9b31m \u202e \u200b"),
        (b"\xff\xfe", r"\xff\xfe"),
        ("日本語 wörld 😀".encode(), "日本語 wörld 😀"),
    ],
)
async def test_no_character_that_a_terminal_obeys_is_shown_as_it_is(sent: bytes, shown: str) -> None:
    async with running("listen", ":0", "--frame", "raw") as program:
        with await peer_of(program) as peer:
            await peer.send(sent)
            await program.shows(re.escape(f"  {sent.hex()}  {shown}") + "$")


@pytest.mark.parametrize("width", [80, 100, 0])
@pytest.mark.parametrize("text", ["a" * 300, "語" * 100, "\x1b" * 100])
async def test_a_line_is_cut_at_the_width(width: int, text: str) -> None:
    async with running("listen", ":0", "--width", str(width)) as program:
        with await peer_of(program) as peer:
            await peer.send(text.encode() + b"\n")
            line = (await program.shows("^.* <- .*$"))[0]
    columns = sum(2 if each == "語" else 1 for each in line)
    if width:
        assert width - 3 <= columns <= width
        assert line.count("…") == 2
    else:
        assert "…" not in line
        assert text.encode().hex() in line


async def test_json_is_for_programs() -> None:
    async with running("listen", ":0", "--json", "--frame", "raw") as program:
        await wait_until(lambda: program.out)
        host, port = json.loads(program.lines[0])["address"].rsplit(":", 1)
        with await RawPeer.dial((host, int(port))) as peer:
            await peer.send("é\n".encode())
            await program.shows('"message"')
            await peer.send(b"\xff")
            await program.shows('"ff"')
        await program.shows('"disconnected"')
    listening, connected, text, binary, disconnected, statistics = map(json.loads, program.lines)
    assert listening["event"] == "listening"
    peer_name = show(peer.addr)
    assert (connected["event"], connected["connection"], connected["peer"]) == ("connected", 1, peer_name)
    assert (text["text"], text["hex"], text["wire"], text["length"]) == ("é\n", "c3a90a", "c3a90a", 3)
    assert (text["direction"], text["sender"]) == ("<-", "initiator")
    assert "text" not in binary
    assert disconnected["why"] == "the peer has closed it"
    assert statistics["bytes_received"] == 4
    assert program.err == b""


async def test_input_goes_to_all_or_to_one(tmp_path: Path) -> None:
    file = tmp_path / "two lines"
    file.write_bytes(b"first\r\nsecond\n")
    async with running("listen", ":0") as program:
        with await peer_of(program) as one:
            await program.shows("1 .* is connected", aside=True)
            with await peer_of(program) as two:
                await program.shows("2 .* is connected", aside=True)
                program.type(b"all\n@2 second only\n@@home\n@1 @" + os.fsencode(file) + b"\n@3 nobody\n")
                assert await one.receive_exactly(23) == b"all\n@home\nfirst\nsecond\n"[:23]
                assert await two.receive_exactly(22) == b"all\nsecond only\n@home\n"
                await program.shows("not sent: b'@3 nobody': there is no peer 3; the peers are 1, 2$", aside=True)
    assert program.code == 2


async def test_hexadecimal_input() -> None:
    with RawListener.open() as listener:
        async with running("connect", show(listener.addr), "--hex", "--frame", "u16") as program:
            with await listener.accept() as peer:
                program.type(b"68 65 6C6c6f\nnonsense\n")
                assert await peer.receive_exactly(7) == b"\0\5hello"
                await program.shows("not sent: b'nonsense': non-hexadecimal", aside=True)


@pytest.mark.parametrize(
    ("frame", "typed", "wire"),
    [
        ("objects", b"{'a': [1, None]}", b'{"a": [1, null]}\n'),
        ("objects", b"'quoted'", b'"quoted"\n'),
        ("points", b"Point(1, y=-2)", b"1 -2\n"),
        ("upper", b"'text'", b"TEXT\n"),
        ("own_bytes", b"'bytes'", b"'bytes'."),
    ],
)
async def test_a_codec_of_ones_own_is_given_bytes_or_a_literal(
    frame: str, typed: bytes, wire: bytes, codecs_of_tests: None
) -> None:
    with RawListener.open() as listener:
        async with running("connect", show(listener.addr), "--frame", f"frames_of_tests:{frame}") as program:
            with await listener.accept() as peer:
                program.type(typed + b"\n")
                assert await peer.receive_exactly(len(wire)) == wire
                await program.shows(f" -> 1 .*{len(wire)}  " if frame != "own_bytes" else " -> 1 ")


@pytest.mark.parametrize(
    ("frame", "typed", "why"),
    [
        ("frames_of_tests:points", b"__import__('os')", "ValueError|TypeError|AttributeError"),
        ("frames_of_tests:points", b"Point(1)", "missing 1 required|AttributeError"),
        ("lines", b"\xff", "utf-8"),
        ("delimiter:2c", b"a,b", "delimiter"),
    ],
)
async def test_refused_input(frame: str, typed: bytes, why: str, codecs_of_tests: None) -> None:
    """Input that the codec refuses is told and the next line is sent."""
    with RawListener.open() as listener:
        async with running("connect", show(listener.addr), "--frame", frame) as program:
            with await listener.accept() as peer:
                program.type(typed + b"\n" + (b"Point(3, 4)\n" if "points" in frame else b"fine\n"))
                assert await peer.receive()
                await program.shows(f"^pea2pea: not sent: .*({why})", aside=True)
                program.end_input()
    assert program.code == 2


async def test_raw_input_of_a_pipe_is_sent_as_it_is() -> None:
    data = b"@nothing\0\r\n@1 x" + bytes(range(256)) * 300
    with RawListener.open() as listener:
        async with running("connect", show(listener.addr), "--frame", "raw") as program:
            with await listener.accept() as peer:
                program.type(data[:50_000])
                assert await peer.receive_exactly(50_000) == data[:50_000]
                program.type(data[50_000:])
                program.end_input()
                assert await peer.receive_all() == data[50_000:]
            await program.finished.wait()
    assert program.code == 0


async def test_a_file_is_sent_as_one_message(tmp_path: Path) -> None:
    file = tmp_path / "two lines"
    file.write_bytes(b"first\r\nsecond\n")
    with RawListener.open() as listener:
        async with running("connect", show(listener.addr), "--frame", "u16") as program:
            with await listener.accept() as peer:
                program.type(b"@" + os.fsencode(file) + b"\n@" + os.fsencode(tmp_path) + b"/none\n")
                assert await peer.receive_exactly(16) == b"\0\x0efirst\r\nsecond\n"
                await program.shows("not sent: b'@/.*: No such file or directory; correct the path$", aside=True)


async def test_a_line_of_input_without_an_end() -> None:
    with RawListener.open() as listener, open("/dev/zero", "rb") as zeros:  # noqa: ASYNC230, PTH123  # it never waits
        async with running("connect", show(listener.addr), stdin=os.dup(zeros.fileno())) as program:
            with await listener.accept():
                await program.finished.wait()
    assert program.code == 2
    await program.shows("^pea2pea: the input has a line that is too long .*; send it as @FILE$", aside=True)


async def test_one_answer_to_refused_input() -> None:
    """What cannot be sent fails at once where one answer is wanted."""
    with RawListener.open() as listener:
        done = await finish("connect", show(listener.addr), "--one", "--hex", stdin=b"xyz\n")
    assert (done.code, done.out) == (2, b"")
    await done.shows("^pea2pea: not sent: b'xyz': non-hexadecimal", aside=True)


async def test_a_peer_that_does_not_shake_hands() -> None:
    with RawListener.open() as listener:
        done = await finish("connect", show(listener.addr), "--tls", "--timeout", "0.05")
    assert done.code == 1
    await done.shows("^pea2pea: cannot connect to .*: no answer in time; raise --timeout$", aside=True)


async def test_input_from_a_file_and_its_end_is_a_half_close(tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"question\n")
    with RawListener.open() as listener, file.open("rb") as stdin:
        async with running("connect", show(listener.addr), stdin=os.dup(stdin.fileno())) as program:
            with await listener.accept() as peer:
                assert await peer.receive_all() == b"question\n"
                await peer.send(b"answer\n")
                await program.shows("answer")
            await program.finished.wait()
    assert program.code == 0


async def test_silent_peer_at_the_end_of_input() -> None:
    """A silent peer is waited for so long at the end of the input."""
    with RawListener.open() as listener:
        async with running("connect", show(listener.addr), "--timeout", "0.2") as program:
            with await listener.accept() as peer:
                program.type(b"question\n")
                program.end_input()
                assert await peer.receive_all() == b"question\n"
                await program.finished.wait()
    await program.shows("has ended: this side has left", aside=True)
    assert program.code == 0


async def test_empty_input_ends_nothing() -> None:
    with RawListener.open() as listener:
        async with running("connect", show(listener.addr), stdin=os.open(os.devnull, os.O_RDONLY)) as program:
            with await listener.accept() as peer:
                await peer.send(b"still there\n")
                await program.shows("still there")
                assert not program.finished.is_set()
            await program.finished.wait()
    assert program.code == 0


async def test_one_answer_and_nothing_else() -> None:
    with RawListener.open() as listener:
        async with running("connect", show(listener.addr), "--one") as program:
            with await listener.accept() as peer:
                program.type(b"question\n")
                assert await peer.receive() == b"question\n"
                await peer.send(b"answer\x1b\nmore\n")
                await program.finished.wait()
    assert (program.code, program.out, program.err) == (0, b"answer\\x1b\n", b"")


@pytest.mark.parametrize("closes", [True, False])
async def test_no_answer_is_a_failure(closes: bool) -> None:
    with RawListener.open() as listener:
        async with running("connect", show(listener.addr), "--one", "--timeout", "0.2") as program:
            with await listener.accept() as peer:
                program.type(b"question\n")
                program.end_input()
                await peer.receive()
                if closes:
                    peer.close()
                await program.finished.wait()
    assert program.code == 1
    await program.shows("^pea2pea: no answer within 0.2 seconds; raise --timeout$", aside=True)


async def test_bytes_that_are_no_frame_are_shown_and_end_the_connection() -> None:
    with RawListener.open() as listener:
        async with running("connect", show(listener.addr), "--frame", "u16") as program:
            with await listener.accept() as peer:
                await peer.send(b"\0\1a\0\5bc")
                peer.close()
                await program.finished.wait()
    await program.shows("  61  a$")
    await program.shows("  00056263  ")
    await program.shows("has ended: .*3 bytes of it are missing", aside=True)
    assert program.code == 1


async def test_what_is_wrong_with_a_codec_is_told_in_one_line(codecs_of_tests: None) -> None:
    with RawListener.open() as listener:
        async with running("connect", show(listener.addr), "--frame", "frames_of_tests:faulty") as program:
            with await listener.accept() as peer:
                await peer.send(b"boom\n")
                await program.finished.wait()
    ended = await program.shows("has ended: KeyError: 'boom' .*frames_of_tests.py:\\d+", aside=True)
    assert "Traceback" not in ended.string
    assert program.code == 1


async def test_a_reset_is_a_failure_of_the_network() -> None:
    with RawListener.open() as listener:
        async with running("connect", show(listener.addr)) as program:
            peer = await listener.accept()
            await peer.send(b"last words\n")
            await program.shows("last words")
            peer.reset()
            await program.finished.wait()
    await program.shows("has ended: Connection reset by peer", aside=True)
    assert program.code == 1


async def test_several_connections_to_one_address() -> None:
    with RawListener.open() as listener:
        async with running("connect", show(listener.addr), show(listener.addr)) as program:
            with await listener.accept() as one, await listener.accept() as two:
                await program.shows("2 127.* is connected", aside=True)
                program.type(b"@2 hello\n")
                assert await two.receive() == b"hello\n"
                one.close()
                await program.shows("1 .* has ended", aside=True)
                assert not program.finished.is_set()
            await program.finished.wait()
    assert program.code == 0


async def test_two_programs() -> None:
    async with running("listen", "[::1]:0") as listener:
        done = await finish("connect", await listener.address(), stdin="grüße\n".encode())
        await listener.shows("grüße")
    assert (done.code, listener.code) == (0, 0)


@pytest.mark.parametrize("columns", [1, 24, 25, 26, 27])
@pytest.mark.parametrize(
    "payload",
    [bytes(99), b"\xf0\x9f" * 50, "é漢😀\0".encode() * 30, "😀".encode() * 6 + b"\xff" * 9, b"\xff" * 6 + b"a" * 90],
)
def test_no_more_is_decoded_than_is_shown(payload: bytes, columns: int) -> None:
    assert fit(text_of(payload, columns), columns) == fit(payload.decode("utf-8", "backslashreplace"), columns)
