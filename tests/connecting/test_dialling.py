"""A name with several addresses: which of them is dialled when, which one wins, and what becomes of the others."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint

from pea2pea import (
    AlreadyConnectedError,
    Config,
    Connection,
    ConnectionLimitError,
    HandshakeError,
    NodeClosedError,
    NodeError,
    SelfConnectionError,
    TCPTransport,
    _dialling,
)

from ..helpers import LOCALHOST, MemoryStream, RawListener, User, memory_pair, turns, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from anyio.abc import ByteStream

    from pea2pea import Address

NAME = ("some.name", 80)
FIRST, SECOND, THIRD = (("192.0.2.1", 80), ("192.0.2.2", 80), ("192.0.2.3", 80))
LONG = 3600.0
config = partial(Config, grace_period=0)  # the other end of a stream in memory never closes it


class Names(TCPTransport):
    """`NAME` stands for `answers`, and the test says what a dial to one of them does; the rest is really dialled."""

    def __init__(self) -> None:
        self.answers: dict[Address, Callable[[], Awaitable[ByteStream]]] = {}
        self.dialled: list[Address] = []
        self.times: list[float] = []
        self.streams: list[MemoryStream] = []

    @property
    def open_streams(self) -> int:
        return sum(not stream.closed for stream in self.streams)

    async def resolve(self, addr: Address, /) -> Sequence[Address]:
        await checkpoint()
        return list(self.answers) if addr == NAME else await super().resolve(addr)

    async def dial(self, addr: Address, /, *, local_addr: Address | None = None) -> ByteStream:
        self.dialled.append(addr)
        self.times.append(anyio.current_time())
        if addr not in self.answers:
            return await super().dial(addr, local_addr=local_addr)
        return await self.answers[addr]()

    # What an address may do

    async def answer(self) -> ByteStream:
        await checkpoint()
        ours, _ = memory_pair()
        self.streams.append(ours)
        return ours

    async def answer_after(self, event: anyio.Event) -> ByteStream:
        await event.wait()
        return await self.answer()

    async def refuse(self) -> ByteStream:
        await checkpoint()
        raise ConnectionRefusedError("nobody listens there")

    async def keep_silent(self) -> ByteStream:
        await anyio.sleep_forever()
        raise AssertionError


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def _never_two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dialling, "_STAGGER", LONG)


@pytest.fixture
def _all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dialling, "_STAGGER", 0.0)


def idle(names: Names, user: User) -> bool:
    """Whether nothing is left of a dial that has failed."""
    return not user.node.connecting and not user.node.connections and not names.open_streams


# What fails is passed over


@pytest.mark.usefixtures("_never_two_at_once")
@pytest.mark.parametrize("why", ["refused", "connected already", "itself", "handshake", "limit"])
async def test_an_address_that_fails_is_passed_over(names: Names, why: str) -> None:
    """Without a wait: the next address is dialled at once."""
    user = User(config(max_connections_per_ip=1), enable={"handshake"}, transport=names)

    async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
        if why == "handshake" and connection.addr == FIRST:
            raise PermissionError
        return stream

    user.shake_hands = shake_hands
    async with user.node as node:
        names.answers = {FIRST: names.refuse if why == "refused" else names.answer}
        if why == "connected already":
            await node.connect(NAME)
        elif why == "limit":
            names.answers[FIRST[0], 81] = names.answer
            await node.connect((FIRST[0], 81))
        elif why == "itself":
            names.answers = {await node.start_listening(): names.answer}
        names.answers[SECOND] = names.answer
        connection = await node.connect(NAME, timeout=LONG)
        assert (connection.addr, connection.dialled) == (SECOND, NAME)
        assert not node.connecting


@pytest.mark.parametrize("order", [(1, 2), (2, 1), (1, 2, 3), (3, 2, 1), (2, 3, 1)], ids=str)
async def test_if_all_fail_the_last_error_is_raised(names: Names, order: Sequence[int]) -> None:
    user = User(config(), enable=set(), transport=names)
    async with user.node as node:
        itself = await node.start_listening()
        names.answers = {FIRST: names.answer}
        await node.connect(FIRST)
        found: dict[int, tuple[Address, type[Exception]]] = {
            1: (FIRST, AlreadyConnectedError), 2: (SECOND, ConnectionRefusedError), 3: (itself, SelfConnectionError),
        }  # fmt: skip
        names.answers = {found[number][0]: names.refuse for number in order}
        with pytest.raises(found[order[-1]][1]) as caught:
            await node.connect(NAME)
        assert caught.type is found[order[-1]][1]
        assert list(node.connections) == [FIRST]
        assert not node.connecting


@pytest.mark.usefixtures("_never_two_at_once")
async def test_if_all_handshakes_fail_the_last_error_is_raised(names: Names) -> None:
    user = User(config(), enable={"handshake"}, transport=names)

    async def shake_hands(connection: Connection, _: ByteStream) -> ByteStream:
        raise PermissionError(connection.addr[0])

    user.shake_hands = shake_hands
    names.answers = dict.fromkeys([FIRST, SECOND, THIRD], names.answer)
    async with user.node as node:
        with pytest.raises(HandshakeError) as caught:
            await node.connect(NAME)
        assert repr(caught.value.__cause__) == repr(PermissionError(THIRD[0]))
        assert names.dialled == [FIRST, SECOND, THIRD]
        assert idle(names, user)


async def test_a_name_without_an_address_is_an_os_error(names: Names) -> None:
    async with User(config(), transport=names).node as node:
        with pytest.raises(OSError, match=r"'some\.name' has no address"):
            await node.connect(NAME)


async def test_an_address_that_is_found_twice_is_dialled_once(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(_: Address) -> Sequence[Address]:
        return [FIRST, SECOND, FIRST, SECOND]

    monkeypatch.setattr(names, "resolve", resolve)
    names.answers = dict.fromkeys([FIRST, SECOND], names.refuse)
    async with User(config(), transport=names).node as node:
        with pytest.raises(ConnectionRefusedError):
            await node.connect(NAME)
    assert names.dialled == [FIRST, SECOND]


# What does not answer is not waited for


async def test_the_next_address_is_dialled_after_a_quarter_of_a_second(names: Names) -> None:
    """RFC 8305, section 5."""
    user = User(config(), enable=set(), transport=names)
    names.answers = {FIRST: names.keep_silent, SECOND: names.keep_silent, THIRD: names.answer}
    async with user.node as node:
        connection = await node.connect(NAME, timeout=LONG)
        assert connection.addr == THIRD
        assert not node.connecting  # the slots of the others are given back
        assert list(node.connections) == [THIRD]
    assert names.dialled == [FIRST, SECOND, THIRD]
    for earlier, later in zip(names.times, names.times[1:], strict=False):
        assert 0.24 < later - earlier < 2.5


@pytest.mark.usefixtures("_all_at_once")
@pytest.mark.parametrize("winner", [FIRST, SECOND, THIRD], ids=str)
async def test_the_first_to_connect_wins(names: Names, winner: Address) -> None:
    user, go_on = User(config(), enable=set(), transport=names), anyio.Event()
    names.answers = dict.fromkeys([FIRST, SECOND, THIRD], names.keep_silent)
    names.answers[winner] = partial(names.answer_after, go_on)
    async with user.node as node, anyio.create_task_group() as tasks:
        tasks.start_soon(node.connect, NAME)
        await wait_until(lambda: len(names.dialled) == 3)
        assert set(node.connecting) == {FIRST, SECOND, THIRD}
        go_on.set()
        await wait_until(lambda: list(node.connections) == [winner])
        assert not node.connecting
        assert names.open_streams == 1


@pytest.mark.usefixtures("_all_at_once")
@pytest.mark.parametrize("limit", [3, 100])
async def test_of_those_that_connect_at_once_one_is_kept(names: Names, limit: int) -> None:
    user, go_on = User(config(max_connections=limit), enable=set(), transport=names), anyio.Event()
    names.answers = dict.fromkeys([FIRST, SECOND, THIRD], partial(names.answer_after, go_on))
    async with user.node as node, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(node.connect, NAME)
            await wait_until(lambda: len(names.dialled) == 3)
            go_on.set()
            await wait_until(lambda: len(node.connections) == 1)
            assert not node.connecting
            assert names.open_streams == 1
            await node.disconnect(user.only)
            names.dialled.clear()
            go_on = anyio.Event()
            names.answers = dict.fromkeys([FIRST, SECOND, THIRD], partial(names.answer_after, go_on))
        assert idle(names, user)


@pytest.mark.usefixtures("_all_at_once")
async def test_handshake_of_the_winner_fails(names: Names) -> None:
    """If the winner's handshake fails those that were under way are dialled again."""
    user = User(config(), enable={"handshake"}, transport=names)
    names.answers = {FIRST: names.keep_silent, SECOND: names.answer, THIRD: names.keep_silent}

    async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
        if connection.addr == SECOND:
            names.answers[FIRST] = names.answer
            raise PermissionError
        return stream

    user.shake_hands = shake_hands
    async with user.node as node:
        connection = await node.connect(NAME, timeout=LONG)
        assert connection.addr == FIRST
        assert not node.connecting
        assert names.open_streams == 1
    assert names.dialled.count(SECOND) == 1


