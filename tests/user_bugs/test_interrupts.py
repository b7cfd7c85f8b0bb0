"""KeyboardInterrupt and SystemExit, raised anywhere in a user's code, come out of the block when all is closed."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import pytest
from anyio.lowlevel import checkpoint

from pea2pea import Node, TCPTransport
from tests.helpers import RawPeer, above_info, descriptors, frame, wait_until

from .flawed import ASYNC, PLACES, Flawed, provoked

if TYPE_CHECKING:
    from collections.abc import Callable

    from pea2pea import Address, Listener

Backend = tuple[str, dict[str, Any]]


def ends_the_block(backend: Backend, user: Flawed, expected: BaseException) -> None:
    """Run a program in which `user` is provoked; the exception has to come out of the block, and of nothing else."""

    async def main() -> None:
        before = descriptors()
        with pytest.raises(type(expected)) as caught:
            async with provoked(user):
                await anyio.sleep_forever()
        assert caught.value is expected
        assert descriptors() == before
        assert not user.node.connections
        assert not user.node.connecting

    anyio.run(main, backend=backend[0], backend_options=backend[1])


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("place", ["perform_handshake", *PLACES])
def test_it_comes_out_of_the_block_as_it_is(
    anyio_backend: Backend, place: str, kind: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    error = kind()

    def fail() -> None:
        raise error

    ends_the_block(anyio_backend, Flawed(place, fail), error)
    assert not above_info(caplog)


@pytest.mark.parametrize("place", ["perform_handshake", *ASYNC])
def test_it_comes_out_of_a_hook_that_waits(anyio_backend: Backend, place: str) -> None:
    error = KeyboardInterrupt()

    async def stall() -> None:
        await checkpoint()
        raise error

    ends_the_block(anyio_backend, Flawed(place, stall=stall), error)


def test_it_comes_out_of_a_handler_that_the_second_reader_has_called(anyio_backend: Backend) -> None:
    error = KeyboardInterrupt()
    victims: list[RawPeer] = []

    async def stall() -> None:
        if len(victims) == 2:
            raise error
        victims.append(victims[0])
        await victims[0].send(frame(b"read by the other one, while this one is busy"))
        stats = user.node.connections[victims[0].addr].stats
        received = stats.bytes_received
        await wait_until(lambda: stats.bytes_received > received)

    user = Flawed("process_message", stall=stall)

    async def main() -> None:
        with pytest.raises(KeyboardInterrupt) as caught:  # noqa: PT012  # it is the block that raises
            async with provoked(user) as (_, victim):
                victims.append(victim)
                await anyio.sleep_forever()
        assert caught.value is error

    anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])


@pytest.mark.parametrize("place", ASYNC)
def test_it_comes_out_of_an_exception_group(anyio_backend: Backend, place: str) -> None:
    error = KeyboardInterrupt()

    async def fail() -> None:
        raise ZeroDivisionError

    async def stall() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            async with anyio.create_task_group():
                raise error

    ends_the_block(anyio_backend, Flawed(place, stall=stall), error)


class InterruptedTransport(TCPTransport):
    """Its listener is where the program happens to be when somebody presses Ctrl-C."""

    async def listen(self, addr: Address, /, *, backlog: int, reuse_port: bool) -> Listener:
        listener = await super().listen(addr, backlog=backlog, reuse_port=reuse_port)

        async def accept() -> NoReturn:
            await checkpoint()
            raise KeyboardInterrupt

        listener.accept = accept  # type: ignore[method-assign]  # for the test
        return listener


def test_it_comes_out_of_what_is_no_code_of_a_user_s(anyio_backend: Backend) -> None:
    async def main() -> None:
        async with Node(transport=InterruptedTransport()) as node:
            await node.start_listening()
            await anyio.sleep_forever()

    before = descriptors()
    with pytest.raises(KeyboardInterrupt):
        anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
    assert descriptors() == before


def test_it_leaves_the_loop_usable(anyio_backend: Backend) -> None:
    user = Flawed("on_connect")

    def fail() -> None:
        raise SystemExit

    user.fail = fail

    async def main() -> str:
        with suppress(SystemExit):
            async with provoked(user):
                await anyio.sleep_forever()
        await checkpoint()
        return "lives on"

    assert anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1]) == "lives on"
