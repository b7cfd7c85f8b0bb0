"""The limits hold whatever peers do, and whatever comes in between."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from pea2pea import AlreadyConnectedError, Config, ConnectionLimitError, NodeError, Side, Stats
from pea2pea._address import canonical, group_of
from pea2pea._admission import Admission, ConnectingView, ConnectionsView
from pea2pea._report import Reporter
from pea2pea._session import Session
from pea2pea.stats import Heuristics
from tests.helpers import ALL, MemoryStream, User, memory_pair, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream

    from pea2pea import Address, Connection


HOSTS = [
    "127.0.0.1",
    "203.0.113.1",
    "203.0.113.2",
    "::ffff:203.0.113.1",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8:0:1::1",
    "a name",
]
COUNTS = st.integers(1, 4)


class AnyInterleaving(RuleBasedStateMachine):
    """Reserve, establish and release in any order; nothing else is ever done to the table of connections."""

    setting_up = Bundle("setting_up")
    established = Bundle("established")

    @initialize(
        config=st.builds(
            Config,
            max_connections=st.integers(1, 6),
            max_inbound=st.none() | COUNTS,
            max_connections_per_ip=COUNTS,
            max_connecting=COUNTS,
            ipv6_prefix=st.sampled_from([1, 48, 64, 127, 128]),
        )
    )
    def begin(self, config: Config) -> None:
        self.config = config
        self.admission = Admission(config)
        self.reporter = Reporter("test", Heuristics(), lambda _: None)
        self.sides: dict[Address, Side] = {}  # of what holds a slot

    def reached(self, addr: Address, side: Side) -> set[str]:
        """The limits that a straightforward count finds reached."""
        config, admission = self.config, self.admission
        inbound = side is Side.RESPONDER
        group = group_of(addr[0], config.ipv6_prefix)
        counts = {
            "max_connecting": list(admission.connecting.values()).count(side),
            "max_connections": len(self.sides),
            "max_inbound": sum(other is Side.RESPONDER for other in self.sides.values()) if inbound else 0,
            "max_connections_per_ip": 0
            if group is None
            else sum(group_of(host, config.ipv6_prefix) == group for host, _ in self.sides),
        }
        limits: dict[str, int | None] = {name: getattr(config, name) for name in counts}
        return {name for name, limit in limits.items() if limit is not None and counts[name] >= limit}

    @rule(target=setting_up, host=st.sampled_from(HOSTS), port=st.integers(1, 5), side=st.sampled_from(Side))
    def reserve(self, host: str, port: int, side: Side) -> Address | None:
        addr = canonical((host, port))
        if addr in self.sides:
            with pytest.raises(AlreadyConnectedError):
                self.admission.reserve(addr, side)
            return None
        reached = self.reached(addr, side)
        if reached:
            with pytest.raises(ConnectionLimitError) as caught:
                self.admission.reserve(addr, side)
            assert caught.value.limit in reached
            assert caught.value.limit in str(caught.value)
            return None
        self.admission.reserve(addr, side)
        self.sides[addr] = side
        return addr

    @rule(target=established, addr=consumes(setting_up))
    def establish(self, addr: Address | None) -> Address | None:
        if addr is not None:
            stream, _ = memory_pair()
            of = (addr, self.sides[addr], None)
            session = Session(of, stream, self.reporter, Stats(), copy_context(), {}, grace=1.0)
            self.admission.establish(session)
        return addr

    @rule(addr=consumes(setting_up) | consumes(established))
    def release(self, addr: Address | None) -> None:
        if addr is not None:
            self.admission.release(addr)
            del self.sides[addr]

    @invariant()
    def limits_hold(self) -> None:
        if not hasattr(self, "config"):
            return
        config, admission = self.config, self.admission
        assert {
            **{addr: link.side for addr, link in admission.established.items()},
            **admission.connecting,
        } == self.sides
        assert len(admission.established) + len(admission.connecting) == len(self.sides) <= config.max_connections
        inbound = sum(side is Side.RESPONDER for side in self.sides.values())
        assert config.max_inbound is None or inbound <= config.max_inbound
        for side in Side:
            assert list(admission.connecting.values()).count(side) <= config.max_connecting
        groups = Counter(group_of(host, config.ipv6_prefix) for host, _ in self.sides)
        del groups[None]
        assert max(groups.values(), default=0) <= config.max_connections_per_ip

    @invariant()
    def views_tell_the_same(self) -> None:
        if not hasattr(self, "config"):
            return
        connections, connecting = ConnectionsView(self.admission), ConnectingView(self.admission)
        assert set(connections) == set(self.admission.established)
        assert set(connecting) == set(self.admission.connecting)
        assert len(connections) + len(connecting) == len(self.sides)

    def teardown(self) -> None:
        """What is given back is all there: the counts return to zero, and a fresh crowd fits."""
        if not hasattr(self, "config"):
            return
        for addr in list(self.sides):
            self.admission.release(addr)
        fresh = Admission(self.config)
        for addr in (("203.0.113.9", 1), ("2001:db8:9::", 1), ("127.0.0.1", 1)):
            for side in Side:
                assert self.outcome(self.admission, addr, side) == self.outcome(fresh, addr, side)

    @staticmethod
    def outcome(admission: Admission, addr: Address, side: Side) -> str:
        try:
            admission.reserve(addr, side)
        except NodeError as error:
            return str(error)
        return "admitted"


TestAnyInterleaving = AnyInterleaving.TestCase


async def adopted(user: User, host: str, port: int, side: Side = Side.RESPONDER) -> MemoryStream:
    """Let a peer with that address come in; returns its end, which is closed if it was turned away."""
    ours, theirs = memory_pair()
    with suppress(NodeError):
        await user.node.adopt(ours, (host, port), side)
    return theirs


async def refuse(_: Connection, stream: ByteStream) -> ByteStream:
    raise ValueError("not you")


async def stall(_: Connection, stream: ByteStream) -> ByteStream:
    await anyio.sleep_forever()
    return stream


async def vanish(_: Connection, stream: ByteStream) -> ByteStream:
    await stream.aclose()
    return stream


@pytest.mark.parametrize("shake_hands", [refuse, stall, vanish])
async def test_every_way_a_set_up_fails_gives_its_slot_back(
    shake_hands: Callable[[Connection, ByteStream], Awaitable[ByteStream]],
) -> None:
    """More attempts than there are slots, so that one that was kept would be missed."""
    user = User(
        Config(max_connections=2, max_inbound=1, max_connections_per_ip=1, max_connecting=1, grace_period=0.1),
        enable=ALL - {"handshake"},
    )
    user.node.enable_handshake(user, timeout=0.01)
    user.shake_hands = shake_hands
    async with user.node as node:
        for side in Side:
            for port in range(1, 6):
                end = await adopted(user, "203.0.113.1", port, side)
                await wait_until(lambda: not node.connections and not node.connecting)
                assert (await end.receive() if not end._in.ended else b"") == b""
        user.shake_hands = User().shake_hands
        await adopted(user, "203.0.113.1", 9)
        assert len(node.connections) == 1
