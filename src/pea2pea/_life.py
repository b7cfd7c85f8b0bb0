"""The life of a connection, from established to the end of its stream: one coroutine.

Each phase has a cancel scope, `Session.scope`, with the deadline by which it gives up. The phases of the end are
shielded: nothing but that deadline, or `Session.abandon`, cuts them short. Every exception is classified here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from anyio import current_time, get_cancelled_exc_class
from anyio.lowlevel import cancel_shielded_checkpoint

from ._closing import Discarder, close_stream, end_stream, watch_for_eof
from ._poller import Poller
from ._session import Session, State
from .connection import DisconnectOrigin
from .protocols.handshake import Handshake
from .protocols.on_connect import Greeting, OnConnect
from .protocols.on_disconnect import OnDisconnect, run_on_disconnect
from .protocols.reading import Activity, Reader
from .protocols.writing import Writer
from .transport import TCPStream


@dataclass(slots=True)
class Protocols:
    """What a user has enabled, with its options."""

    handshake: tuple[Handshake, float] | None = None
    reading: Callable[[Session], Reader[Any]] | None = None
    idle: tuple[float, Activity] | None = None  # the timeout, and what tells of messages
    writing: Callable[[Session], Writer[Any]] | None = None
    on_connect: tuple[OnConnect, bool] | None = None
    on_disconnect: tuple[OnDisconnect, float] | None = None
    start_services: Callable[[], None] = lambda: None
    poller: Poller | None = None


async def run_established(session: Session, protocols: Protocols) -> None:
    """Run a connection that is in `Node.connections` to the end of its stream.

    Let `on_connect` begin, then read until something ends the connection.
    """
    if isinstance(session.base, TCPStream):
        session.base.held = True
        session.base.join_poller(protocols.poller)
    on_disconnect = protocols.on_disconnect
    reader, writer, greeting = _start_protocols(session, protocols)
    try:
        with session.begin_phase(shield=False) as scope:
            if session.state is State.OPEN:
                if greeting is not None:
                    await greeting.wait_begun()
                if reader is not None:
                    try:
                        await reader.run(scope)
                    finally:
                        await reader.stop()
                else:
                    await watch_for_eof(session)
    except get_cancelled_exc_class() as error:
        if session.connection.origin is None:  # one from outside (asyncio), of this task or another one of the group's
            met = await session.report.classify_soon("a connection's task", error, session.addr, foreign=True)
            session.end(DisconnectOrigin.READING, met, broken=True)
    except BaseException as error:  # noqa: BLE001  # of a stream, or our own
        met = session.report.classify("a connection's task", error, session.addr)
        session.end(DisconnectOrigin.READING, met, broken=True)
    if session.connection.origin is None:
        session.end(DisconnectOrigin.READING, RuntimeError("a task of the connection was cancelled"), broken=True)
    await _run_end(session, writer, greeting, on_disconnect)


def _start_protocols(
    session: Session, protocols: Protocols
) -> tuple[Reader[Any] | None, Writer[Any] | None, Greeting | None]:
    """Start what the enabled protocols do for a connection; a user's bug here ends it."""
    reader = writer = greeting = None
    place = "encoder"
    protocols.start_services()
    try:
        if protocols.writing is not None:
            session.writer = writer = protocols.writing(session)
        place = "decoder"
        if protocols.reading is not None:
            session.reader = reader = protocols.reading(session)
    except BaseException as error:  # noqa: BLE001  # of the user's code
        origin = DisconnectOrigin.WRITING if place == "encoder" else DisconnectOrigin.READING
        session.end(origin, session.report.classify(place, error, session.addr))
    if protocols.on_connect is not None:
        hook, abortable = protocols.on_connect
        greeting = Greeting(session, hook, abortable=abortable)
    return reader, writer, greeting


async def _run_end(
    session: Session,
    writer: Writer[Any] | None,
    greeting: Greeting | None,
    on_disconnect: tuple[OnDisconnect, float] | None,
) -> None:
    """Run the hooks of an end, write what is queued, and end the stream."""
    drained = session.state is State.DRAINING
    if drained:
        with suppress(get_cancelled_exc_class()):  # one from outside (asyncio)
            for _ in range(2):  # a task that the last handler has started may have an answer to send at once
                await cancel_shielded_checkpoint()
        session.set_state(State.ENDING)
    session.tighten_deadline(current_time() + session.grace)
    discarder = None
    if session.broken:
        if not isinstance(session.base, TCPStream):
            await close_stream(session.base, session.report, reset=session.reset)
    elif not drained:
        if isinstance(session.base, TCPStream):
            session.base.leave_poller()
        discarder = Discarder(session, session.stream)
    await _run_hooks(session, greeting, on_disconnect)
    await _flush(session, writer, discarder)


async def _run_hooks(
    session: Session, greeting: Greeting | None, on_disconnect: tuple[OnDisconnect, float] | None
) -> None:
    if greeting is not None:
        greeting.cancel_if_abortable()
        with suppress(get_cancelled_exc_class()), session.begin_phase() as scope:  # one from outside (asyncio)
            await greeting.wait_ended()
        if scope.cancelled_caught:
            greeting.give_up()
    if on_disconnect is not None:
        await run_on_disconnect(session, *on_disconnect)


async def _flush(session: Session, writer: Writer[Any] | None, discarder: Discarder | None) -> None:
    """Write what is queued, and end the stream."""
    if writer is not None:
        writer.close()
    session.set_state(State.FLUSHING)
    ended_cleanly = discarder is None and session.direct is not None  # closing the socket is all that is left to do
    try:
        if not (session.broken or (ended_cleanly and (writer is None or not writer.pending))):
            with session.begin_phase():
                if writer is not None:
                    await writer.wait_flushed()
                await end_stream(session, discarder)
    except Exception as error:  # noqa: BLE001  # the peer is gone before we are
        session.report.debug("the end of a stream was cut short", session.addr, error)
    finally:
        if writer is not None:
            writer.give_up()
