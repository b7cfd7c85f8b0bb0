"""What a peer may send to the examples, of which people make their own programs: nothing is logged as a bug of theirs,
nothing raw reaches the screen, and nothing that a peer makes a node hold is without a bound or stays for ever.
"""

from __future__ import annotations

import json
import socket
import tracemalloc
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

import anyio
import dining_philosophers
import fixed_length
import gossip
import hello as hello_program
import hole_punching
import hot_potato
import json_messages
import kademlia
import lan_discovery
import last_words
import one_connection_per_peer
import pytest
import rate_limit
import telephone
from anyio.lowlevel import checkpoint

from _common import shown
from pea2pea import Config, HandshakeError, Node, NodeError, NotConnectedError, Side
from pea2pea.testing import wait_until
from rpc import JSON, Rpc
from tests.helpers import LOCALHOST, RawListener, RawPeer, above_info, memory_pair

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from pea2pea import Address, Connection

ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202e"
RNG = Random(1)


async def send_and_leave(node: Node, data: bytes, *, first: bytes = b"") -> bytes:
    """Let a plain peer send its part of the handshake and the data, and end its stream; returns what it was sent."""
    addr = node.listening_addr or await node.start_listening()
    with await RawPeer.dial(addr) as peer:
        answer = bytearray()
        with suppress(ConnectionError):  # it was left in the middle of it
            await peer.send(first + data)
            peer.half_close()
            while part := await peer.receive():
                answer += part
        await wait_until(lambda: not node.connections and not node.connecting)
    return bytes(answer)


