"""The shapes that networks of nodes take in tests and simulations.

A shape is a list of edges `(a, b)`, numbers of nodes counted from 0: node a dials node b. The functions that make
them are pure, and raise `ValueError` naming the value that does not do. `connect_nodes` makes them real.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

import anyio
from anyio.abc import SocketAttribute

from ._address import Address, canonical
from .connection import Connection, Side
from .node import Node

__all__ = ["connect_nodes", "grid", "line", "mesh", "random", "ring", "star", "tree"]

_MIN_NODES = 2
_POLL = 0.001  # seconds


def line(n: int) -> list[tuple[int, int]]:
    """Each of `n` nodes dials the next: two neighbours each, one at the ends."""
    _check_count(n)
    return [(i, i + 1) for i in range(n - 1)]


def ring(n: int) -> list[tuple[int, int]]:
    """A line of `n` nodes whose last one dials the first: two connections each, if n is 2 to one peer."""
    _check_count(n)
    return [(i, (i + 1) % n) for i in range(n)]


def mesh(n: int) -> list[tuple[int, int]]:
    """Each of `n` nodes is connected to all others, once: n - 1 neighbours each."""
    _check_count(n)
    return [(i, j) for i in range(n) for j in range(i + 1, n)]


def star(n: int) -> list[tuple[int, int]]:
    """All others of `n` nodes dial node 0: n - 1 neighbours for the hub, one for each of the others."""
    _check_count(n)
    return [(i, 0) for i in range(1, n)]


def grid(width: int, height: int) -> list[tuple[int, int]]:
    """Node `row * width + column` dials its right and its lower neighbour: two to four neighbours each.

    A grid of one row or column is a line.
    """
    for name, value in (("width", width), ("height", height)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    n = width * height
    if n < _MIN_NODES:
        raise ValueError(f"a grid needs at least {_MIN_NODES} nodes, not width {width} times height {height}")
    right = [(i, i + 1) for i in range(n) if (i + 1) % width]
    return sorted(right + [(i, i + width) for i in range(n - width)])


def tree(n: int) -> list[tuple[int, int]]:
    """A binary tree of `n` nodes, as full as can be: node i dials nodes 2i + 1 and 2i + 2, if there are."""
    _check_count(n)
    return [((i - 1) // 2, i) for i in range(1, n)]


def random(n: int, degree: int, seed: int) -> list[tuple[int, int]]:
    """Each of `n` nodes dials `degree` different others, chosen at random.

    So each node has `degree` connections of its own dialling, and on average as many of others'. Two nodes that
    choose each other get two connections, and nothing makes sure that the whole hangs together. The same `seed`
    always gives the same edges, on every version of Python. `degree` is 1 to n - 1.
    """
    _check_count(n)
    if not 1 <= degree < n:
        raise ValueError(f"degree must be 1 to {n - 1} for {n} nodes, not {degree}")
    number = Random(seed).random  # noqa: S311  # the one method whose sequence Python promises to keep
    edges: list[tuple[int, int]] = []
    for i in range(n):
        chosen: set[int] = set()
        for top in range(n - degree, n):  # R. W. Floyd's sample of `degree` out of 1 to n - 1
            drawn = 1 + int(number() * top)
            chosen.add(top if drawn in chosen else drawn)
        edges += [(i, (i + step) % n) for step in sorted(chosen)]
    return edges


async def connect_nodes(nodes: Sequence[Node], edges: Iterable[tuple[int, int]]) -> None:
    """Connect `nodes` along `edges`: node a dials the address that node b listens at.

    Returns once each connection is established at both ends. Dials one after the other, so that connections come up
    in the order of the edges, no limit on set-ups under way is hit, and an error is that of one dial, as it is; on
    loopback a dial takes less than a millisecond. The other end of a connection is known by its address, so there
    must be no proxy on the way; over streams without an address any new inbound connection is taken for it.

    Raises, before it connects anything, `ValueError` for an edge that is there twice, leads to a node that is not
    there, or to itself, and `RuntimeError` for a node that should be dialled and does not listen; later
    `ConnectionError` if a connection ends before the dialled node has established it (because of its limits or its
    handshake), and whatever `Node.connect` raises. After an error or a cancellation, what was connected stays so.
    """
    edges = list(edges)
    _check_edges(nodes, edges)
    known = {connection for node in nodes for connection in node.connections.values()}
    dialled: list[tuple[tuple[int, int], Connection, Address | None]] = []
    for a, b in edges:
        connection = await nodes[a].connect(_listening_addr(nodes, (a, b)))
        dialled.append(((a, b), connection, _local_addr(connection)))
    for (a, b), connection, local in dialled:
        while (found := _other_end(nodes[b], local, known)) is None:
            if nodes[a].connections.get(connection.addr) is not connection:
                raise ConnectionError(f"edge {(a, b)}: the connection ended before node {b} had established it")
            await anyio.sleep(_POLL)
        known.add(found)


def _check_count(n: int) -> None:
    if n < _MIN_NODES:
        raise ValueError(f"n must be at least {_MIN_NODES}, not {n}")


def _check_edges(nodes: Sequence[Node], edges: list[tuple[int, int]]) -> None:
    seen: set[tuple[int, int]] = set()
    for edge in edges:
        for end in edge:
            if not 0 <= end < len(nodes):
                raise ValueError(f"edge {edge}: there is no node {end} among {len(nodes)} nodes")
        if edge[0] == edge[1]:
            raise ValueError(f"edge {edge} connects node {edge[0]} to itself")
        if edge in seen:
            raise ValueError(f"edge {edge} is there twice")
        seen.add(edge)
        _listening_addr(nodes, edge)


def _listening_addr(nodes: Sequence[Node], edge: tuple[int, int]) -> Address:
    node = nodes[edge[1]]
    if node.listening_addr is None:
        raise RuntimeError(f"edge {edge}: node {edge[1]} ({node.name}) is not listening")
    return node.listening_addr


def _local_addr(connection: Connection) -> Address | None:
    try:
        name = connection.extra(SocketAttribute.local_address, None)
    except OSError:  # closed already
        return None
    return None if name is None or isinstance(name, str) else canonical(name)


def _other_end(node: Node, local: Address | None, known: set[Connection]) -> Connection | None:
    new = (each for each in node.connections.values() if each.side is Side.RESPONDER and each not in known)
    return next((each for each in new if local in (None, each.addr)), None)
