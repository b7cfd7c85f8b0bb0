"""The shapes, and nodes that are connected along them."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from pea2pea import Config, Node, Side, topology
from pea2pea.testing import wait_until

from ..helpers import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from anyio.abc import ByteStream

    from pea2pea import Connection

Edges: TypeAlias = list[tuple[int, int]]
counts = st.integers(2, 40)


def degrees(edges: Edges, n: int) -> list[int]:
    count = Counter(end for edge in edges for end in edge)
    return [count[i] for i in range(n)]


def simple(edges: Edges) -> bool:
    """No edge is there twice, either way round, and none leads back."""
    return len({frozenset(edge) for edge in edges}) == len(edges) and all(a != b for a, b in edges)


def connected(edges: Edges, n: int) -> bool:
    seen, grown = {0}, True
    while grown:
        reached = {end for edge in edges if seen & set(edge) for end in edge} - seen
        grown = bool(reached)
        seen |= reached
    return seen == set(range(n))


@given(counts)
def test_line(n: int) -> None:
    edges = topology.line(n)
    assert edges == [(i, i + 1) for i in range(n - 1)]
    assert degrees(edges, n) == ([1, *[2] * (n - 2), 1])


@given(counts)
def test_ring(n: int) -> None:
    edges = topology.ring(n)
    assert degrees(edges, n) == [2] * n
    assert connected(edges, n)
    assert simple(edges) == (n > 2)


@given(counts)
def test_mesh(n: int) -> None:
    edges = topology.mesh(n)
    assert degrees(edges, n) == [n - 1] * n
    assert simple(edges)


@given(counts)
def test_star(n: int) -> None:
    edges = topology.star(n)
    assert edges == [(i, 0) for i in range(1, n)]
    assert degrees(edges, n) == [n - 1, *[1] * (n - 1)]


@given(st.integers(1, 8), st.integers(1, 8))
def test_grid(width: int, height: int) -> None:
    n = width * height
    if n < 2:
        return
    edges = topology.grid(width, height)
    assert simple(edges)
    assert connected(edges, n)
    for i, degree in enumerate(degrees(edges, n)):
        row, column = divmod(i, width)
        assert degree == (row > 0) + (row < height - 1) + (column > 0) + (column < width - 1)
    for a, b in edges:
        assert (b // width - a // width, b % width - a % width) in ((0, 1), (1, 0))


@given(counts)
def test_tree(n: int) -> None:
    edges = topology.tree(n)
    assert connected(edges, n)
    assert sorted(b for _, b in edges) == list(range(1, n))
    for i, degree in enumerate(degrees(edges, n)):
        assert degree == (i > 0) + (2 * i + 1 < n) + (2 * i + 2 < n)


@given(counts, st.data(), st.integers())
def test_random(n: int, data: st.DataObject, seed: int) -> None:
    degree = data.draw(st.integers(1, n - 1))
    edges = topology.random(n, degree, seed)
    assert Counter(a for a, _ in edges) == dict.fromkeys(range(n), degree)
    assert len(set(edges)) == len(edges)
    assert all(a != b and 0 <= b < n for a, b in edges)
    assert topology.random(n, degree, seed) == edges


def test_random_is_the_same_everywhere_and_always() -> None:
    assert topology.random(5, 2, 42) == [
        *((0, 1), (0, 2), (1, 2), (1, 0), (2, 0)),
        *((2, 1), (3, 4), (3, 1), (4, 0), (4, 1)),
    ]


def test_random_depends_on_the_seed_and_favours_nobody() -> None:
    assert len({tuple(topology.random(10, 3, seed)) for seed in range(100)}) == 100
    inbound = Counter(b for seed in range(1000) for _, b in topology.random(5, 2, seed))
    assert all(1850 < inbound[i] < 2150 for i in range(5))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: topology.line(1), "n must be at least 2, not 1"),
        (lambda: topology.ring(1), "not 1"),
        (lambda: topology.mesh(0), "not 0"),
        (lambda: topology.star(-1), "not -1"),
        (lambda: topology.tree(1), "not 1"),
        (lambda: topology.random(1, 1, 0), "not 1"),
        (lambda: topology.random(5, 5, 0), "degree must be 1 to 4 for 5 nodes, not 5"),
        (lambda: topology.random(5, 0, 0), "degree .* not 0"),
        (lambda: topology.grid(0, 3), "width must be at least 1, not 0"),
        (lambda: topology.grid(3, -3), "height must be at least 1, not -3"),
        (lambda: topology.grid(1, 1), "width 1 times height 1"),
    ],
)
def test_what_does_not_do_is_named(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()


# ---- with nodes


@asynccontextmanager
async def listening(n: int, config: Config | None = None) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(Node(config or Config())) for _ in range(n)]
        for node in nodes:
            await node.start_listening()
        yield nodes


SHAPES = {
    "line": (5, topology.line(5)),
    "ring": (5, topology.ring(5)),
    "ring of two": (2, topology.ring(2)),
    "mesh": (5, topology.mesh(5)),
    "star": (5, topology.star(5)),
    "grid": (6, topology.grid(3, 2)),
    "tree": (6, topology.tree(6)),
    "random": (6, topology.random(6, 2, 7)),
    "none": (2, []),
}


@pytest.mark.anyio
@pytest.mark.parametrize(("n", "edges"), SHAPES.values(), ids=tuple(SHAPES))
async def test_both_ends_of_every_edge_are_there(n: int, edges: Edges) -> None:
    async with listening(n) as nodes:
        await topology.connect_nodes(nodes, edges)
        assert [len(node.connections) for node in nodes] == degrees(edges, n)
        for a, b in edges:
            assert nodes[b].listening_addr in nodes[a].connections
        dialled = [sum(c.side is Side.INITIATOR for c in node.connections.values()) for node in nodes]
        assert dialled == [sum(a == i for a, _ in edges) for i in range(n)]


class Slow:
    """A handshake in which the responder hesitates for as long as it is told to."""

    def __init__(self) -> None:
        self.go = anyio.Event()
        self.waiting = anyio.Event()

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        if connection.side is Side.RESPONDER:
            self.waiting.set()
            await self.go.wait()
        return stream


async def some_turns() -> None:
    for _ in range(50):
        await checkpoint()


@pytest.mark.anyio
async def test_connecting_waits_for_the_other_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "_POLL", 0)
    slow, done = Slow(), anyio.Event()
    async with listening(2) as nodes, anyio.create_task_group() as tasks:
        nodes[1].enable_handshake(slow)

        async def connect() -> None:
            await topology.connect_nodes(nodes, [(0, 1)])
            assert len(nodes[1].connections) == 1
            done.set()

        tasks.start_soon(connect)
        await slow.waiting.wait()
        await wait_until(lambda: len(nodes[0].connections) == 1)
        await some_turns()
        assert not done.is_set()
        slow.go.set()
        await done.wait()


@pytest.mark.anyio
async def test_another_connection_is_not_taken_for_the_other_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "_POLL", 0)
    slow, done = Slow(), anyio.Event()
    async with listening(3) as nodes, anyio.create_task_group() as tasks:
        nodes[1].enable_handshake(slow)

        async def connect() -> None:
            await topology.connect_nodes(nodes, [(0, 1)])
            done.set()

        tasks.start_soon(connect)
        await slow.waiting.wait()
        first, slow.go = slow.go, anyio.Event()
        slow.go.set()
        assert nodes[1].listening_addr is not None
        await nodes[2].connect(nodes[1].listening_addr)
        await wait_until(lambda: len(nodes[1].connections) == 1)
        await some_turns()
        assert not done.is_set()
        first.set()
        await done.wait()


@pytest.mark.anyio
async def test_streams_need_not_have_addresses() -> None:
    network = MemoryNetwork()
    async with AsyncExitStack() as stack:
        nodes = [
            Node(Config(listener_addr=(f"10.0.0.{i}", 0)), transport=network.host(f"10.0.0.{i}")) for i in (1, 2, 3)
        ]
        for node in nodes:
            await stack.enter_async_context(node)
            await node.start_listening()
        await topology.connect_nodes(nodes, [*topology.ring(3), (0, 2)])
        assert [len(node.connections) for node in nodes] == [3, 2, 3]


@pytest.mark.anyio
async def test_a_connection_that_has_ended_has_no_address_any_more() -> None:
    async with listening(2) as nodes:
        await topology.connect_nodes(nodes, [(0, 1)])
        (connection,) = nodes[0].connections.values()
        assert topology._local_addr(connection) in nodes[1].connections
    assert topology._local_addr(connection) is None


@pytest.mark.anyio
async def test_a_connection_that_the_other_end_will_not_have_is_an_error() -> None:
    async with listening(3, Config(max_connections=1, max_connecting=1)) as nodes:
        with pytest.raises(ConnectionError, match=r"edge \(2, 0\).*before node 0"):
            await topology.connect_nodes(nodes, [(1, 0), (2, 0)])
        assert len(nodes[0].connections) == 1


@pytest.mark.anyio
async def test_an_error_of_a_dial_comes_out_as_it_is() -> None:
    async with listening(3, Config(max_connections=1, max_connecting=1)) as nodes:
        with pytest.raises(Exception, match="max_connections") as caught:
            await topology.connect_nodes(nodes, [(0, 1), (0, 2)])
        assert caught.type.__name__ == "ConnectionLimitError"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("edge", "named"),
    [
        ((0, 2), r"edge \(0, 2\): there is no node 2 among 2 nodes"),
        ((-1, 0), r"edge \(-1, 0\): there is no node -1"),
        ((1, 1), r"edge \(1, 1\) connects node 1 to itself"),
        ((0, 1), r"edge \(0, 1\) is there twice"),
    ],
)
async def test_a_bad_edge_is_named_before_anything_is_dialled(edge: tuple[int, int], named: str) -> None:
    async with listening(2) as nodes:
        with pytest.raises(ValueError, match=named):
            await topology.connect_nodes(nodes, [(0, 1), edge])
        assert not nodes[0].connections


@pytest.mark.anyio
async def test_a_node_that_does_not_listen_is_named() -> None:
    async with listening(2) as nodes:
        await nodes[1].stop_listening()
        with pytest.raises(RuntimeError, match=rf"edge \(0, 1\): node 1 \({nodes[1].name}\) is not listening"):
            await topology.connect_nodes(nodes, [(1, 0), (0, 1)])
        assert not nodes[1].connections
