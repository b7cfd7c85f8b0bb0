"""An interruption while a shutdown is being begun: it goes through, and the node is closed all the same."""

from __future__ import annotations

import pytest

from pea2pea import Config, DisconnectOrigin, Node
from pea2pea._session import Session
from pea2pea.testing import wait_until


@pytest.mark.parametrize("leave", [True, False], ids=["leaving the block", "shut_down"])
async def test_it_closes_the_node_all_the_same(leave: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = False
    end = Session.end

    def interrupt_once(session: Session, origin: DisconnectOrigin, *args: object, **options: object) -> bool:
        nonlocal interrupted
        if origin is DisconnectOrigin.SHUTDOWN and not interrupted:
            interrupted = True
            raise KeyboardInterrupt
        return end(session, origin, *args, **options)  # type: ignore[arg-type]  # passed on as they came

    server = Node(Config(grace_period=1.0))
    async with Node() as client:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # it comes out of the whole block
            async with server:
                await client.connect(await server.start_listening())
                await wait_until(lambda: len(server.connections) == 1)
                monkeypatch.setattr(Session, "end", interrupt_once)
                if not leave:
                    await server.shut_down()
        assert len(server.connections) == 0
        assert server.listening_addr is None
        await wait_until(lambda: len(client.connections) == 0)
    assert interrupted
