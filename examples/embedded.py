"""A node inside of another program: of a FastAPI application, and of a program of threads that knows no event loop.

Shows a node that lives as long as the application, by its lifespan, and whose outbox its routes use; and AnyIO's
`BlockingPortal`, through which threads enter a node, connect it and send, since nothing of a node is thread-safe. Run
`python examples/embedded.py`. You will see a letter that was posted to one application over HTTP go to another one
over TCP, and be read there over HTTP; then letters that three threads send with one node arrive in a queue that a
thread reads. The application can be served for real, too: `uvicorn --app-dir examples embedded:app`.
"""

from __future__ import annotations

import queue
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import anyio
import httpx
from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI, HTTPException

from _common import command_line, event_loop, run
from pea2pea import Address, Config, Connection, Node, NodeError, TCPTransport
from pea2pea.codecs import LinesCodec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable


MAX_LETTERS = 1000  # that wait to be read


class Mailbox:
    """A node that hands over the letters it gets. A connection without letters for a minute ends: no slot is lost."""

    def __init__(self, name: str, hand_over: Callable[[str], object]) -> None:
        self.hand_over = hand_over
        self.transport = TCPTransport()
        self.node = Node(Config(name=name), transport=self.transport)
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)
        self._dialling: WeakValueDictionary[Address, anyio.Lock] = WeakValueDictionary()

    def decoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=10_000)

    def encoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=10_000)

    async def process_message(self, source: Connection, message: str) -> None:
        self.hand_over(message)

    async def post(self, to: Address, text: str) -> None:
        """Deliver a letter over the connection with that peer, or over a new one; the host may be a name."""
        async with self._dialling.setdefault(to, anyio.Lock()):  # several letters to one peer need one dial
            connection = await self.find(to) or await self.node.connect(to)
        await self.outbox.deliver(connection, text)

    async def find(self, to: Address) -> Connection | None:
        """The connection with that peer; the node knows connections by the IP address, so a name is resolved."""
        for addr in await self.transport.resolve(to):
            connection = self.node.connections.get(addr)
            if connection is not None and connection.origin is None:
                return connection
        return None


# ---- A node in a web application


@dataclass
class Letter:
    """The body of a request."""

    to: tuple[str, int]
    text: str


def application() -> FastAPI:
    letters: deque[str] = deque(maxlen=MAX_LETTERS)
    mailbox = Mailbox("web", letters.append)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        async with mailbox.node:
            await mailbox.node.start_listening()
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/address")
    async def address() -> Address | None:
        return mailbox.node.listening_addr

    @app.get("/letters")
    async def read() -> list[str]:
        return list(letters)

    @app.post("/letters")
    async def write(letter: Letter) -> None:
        try:
            await mailbox.post(letter.to, letter.text)
        except ValueError as error:  # no address, or no line
            raise HTTPException(422, str(error)) from error
        except (OSError, NodeError) as error:
            raise HTTPException(502, str(error)) from error

    return app


app = application()


@asynccontextmanager
async def browser(app: FastAPI) -> AsyncGenerator[httpx.AsyncClient]:
    """What a server and a browser do, in memory."""
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        yield client


async def web() -> None:
    async with browser(application()) as here, browser(application()) as there:
        address = (await there.get("/address")).raise_for_status().json()
        (await here.post("/letters", json={"to": address, "text": "greetings from the web"})).raise_for_status()
        while not (letters := (await there.get("/letters")).json()):  # noqa: ASYNC110  # as a browser does
            await anyio.sleep(0.01)
        print(f"posted here, read there: {letters}")
        nobody = await here.post("/letters", json={"to": ["127.0.0.1", 1], "text": "to nobody"})
        print(f"posted to nobody: status {nobody.status_code}")


# ---- A node in a program of threads


def threads(backend: str, backend_options: dict[str, bool]) -> None:
    letters: queue.Queue[str] = queue.Queue(MAX_LETTERS)

    def hand_over(letter: str) -> None:
        with suppress(queue.Full):  # a letter that no thread has room for is dropped: the event loop must not wait
            letters.put_nowait(letter)

    sender, receiver = Mailbox("sender", hand_over), Mailbox("receiver", hand_over)
    with (
        start_blocking_portal(backend, backend_options) as portal,
        portal.wrap_async_context_manager(sender.node),
        portal.wrap_async_context_manager(receiver.node),
        ThreadPoolExecutor(3) as pool,
    ):
        address = portal.call(receiver.node.start_listening)
        connection = portal.call(sender.node.connect, address)
        for number in range(3):
            pool.submit(portal.call, sender.outbox.send_nowait, connection, f"greetings from thread {number}")
        print(f"three threads have sent: {sorted(letters.get() for _ in range(3))}")


if __name__ == "__main__":
    options = command_line(__doc__).parse_args()
    run(options, web)
    threads(*event_loop(options))