def assert_no_bug(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    assert node.heuristics.hook_errors == 0
    assert [record.getMessage() for record in above_info(caplog)] == []


def assert_clean(capsys: pytest.CaptureFixture[str], *, holds: str = "") -> None:
    """What was printed can be printed, and holds a text."""
    printed = capsys.readouterr().out
    assert holds in printed
    assert [line for line in printed.split("\n") if not line.isprintable()] == []
    assert max(map(len, printed.split("\n"))) < 600


@pytest.mark.parametrize(
    ("text", "screen"),
    [
        ("plain text, ü and 漢", "plain text, ü and 漢"),
        (ESCAPES, r"\x1b]0;owned\x07\x1b[2J\u202e"),
        ("\ud800\n\u2028", r"\ud800\n\u2028"),
        ("x" * 201, "x" * 197 + "..."),
        ("\x00" * 201, r"\x00" * 49 + r"\..."),
        (ValueError("\r"), r"\r"),
    ],
)
def test_text_is_escaped_and_cut(text: object, screen: str) -> None:
    assert shown(text) == screen


# ---- json_messages.py

JOIN, PASS = b'{"type": "Join", "name": "Eve"}\n', b'{"type": "Pass", "reason": "why not"}\n'
BID = b'{"type": "Bid", "amount": 50}\n'


@pytest.mark.parametrize(
    "lines",
    [
        BID,
        PASS,
        JOIN + JOIN,
        JOIN + PASS + BID,
        JOIN + PASS + PASS,
        b"1\n",
        b"[]\n",
        b"null\n",
        b'{"type": []}\n',
        b'{"type": {"Bid": 1}, "amount": 50}\n',
        b'{"type": "Bid", "amount": true}\n',
        b'{"type": "Bid", "amount": ' + b"9" * 900 + b"}\n",
        JOIN + b'{"type": "Bid", "amount": ' + b"9" * 900 + b"}\n",
        b"[" * 1000 + b"\n",
    ],
)
async def test_json_no_message_is_the_auctioneers_bug(
    lines: bytes, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    auctioneer = json_messages.Auctioneer(3)
    async with auctioneer.node as node:
        await send_and_leave(node, lines)
        assert not auctioneer.bidders
        assert auctioneer.best.amount == 10 or lines.startswith(JOIN)
    assert_no_bug(node, caplog)
    assert_clean(capsys)


@pytest.mark.parametrize(
    "lines",
    [
        [{"type": "Join", "name": ESCAPES}, {"type": "Bid", "amount": 50}],
        [{"type": "Join", "name": "Eve"}, {"type": "Pass", "reason": ESCAPES * 10}],
        [{"type": ESCAPES}],
    ],
)
async def test_json_what_a_bidder_says_is_escaped(
    lines: list[dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    async with json_messages.Auctioneer(1).node as node:
        await send_and_leave(node, "".join(f"{json.dumps(line)}\n" for line in lines).encode())
    assert_clean(capsys, holds=r"x1b")


async def test_json_a_bidder_that_leaves_does_not_hold_up_the_auction() -> None:
    auctioneer, bidder = json_messages.Auctioneer(2), json_messages.Bidder("Alice", 60)
    async with auctioneer.node as node, bidder.node:
        connection = await bidder.node.connect(await node.start_listening())
        await bidder.outbox.send(connection, json_messages.Join("Alice"))
        await wait_until(lambda: auctioneer.bidders)
        await send_and_stay_away(node, JOIN)
        with anyio.fail_after(10):
            await bidder.told.wait()
        assert not auctioneer.bidders


async def send_and_stay_away(node: Node, data: bytes) -> None:
    """Let a plain peer send the data, and reset the connection once it is answered."""
    assert node.listening_addr is not None
    with await RawPeer.dial(node.listening_addr) as peer:
        await peer.send(data)
        assert await peer.receive()
        peer.reset()


# ---- rpc.py


async def echo(_caller: Connection, argument: JSON) -> JSON:
    return argument


async def name(_caller: Connection, _argument: JSON) -> JSON:
    return "Alice"


def new_rpc() -> tuple[Node, Rpc]:
    node = Node(Config())
    rpc = Rpc(node)
    rpc.methods.update(echo=echo, name=name)
    return node, rpc


def calls(count: int, method: str, argument: object = None) -> bytes:
    return b"".join(
        json.dumps({"call": number, "method": method, "argument": argument}, ensure_ascii=False).encode() + b"\n"
        for number in range(count)
    )


async def answers(node: Node, data: bytes) -> list[object]:
    """What a plain peer is answered until it has the answer to one more call, or the node ends the connection."""
    received = b""
    with await RawPeer.dial(await node.start_listening()) as peer, suppress(ConnectionError):  # it is left meanwhile
        await peer.send(data + b'{"call": 99, "method": "name", "argument": null}\n')
        while b'"answer": 99' not in received and (part := await peer.receive()):
            received += part
    await wait_until(lambda: not node.connections)
    return [json.loads(line) for line in received.splitlines()]


@pytest.mark.parametrize("method", ["name", "none"])
async def test_rpc_a_peer_that_calls_and_never_reads_is_bounded(method: str) -> None:
    node, _ = new_rpc()
    ours, theirs = memory_pair(4096)  # a socket holds megabytes
    async with node:
        before = len(anyio.get_running_tasks())
        await node.adopt(theirs, ("caller", 1), Side.RESPONDER)
        with anyio.move_on_after(20):
            await ours.send(calls(4000, method))
        most = len(anyio.get_running_tasks()) - before
        assert node.stats.messages_received > 1024 + 64
        await ours.aclose()
    assert most < 64 + 10  # and some of the connection's own


@pytest.mark.parametrize(
    "lines",
    [
        calls(1, "echo", "é" * 30_000),
        calls(1, "😀" * 15_000),
        *(calls(1, "\x01" * count) for count in (9_000, 50_000)),
        calls(1, "echo", "\ud800".encode("utf-8", "surrogatepass").decode(errors="replace")),
        *(calls(1, "echo").replace(b"null", b"[" * depth + b"]" * depth) for depth in (100, 900, 960, 980, 30_000)),
        b'{"call": 1, "method": "echo", "argument": "\\ud800"}\n',
        b'{"call": 1, "method": "echo", "argument": NaN}\n',
        b'{"call": true, "method": [], "argument": NaN}\n',
        b'{"answer": 1, "result": null, "error": null}\n',
        b"1\n[]\n",
    ],
    ids=lambda lines: lines[:40].decode(errors="replace"),
)
async def test_rpc_no_call_is_the_callees_bug(lines: bytes, caplog: pytest.LogCaptureFixture) -> None:
    node, _ = new_rpc()
    async with node:
        await answers(node, lines)
    assert_no_bug(node, caplog)


async def test_rpc_unsendable_answer() -> None:
    """Rpc an answer that cannot be sent is an error at the caller."""
    node, _ = new_rpc()
    async with node:
        answer = {"answer": 0, "result": None, "error": "the answer is too long"}
        assert answer in await answers(node, calls(1, "echo", "é" * 30_000))


# ---- kademlia.py


def hello(port: int = 9, number: int = 0x55) -> bytes:
    return kademlia.HELLO.pack(number.to_bytes(kademlia.ID_BYTES, "big"), port)


def call(method: str, argument: object) -> bytes:
    return json.dumps({"call": 1, "method": method, "argument": argument}).encode() + b"\n"


@pytest.mark.parametrize(("method", "digits"), [("find", 8_000_000), ("get", 60_000), ("find", 41)])
async def test_kademlia_a_long_key_takes_no_memory(method: str, digits: int, caplog: pytest.LogCaptureFixture) -> None:
    peer = kademlia.Peer(12345)
    for bit in range(100):
        for low in range(4):
            peer.buckets.see(kademlia.Contact(12345 ^ (1 << bit) ^ low % (1 << bit), (LOCALHOST, 9)))
    message = call(method, "f" * digits)
    async with peer.node as node:
        await node.start_listening()
        tracemalloc.start()
        try:
            answer = await send_and_leave(node, message, first=hello())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak - len(message) < 2_000_000
    assert digits > 1000 or b"this is no key" in answer
    assert_no_bug(node, caplog)


class Liar:
    """Answers what it likes to whoever looks something up."""

    def __init__(self, port: int, answer: object) -> None:
        self.port = port
        self.answer = answer
        self.questions = 0

    async def serve(self, listener: RawListener) -> None:
        async with anyio.create_task_group() as tasks:
            while True:
                tasks.start_soon(self.talk, await listener.accept())

    async def talk(self, peer: RawPeer) -> None:
        with peer, suppress(ConnectionResetError):
            await peer.send(hello(self.port))
            await peer.receive_exactly(kademlia.HELLO.size)
            received = b""
            while data := await peer.receive():
                *lines, received = (received + data).split(b"\n")
                for line in lines:
                    self.questions += 1
                    await peer.send(self.reply(json.loads(line)))

    def reply(self, question: dict[str, object]) -> bytes:
        answer = {"answer": question.get("call", 0), "result": self.answer, "error": None}
        return json.dumps(answer).encode() + b"\n"


@pytest.mark.parametrize(
    "answer",
    [
        [["1", "fe80::1%" + "x" * 100, 9]],
        [["1", "fe80::1%" + "x" * 100_000, 9]],
        [["1", "fe80::1%eth0", 9]],
        [["1", "fe80::1%1", 9]],
        [["1", "0.0.0.0", 9]],  # noqa: S104  # nothing is bound to it
        [["1", "::", 9]],
        [["1", "224.0.0.1", 9]],
        [["1", "x" * 5000, 9]],
        [["1", "127.0.0.1", 0]],
        [["f" * 10_000, "127.0.0.1", 9]],
        [["", "127.0.0.1", 9]],
        [[1, 2, 3]],
        {"a": 1},
        True,
        "a text that nobody has asked for",
    ],
    ids=lambda answer: str(answer)[:30],
)
async def test_kademlia_no_contact_crashes_who_joins(answer: object, caplog: pytest.LogCaptureFixture) -> None:
    peer = kademlia.Peer(12345)
    with RawListener.open() as listener:
        liar = Liar(listener.addr[1], answer)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(liar.serve, listener)
            async with peer.node as node:
                await node.start_listening()
                with anyio.fail_after(30):
                    await peer.join(listener.addr)
            tasks.cancel_scope.cancel()
    assert liar.questions
    assert [contact for contact in peer.buckets if contact.addr != listener.addr] == []
    assert_no_bug(node, caplog)


def test_kademlia_a_lookup_ends_whoever_is_said_to_be_closer() -> None:
    lookup = kademlia.Lookup(0, [kademlia.Contact(2**159, (LOCALHOST, 1))], but=1)
    number = 2**159
    while batch := lookup.next_batch():
        for contact in batch:
            number -= 1
            lookup.note(contact, [[f"{number:x}", LOCALHOST, 9]])
        assert lookup.rounds <= 40
    assert lookup.rounds == kademlia.MAX_ROUNDS


async def test_kademlia_a_value_expires(caplog: pytest.LogCaptureFixture) -> None:
    values = kademlia.Values(0)
    values.store("short", 0.01)
    values.store("long", 1e300)
    key = kademlia.key_of("short")
    await wait_until(lambda: values.get(key) is None)
    assert values.remaining() == {kademlia.key_of("long"): ("long", kademlia.EXPIRY)}
    values.store("long", 1)  # which does not shorten it
    assert values.remaining() == {kademlia.key_of("long"): ("long", kademlia.EXPIRY)}


async def test_kademlia_a_full_node_keeps_what_is_closest_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kademlia, "MAX_VALUES", 10)
    values = kademlia.Values(12345)
    texts = [f"text {number}" for number in range(50)]
    for text in texts:
        values.store(text, 100)
        assert len(values) <= 10
    closest = sorted(texts, key=lambda text: kademlia.key_of(text) ^ 12345)[:10]
    assert {text for text, _ in values.remaining().values()} == set(closest)


@pytest.mark.parametrize(
    "argument",
    ["text", ["text"], ["text", 0], ["text", -1], ["text", None], ["x" * 1001, 9], [["text"], 9], None, 1, {}],
)
async def test_kademlia_nonsense_is_not_stored(argument: object, caplog: pytest.LogCaptureFixture) -> None:
    peer = kademlia.Peer(12345)
    async with peer.node as node:
        assert b"this is not stored here" in await send_and_leave(node, call("store", argument), first=hello())
        assert not len(peer.values)
    assert_no_bug(node, caplog)


async def test_kademlia_a_peer_that_does_not_listen_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    peer = kademlia.Peer(12345)
    async with peer.node as node:
        await send_and_leave(node, call("ping", None) * 3, first=hello(port=0))
        assert node.heuristics.handshake_failures == 1
        assert not list(peer.buckets)
    assert_no_bug(node, caplog)


async def test_kademlia_dead_contact() -> None:
    """The contact that it claims to be can be dialled by nobody; each ping makes it new."""
    peer = kademlia.Peer(12345)
    with RawListener.open() as listener:
        async with peer.node as node:
            for number in range(200):
                peer.values.store(f"text {number}", 100)
            await send_and_leave(node, call("ping", None) * 20, first=hello(listener.addr[1]))
            dials = 0
            with anyio.move_on_after(0.5):  # no condition: there must be no more than the first
                while True:
                    (await listener.accept()).reset()
                    dials += 1
    assert dials <= 2


# ---- hole_punching.py


@pytest.mark.parametrize("chunks", [[b"eve\neve 2\n"], [b"eve\n", b"eve\n", b"\n"]])
async def test_hole_punching_nobody_is_introduced_to_itself(
    chunks: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    rendezvous = hole_punching.Rendezvous()
    async with rendezvous.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            for count, chunk in enumerate(chunks, start=1):
                await peer.send(chunk)
                await wait_until(lambda count=count: node.stats.messages_received >= count)  # type: ignore[misc]  # mypy does not infer a lambda's default
            peer.half_close()
            assert await peer.receive_all() == b""
        await wait_until(lambda: not node.connections)
        assert not rendezvous.waiting
    assert capsys.readouterr().out == ""


async def test_hole_punching_what_peers_call_themselves_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    async with hole_punching.Rendezvous().node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as one, await RawPeer.dial(addr) as other:
            for peer in (one, other):
                await peer.send(f"{ESCAPES}\n".encode())
            host, port = (await one.receive()).split()
            assert (host.decode(), int(port)) == other.addr
    assert_clean(capsys, holds="x1b")


@pytest.mark.parametrize(
    "line", [b"nonsense", b"", b"127.0.0.1 0", b"127.0.0.1 x", b"host 80", b"1.2.3.4 99999", b"\x1b[2J 1", b"1 2 3"]
)
async def test_hole_punching_what_a_server_answers_is_no_bug(
    line: bytes, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = hole_punching.Peer("victim")
    with RawListener.open() as listener:
        async with peer.node as node:
            peer.rendezvous = await node.connect(listener.addr)
            with await listener.accept() as server:
                await server.send(line + b"\n")
                assert await server.receive_all() == b""
            assert not peer.introduced.is_set()
    assert_no_bug(node, caplog)
    assert_clean(capsys, holds="the server answers")


# ---- lan_discovery.py and one_connection_per_peer.py


async def test_lan_forged_beacons_make_few_dials() -> None:
    neighbour = lan_discovery.Neighbour()
    neighbour.name = "0" * lan_discovery.NAME_LENGTH
    accepted = 0
    with (
        RawListener.open() as victim,
        lan_discovery.beacon_socket("127.255.255.255", 0) as beacons,
        socket.socket(type=socket.SOCK_DGRAM) as forger,
    ):
        target = beacons.getsockname()
        forger.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        forger.bind((LOCALHOST, 0))
        async with neighbour.node as node:
            node.start_soon(neighbour.discover, beacons)
            await wait_until(lambda: node.listening_addr)
            with anyio.move_on_after(20) as scope:
                for number in range(1, 301):
                    forger.sendto(b"pea2pea-lan %08x %d" % (number, victim.addr[1]), target)
                    await checkpoint()
                    with anyio.move_on_after(0.001):
                        (await victim.accept()).reset()
                        accepted += 1
            assert not scope.cancelled_caught
            assert len(neighbour.dialling) <= 1
    assert 0 < accepted < 30


@pytest.mark.parametrize("name", [b"\x1b[2Jabcd", b"ABCDEFGH", b"\xff" * 8, b"0000000\n"])
async def test_lan_a_name_is_a_name(name: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    neighbour = lan_discovery.Neighbour()
    async with neighbour.node as node:
        await send_and_leave(node, name)
        assert node.heuristics.handshake_failures == 1
        assert not neighbour.peers
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("hangs", [False, True], ids=["fails", "is cancelled"])
@pytest.mark.parametrize("who", ["neighbour", "member with the lesser id", "member with the greater id"])
async def test_a_connection_that_came_to_nothing_is_forgotten(
    who: str, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handshake has more to do than that of the example, and comes to nothing."""
    ours: lan_discovery.Neighbour | one_connection_per_peer.Member
    theirs: lan_discovery.Neighbour | one_connection_per_peer.Member
    if who == "neighbour":
        ours, theirs = lan_discovery.Neighbour(), lan_discovery.Neighbour()
    else:
        ours, theirs = one_connection_per_peer.Member("ours"), one_connection_per_peer.Member("theirs")
        if (ours.id > theirs.id) != (who == "member with the greater id"):
            ours.id, theirs.id = theirs.id, ours.id
    first_part, reached = ours.perform_handshake, anyio.Event()

    async def perform_handshake(connection: Connection, stream: ByteStream) -> ByteStream:
        await first_part(connection, stream)
        reached.set()
        if hangs:
            await anyio.sleep_forever()
        raise ValueError("no")

    monkeypatch.setattr(ours, "perform_handshake", perform_handshake)
    async with ours.node, theirs.node:
        addr = await theirs.node.start_listening()
        async with anyio.create_task_group() as tasks:

            async def dial() -> None:
                with suppress(NodeError):
                    await ours.node.connect(addr)

            tasks.start_soon(dial)
            with anyio.fail_after(10):
                await reached.wait()
            if hangs:
                assert ours.peers
                tasks.cancel_scope.cancel()
        await wait_until(lambda: not ours.peers and not theirs.peers)


# ---- The games


@pytest.mark.parametrize(
    ("names", "is_refused"), [(b"Eve     ", True), (b"\x1b[2J    ", True), (b"Anna    ", True), (b"Bert    ", False)]
)
async def test_hot_potato_players_are_who_they_can_be(names: bytes, is_refused: bool) -> None:
    player = hot_potato.Player("Anna", 50, RNG)
    async with player.node as node:
        await send_and_leave(node, b"", first=names)
        assert node.heuristics.handshake_failures == is_refused
        assert player.others == []


@pytest.mark.parametrize(
    "lines",
    [
        b"1 \x1b[2J\n",
        b"1 Eve\n",
        b"0 Anna\n",
        b"-1 Anna\n",
        b"9" * 80 + b" Anna\n",
        b"1\n",
        b"x Anna\n",
        b"1 Anna Bert\n",
    ],
)
async def test_hot_potato_no_throw_is_a_bug(
    lines: bytes, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    player = hot_potato.Player("Anna", 50, RNG)
    async with player.node as node:
        await send_and_leave(node, lines, first=b"Bert    ")
        assert node.heuristics.decode_errors == 1
        assert player.catches == 0
    assert_no_bug(node, caplog)
    assert_clean(capsys)


async def test_hot_potato_a_throw_is_caught_once() -> None:
    player = hot_potato.Player("Anna", 50, RNG)
    async with player.node as node:
        answer = await send_and_leave(node, b"1 Anna\n" * 100, first=b"Bert    ")
    assert player.catches == 1
    assert answer == b"Anna    2 Bert\n"


@pytest.mark.parametrize("line", [f"{ESCAPES}\n".encode(), b"x" * 1000 + b"\n"])
async def test_last_words_and_names_are_escaped(line: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    noble = last_words.Noble("The King", "no")
    async with noble.node as node:
        await send_and_leave(node, line, first=b"\x1b[2J".ljust(16))
        assert noble.peers == {}
    assert_clean(capsys, holds=r"\x1b[2J part: READING")


async def test_last_words_nobody_takes_a_name_that_is_taken() -> None:
    noble = last_words.Noble("The King", "no")
    async with noble.node as node:
        with await RawPeer.dial(await node.start_listening()) as regan:
            await regan.send(b"Regan".ljust(16))
            await wait_until(lambda: "Regan" in noble.peers)
            connection = noble.peers["Regan"]
            assert node.listening_addr is not None
            with await RawPeer.dial(node.listening_addr) as other:
                await other.send(b"Regan".ljust(16))
                await wait_until(lambda: node.heuristics.handshake_failures == 1)
            assert noble.peers == {"Regan": connection}


@pytest.mark.parametrize("line", [b"\n", f"{ESCAPES}\n".encode(), b"\r\r\n", "é".encode() * 512 + b"\n"])
async def test_telephone_nothing_that_is_whispered_is_a_bug(
    line: bytes, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        player = telephone.Player(1, Random(seed))
        async with player.node as node:
            await send_and_leave(node, line)
            assert player.understood is not None
        assert_no_bug(node, caplog)
    assert_clean(capsys, holds="understands")


@pytest.mark.parametrize("number", [65_535, 2, 0])
async def test_fixed_length_a_shot_out_of_turn_is_not_answered(number: int, caplog: pytest.LogCaptureFixture) -> None:
    champion, cheat = fixed_length.Champion("champion", RNG), fixed_length.Duellist("cheat", RNG)
    async with champion.node, cheat.node:
        connection = await cheat.node.connect(await champion.node.start_listening())
        await cheat.outbox.send(connection, fixed_length.Shot(number, 1000, 1000))
        with anyio.fail_after(10):
            await champion.is_over.wait()
        assert champion.node.stats.messages_sent == 0
    assert_no_bug(champion.node, caplog)


async def test_gossip_a_neighbour_that_is_just_leaving_is_passed_over() -> None:
    node = gossip.Gossip("node", RNG)
    ours, theirs = memory_pair(64)  # its rest is still being flushed when the rumour comes
    async with node.node, anyio.create_task_group() as tasks:
        leaving = await node.node.adopt(theirs, ("neighbour", 1), Side.RESPONDER)
        node.fanout = 1
        node.tell(gossip.Rumour(1, 0, "x" * 1000))
        tasks.start_soon(node.node.disconnect, leaving)

        def takes_no_more() -> bool:
            try:
                return node.outbox.pending(leaving) < 0
            except NotConnectedError:
                return True

        await wait_until(takes_no_more)
        assert leaving in node.node.connections.values()
        node.tell(gossip.Rumour(2, 0, "y"))
        assert node.sent == 1
        await ours.aclose()


PLEASE, HERE = (f"{message.value}\n".encode() for message in dining_philosophers.Message)


@pytest.mark.parametrize("lines", [PLEASE + PLEASE, HERE, PLEASE + HERE + HERE, PLEASE * 100])
async def test_dining_philosophers_know_where_the_fork_is(lines: bytes, caplog: pytest.LogCaptureFixture) -> None:
    philosopher = dining_philosophers.Philosopher(0, RNG)
    async with philosopher.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"\x01" + lines)
            assert await peer.receive_all() == b"\x00" + (HERE if lines.startswith(PLEASE) else b"")
        await wait_until(lambda: not node.connections)
        assert not philosopher.forks
    assert_no_bug(node, caplog)


async def test_dining_philosophers_leave_who_does_not_listen(caplog: pytest.LogCaptureFixture) -> None:
    philosopher = dining_philosophers.Philosopher(0, RNG)
    ours, theirs = memory_pair(64)
    async with philosopher.node as node:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ours.send, b"\x01")
            connection = await node.adopt(theirs, ("neighbour", 1), Side.RESPONDER)
        for _ in range(1100):
            philosopher.say(connection, dining_philosophers.Message.PLEASE)
        with anyio.fail_after(10):
            await connection.wait_closed()
        await ours.aclose()
    assert_no_bug(node, caplog)


@pytest.mark.parametrize("seat", [0, 2, 3, 255])
async def test_dining_philosophers_share_forks_with_neighbours_only(seat: int) -> None:
    philosopher = dining_philosophers.Philosopher(0, RNG)
    async with philosopher.node as node:
        await send_and_leave(node, PLEASE, first=bytes([seat]))
        assert node.heuristics.handshake_failures == 1


# ---- rate_limit.py


async def test_rate_limit_extent_of_a_ban() -> None:
    """Rate limit a ban is for a network and does not stay for ever."""
    server = rate_limit.Server()
    others: list[ByteStream] = []
    network = "2001:db8::/64"
    async with server.node as node:

        async def adopt(addr: Address) -> Connection:
            ours, theirs = memory_pair()
            others.append(ours)
            return await node.adopt(theirs, addr, Side.RESPONDER)

        connection = await adopt(("2001:db8::1", 1))
        assert rate_limit.host_of(connection) == network
        server.banned["gone"] = anyio.current_time() - 1
        server.buckets[network] = rate_limit.Bucket()
        server.ban(network)
        assert list(server.banned) == [network]
        for host in ("2001:db8::1", "2001:db8::ffff:2"):
            with pytest.raises(HandshakeError):
                await adopt((host, 2))
        await adopt(("2001:db8:0:1::1", 1))
        await server.drop(network)
        assert list(node.connections) == [("2001:db8:0:1::1", 1)]
        for other in others:
            await other.aclose()


# ---- What needs more than the library


async def test_embedded_a_letter_may_be_addressed_by_a_host_name() -> None:
    pytest.importorskip("fastapi", reason="the examples' dependencies are not installed")
    pytest.importorskip("httpx", reason="the examples' dependencies are not installed")
    from embedded import application, browser  # noqa: PLC0415  # it needs these

    async with browser(application()) as here, browser(application()) as there:
        _, port = (await there.get("/address")).json()
        statuses: list[int] = []

        async def post(host: str) -> None:
            letter = {"to": [host, port], "text": f"to {host}"}
            statuses.append((await here.post("/letters", json=letter)).status_code)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(post, "localhost")
        for host in ("localhost", LOCALHOST, "::ffff:127.0.0.1", "localhost"):
            await post(host)
        assert statuses == [200] * 7
        letters: list[str] = []
        with anyio.fail_after(10):
            while len(letters) < 7:
                await anyio.sleep(0.01)  # `wait_until` cannot ask for it: only an answer to a request tells
                letters = (await there.get("/letters")).json()
        assert sorted(letters) == ["to 127.0.0.1", "to ::ffff:127.0.0.1", *["to localhost"] * 5]
        await post("host.invalid")
        assert statuses[7:] == [502]


@pytest.mark.parametrize("name", ["127.0.0.1", "2001:db8::/32"])
async def test_tls_a_certificate_without_a_name_is_no_bug(
    name: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    trustme = pytest.importorskip("trustme", reason="the examples' dependencies are not installed")
    from tls import Peer, mutual_tls  # noqa: PLC0415  # it needs this

    authority = trustme.CA()
    alice = Peer("alice", mutual_tls(authority, authority.issue_cert("alice.example")))
    nameless = Peer("nameless", mutual_tls(authority, authority.issue_cert(name)))
    async with alice.node, nameless.node:
        await alice.node.start_listening()
        connection = await nameless.node.connect(("alice.example", alice.port))
        await nameless.outbox.send(connection, "it is me")
        with anyio.fail_after(10):
            await alice.heard.wait()
    assert_no_bug(alice.node, caplog)
    assert_clean(capsys, holds="somebody without a name say")


async def test_noise_what_a_friend_says_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("noise", reason="the examples' dependencies are not installed")
    from examples.noise import Friend  # noqa: PLC0415  # it needs this

    alice, bob = Friend("Alice"), Friend("Bob")
    alice.meet(bob)
    bob.meet(alice)
    async with alice.node, bob.node:
        connection = await bob.node.connect(await alice.node.start_listening())
        await bob.outbox.send(connection, ESCAPES * 50)
        await alice.heard.wait()
    assert_clean(capsys, holds=r"\x1b[2J")


def prefixed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 48, 96, 65_535])
async def test_noise_no_first_message_is_a_bug(size: int, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("noise", reason="the examples' dependencies are not installed")
    from examples.noise import Friend  # noqa: PLC0415  # it needs this

    async with Friend("Alice").node as node:
        for message in (bytes(size), b"\xff" * size, RNG.randbytes(size)):
            await send_and_leave(node, prefixed(message, bytes(64), message))
        assert node.heuristics.handshake_failures == 3
    assert_no_bug(node, caplog)


async def test_libp2p_what_a_peer_calls_itself_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("noise", reason="the examples' dependencies are not installed")
    from examples.libp2p import IDENTIFY_ID, Host, Session, protobuf, uvarint, visit  # noqa: PLC0415  # it needs this

    host, visitor = Host(), Host()

    async def identify(_session: Session, stream: ByteStream) -> None:
        message = protobuf((1, host._identity_key), (3, ESCAPES.encode()), (6, ESCAPES.encode() * 20))
        await stream.send(uvarint(len(message)) + message)

    host.handlers[IDENTIFY_ID] = identify
    async with host.node, visitor.node:
        await visit(visitor, await host.listen())
    assert_clean(capsys, holds=r"\x1b[2J")


# ---- hello.py


@pytest.mark.parametrize(
    ("first", "is_refused"),
    [
        (b"Eve\n", False),
        (f"{ESCAPES}\n".encode(), True),
        (b"\xff\n", True),
        (b"E" * 33 + b"\n", True),
        (b"\x00\n", True),
        (b"", True),
    ],
)
async def test_hello_a_name_is_a_name(
    first: bytes, is_refused: bool, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    bob = hello_program.Greeter("Bob")
    async with bob.node as node:
        answer = await send_and_leave(node, f"hi {ESCAPES}\n".encode(), first=first)
        assert answer.split(b"\n")[:2] == ([b"Bob", b""] if is_refused else [b"Bob", b"welcome"])
        assert_no_bug(node, caplog)
    assert_clean(capsys, holds="" if is_refused else "Bob: Eve is gone (READING)")
