"""What `send` says of a peer that it cannot send to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from pea2pea import Connection, NotConnectedError

from ..helpers import ALL, LOCALHOST, User, two_nodes, wait_until

if TYPE_CHECKING:
    from anyio.abc import ByteStream


@pytest.mark.parametrize("host", ["localhost", "some.name"])
async def test_a_host_name_is_told_what_connections_are_known_by(host: str) -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder):
        assert responder.node.listening_addr is not None
        with pytest.raises(NotConnectedError, match="known by its IP address: use the Connection"):
            dialler.outbox.send_nowait((host, responder.node.listening_addr[1]), b"hello")
        with pytest.raises(NotConnectedError) as caught:
            dialler.outbox.send_nowait((LOCALHOST, 1), b"hello")
        assert "known by" not in str(caught.value)


async def test_during_a_handshake_the_stream_is_named() -> None:
    dialler, responder = User(enable=ALL), User()
    go_on, raised = anyio.Event(), []

    async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
        for peer in connection, connection.addr:
            with pytest.raises(NotConnectedError, match="still shaking hands: use the stream") as caught:
                await dialler.outbox.send(peer, b"hello")
            raised.append(caught.value)
        go_on.set()
        return stream

    dialler.shake_hands = shake_hands
    async with two_nodes(dialler, responder):
        await go_on.wait()
        await wait_until(lambda: len(raised) == 2)