@pytest.mark.parametrize(
    "limits",
    [
        config(max_connections=1),
        config(max_connecting=1),
        config(max_connections_per_ip=1, ipv6_prefix=32),
        config(max_connections=2, max_connecting=2),
    ],
    ids=["total", "connecting", "per IP", "two"],
)
@pytest.mark.parametrize("behaviour", ["silent", "refuses"])
async def test_a_dial_that_lacks_a_slot_waits_for_those_of_the_same_name(
    names: Names, limits: Config, behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What answers last is reached as well where a limit allows only one dial, or two, at a time."""
    monkeypatch.setattr(_dialling, "_STAGGER", 0.01)
    hosts = [(f"2001:db8::{number}", 80) for number in range(1, 5)]
    user = User(limits, enable=set(), transport=names)
    names.answers = dict.fromkeys(hosts[:-1], names.keep_silent if behaviour == "silent" else names.refuse)
    names.answers[hosts[-1]] = names.answer
    async with user.node as node:
        connection = await node.connect(NAME, timeout=0.05 if behaviour == "silent" else LONG)
        assert connection.addr == hosts[-1]
        assert not node.connecting
    assert names.dialled == hosts


@pytest.mark.usefixtures("_all_at_once")
async def test_a_limit_that_others_have_reached_is_raised_at_once(names: Names) -> None:
    user = User(config(max_connections=1), enable=set(), transport=names)
    names.answers = {THIRD: names.answer}
    async with user.node as node:
        await node.connect(NAME)
        names.answers = dict.fromkeys([FIRST, SECOND], names.answer)
        with pytest.raises(ConnectionLimitError) as caught:
            await node.connect(NAME, timeout=LONG)
        assert caught.value.limit == "max_connections"
        assert not node.connecting


# Timeouts


@pytest.mark.parametrize("given", [None, 0.05])
async def test_a_resolver_that_never_answers_is_bounded_by_the_timeout(
    given: float | None, monkeypatch: pytest.MonkeyPatch, names: Names
) -> None:
    async def resolve(_: Address) -> Sequence[Address]:
        await anyio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(names, "resolve", resolve)
    user = User(config(connection_timeout=LONG if given else 0.05, max_connections=1), enable=set(), transport=names)
    async with user.node as node:
        with pytest.raises(TimeoutError, match=r"'some\.name' was not resolved within 0\.05 s"):
            await node.connect(NAME, timeout=given)
        monkeypatch.undo()
        names.answers = {FIRST: names.answer}
        await node.connect(NAME)


async def test_each_address_has_the_timeout_for_itself(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dialling, "_STAGGER", LONG)
    names.answers = {FIRST: names.keep_silent, SECOND: names.keep_silent, THIRD: names.answer}
    user = User(config(), enable=set(), transport=names)
    async with user.node as node:
        assert (await node.connect(NAME, timeout=0.05)).addr == THIRD
        assert not node.connecting


# Cancelled, and shut down meanwhile


@pytest.mark.usefixtures("_all_at_once")
@pytest.mark.parametrize("end", ["cancelled", "shut down"])
async def test_whenever_it_is_cut_short_nothing_is_left(names: Names, end: str) -> None:
    """At each of the first turns of the event loop, in which it resolves, dials three addresses, and sets two up."""
    established = cut_short = 0
    for after in range(60):
        names.dialled.clear()
        names.answers = {FIRST: names.refuse, SECOND: names.answer, THIRD: names.answer}
        user, ends = User(config(), enable={"handshake"}, transport=names), anyio.Event()

        async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
            await turns(3)
            if names.dialled.count(connection.addr) < 2 and connection.addr == SECOND:
                raise PermissionError
            return stream

        async def call(user: User = user, ends: anyio.Event = ends) -> None:
            with suppress(NodeClosedError):
                try:
                    await user.node.connect(NAME)
                finally:
                    ends.set()

        user.shake_hands = shake_hands
        async with user.node as node:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                await turns(after)
                if end == "cancelled":
                    tasks.cancel_scope.cancel()
                else:
                    await node.shut_down()
            assert ends.is_set() or not names.dialled
            assert not node.connecting
            assert names.open_streams == len(node.connections)
            established += bool(node.connections)
            cut_short += not node.connections
            if end == "cancelled" and not node.connections:  # the next call works
                await node.connect(NAME)
    assert cut_short > 5
    assert established > 5 or end == "shut down"
    assert not names.open_streams


@pytest.mark.parametrize("when", ["resolving", "dialling", "dialling two", "shaking hands"])
async def test_a_shutdown_ends_it_and_no_other_address_is_dialled(
    names: Names, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dialling, "_STAGGER", 0.0 if when == "dialling two" else LONG)
    user, raised = User(config(), enable={"handshake"}, transport=names), []
    resolving = anyio.Event()

    async def resolve(_: Address) -> Sequence[Address]:
        resolving.set()
        if when == "resolving":
            await anyio.sleep_forever()
        return [FIRST, SECOND]

    async def shake_hands(_: Connection, stream: ByteStream) -> ByteStream:
        await anyio.sleep_forever()
        return stream

    async def call() -> None:
        with pytest.raises(NodeClosedError) as caught:
            await user.node.connect(NAME, timeout=LONG)
        raised.append(caught.type)

    monkeypatch.setattr(names, "resolve", resolve)
    user.shake_hands = shake_hands
    names.answers = dict.fromkeys([FIRST, SECOND], names.answer if when == "shaking hands" else names.keep_silent)
    expected = {"resolving": [], "dialling": [FIRST], "dialling two": [FIRST, SECOND], "shaking hands": [FIRST]}[when]
    async with user.node as node, anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await resolving.wait()
        await wait_until(lambda: names.dialled == expected and bool(user.shaken) is (when == "shaking hands"))
        await node.shut_down()
    assert raised == [NodeClosedError]
    assert names.dialled == expected
    assert idle(names, user)


# With real sockets


async def test_a_name_of_which_one_address_listens_is_connected(names: Names) -> None:
    """The others refuse; a kernel that completes no dial is as silent as a host that is not there."""
    with RawListener.open(backlog=0) as full, RawListener.open() as listener:
        hoard = []
        for _ in range(3):  # fill its backlog: from now on it answers no dial
            with suppress(TimeoutError):
                with anyio.fail_after(0.1):
                    hoard.append(await TCPTransport().dial(full.addr))
        closed = (LOCALHOST, 1)

        async def resolve(_: Address) -> Sequence[Address]:
            return [closed, full.addr, listener.addr]

        names.resolve = resolve  # type: ignore[method-assign]  # it is only called
        async with User(config(), enable=set(), transport=names).node as node:
            connection = await node.connect(NAME, timeout=LONG)
            assert connection.addr == listener.addr
            assert not node.connecting
        for stream in hoard:
            await stream.aclose()


async def test_the_errors_of_a_dial_are_those_of_the_transport(names: Names) -> None:
    """A bug of the transport's at one address does not keep the others from being dialled."""

    async def crash() -> ByteStream:
        raise ZeroDivisionError

    names.answers = {FIRST: crash, SECOND: names.answer}
    user = User(config(), enable=set(), transport=names)
    async with user.node as node:
        assert (await node.connect(NAME)).addr == SECOND
        names.answers = dict.fromkeys([FIRST, THIRD], crash)
        with pytest.raises(ZeroDivisionError):
            await node.connect(NAME)
        with pytest.raises(ZeroDivisionError):
            await node.connect(FIRST)
        assert not node.connecting
        with suppress(NodeError):
            await node.disconnect(SECOND)
