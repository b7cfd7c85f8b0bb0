"""Requests and responses: many calls at once over one connection, answered in any order, in both directions.

Shows how calls find their answers by a correlation id, why a slow method runs in a background task of its connection
(`process_message` would hold up everything behind it), and what a caller sees of a timeout, an error at the other
end, and a peer that leaves in the middle of a call. `Rpc` can be copied into your own program: what a peer can make
it hold is bounded, also by one that calls and never reads. Run
`python examples/rpc.py`. You will see all of these in turn; then it ends by itself.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

import anyio

from _common import command_line, run, shown
from pea2pea import Config, Connection, DisconnectOrigin, Node, QueueFullError
from pea2pea.codecs import Codec, LinesCodec, mapped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"


class CallError(Exception):
    """What a method raises for its caller to know; it is raised again at the caller."""


class PeerLeftError(CallError):
    """The peer left before it had answered."""


@dataclass(frozen=True)
class Call:
    """One request; `number` is the correlation id."""

    number: int
    method: str
    argument: JSON


@dataclass(frozen=True)
class Answer:
    """The response to the call of that number; `error` tells why there is no result."""

    number: int
    result: JSON
    error: str | None


def decode(line: str) -> Call | Answer:
    match json.loads(line):
        case {"call": int(number), "method": str(method), "argument": argument}:
            return Call(number, method, argument)
        case {"answer": int(number), "result": result, "error": str() | None as error}:
            return Answer(number, result, error)
    raise ValueError("neither a call nor an answer")


def encode(message: Call | Answer) -> str:
    if isinstance(message, Call):
        return json.dumps({"call": message.number, "method": message.method, "argument": message.argument})
    return json.dumps({"answer": message.number, "result": message.result, "error": message.error})


class Rpc:
    """Calls of peers' methods, and methods for peers to call.

    For one peer `at_once` calls may be under way, until their answers are queued; the answer to a call beyond that is
    an error, or nothing if there is no room for one. A call or an answer has `max_length` bytes at the most. A peer
    that says nothing for `idle_timeout` seconds is disconnected (None: it may be silent).
    """

    def __init__(
        self, node: Node, *, at_once: int = 64, max_length: int = 65_536, idle_timeout: float | None = None
    ) -> None:
        self.methods: dict[str, Callable[[Connection, JSON], Awaitable[JSON]]] = {}
        self._node = node
        self._at_once = at_once
        self._max_length = max_length
        self._running: WeakKeyDictionary[Connection, int] = WeakKeyDictionary()
        self._numbers = count()
        self._waiting: dict[int, tuple[Connection, anyio.Future[Answer | None]]] = {}
        node.enable_reading(self, idle_timeout=idle_timeout)
        self._outbox = node.enable_writing(self)
        node.enable_on_disconnect(self)

    async def call(self, peer: Connection, method: str, argument: JSON = None, *, timeout: float = 5.0) -> JSON:
        """What `method` of the peer returns.

        Raises `CallError` if it raised that, `PeerLeftError`, `TimeoutError`, `NotConnectedError`, or `ValueError` if
        the call is too long. Cancelling it only stops the waiting.
        """
        if peer.origin is not None:
            raise PeerLeftError(f"the peer has left; {method!r} was not called")
        number = next(self._numbers)
        answered = anyio.Future[Answer | None]()
        self._waiting[number] = peer, answered
        try:
            with anyio.fail_after(timeout):
                await self._outbox.send(peer, Call(number, method, argument))
                await answered.wait()
        finally:
            self._waiting.pop(number, None)
        answer = answered.return_value
        if answer is None:
            raise PeerLeftError(f"the peer left before it had answered {method!r}")
        if answer.error is not None:
            raise CallError(answer.error)
        return answer.result

    def decoder(self, connection: Connection) -> Codec[Call | Answer]:
        return mapped(LinesCodec(max_length=self._max_length), decode=decode, encode=encode)

    encoder = decoder

    async def process_message(self, source: Connection, message: Call | Answer) -> None:
        if isinstance(message, Call):
            running = self._running.get(source, 0)
            if running < self._at_once:
                self._running[source] = running + 1
                source.start_soon(self._answer, source, message)
            else:
                with suppress(QueueFullError):  # it calls more than it reads
                    self._outbox.send_nowait(source, Answer(message.number, None, "too many calls at once"))
        elif message.number in self._waiting and self._waiting[message.number][0] is source:
            self._waiting.pop(message.number)[1].return_value = message
        # any other answer came too late, or from a peer that was not asked

    async def _answer(self, connection: Connection, call: Call) -> None:
        try:
            await self._reply(connection, call)
        finally:  # not before the answer is queued, or the calls of a peer that never reads would have no limit
            self._running[connection] -= 1

    async def _reply(self, connection: Connection, call: Call) -> None:
        try:
            if call.method not in self.methods:
                raise CallError(f"there is no method {call.method!r:.100}")
            answer = Answer(call.number, await self.methods[call.method](connection, call.argument), None)
        except CallError as error:
            answer = Answer(call.number, None, str(error)[:1000])
        except Exception:  # a bug, which the library logs
            await self._outbox.send(connection, Answer(call.number, None, "an error within the method"))
            raise
        try:
            await self._outbox.send(connection, answer)
        except (ValueError, RecursionError):  # a method that echoes what it was given makes more of it, once escaped
            await self._outbox.send(connection, Answer(call.number, None, "the answer is too long"))

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        for asked, answered in self._waiting.values():
            if asked is connection:
                answered.return_value = None


async def main() -> None:
    client, server = Node(Config(name="client", listener_addr=None)), Node(Config(name="server"))
    calling, serving = Rpc(client), Rpc(server)
    alarms = {"seven": anyio.Event(), "never": anyio.Event()}  # a fixed set: peers make no new ones

    async def divide(_caller: Connection, argument: JSON) -> JSON:
        match argument:
            case [int(dividend), int(divisor)] if divisor:
                return dividend // divisor
            case [int(dividend), int()]:
                raise CallError(f"{dividend} cannot be divided by zero")
        raise CallError("two integers are wanted")

    async def greet(caller: Connection, _argument: JSON) -> JSON:
        return f"Hello, {await serving.call(caller, 'name')}!"

    async def name(_caller: Connection, _argument: JSON) -> JSON:
        return "Alice"

    def alarm(name: JSON) -> anyio.Event:
        if not isinstance(name, str) or name not in alarms:
            raise CallError("there is no such alarm")
        return alarms[name]

    async def sleep(_caller: Connection, name: JSON) -> JSON:
        await alarm(name).wait()
        return "I have slept"

    async def ring(_caller: Connection, name: JSON) -> JSON:
        alarm(name).set()
        return "I have rung"

    async def hang_up(caller: Connection, _argument: JSON) -> JSON:
        await server.disconnect(caller)
        await anyio.sleep_forever()
        return None

    serving.methods.update(divide=divide, greet=greet, sleep=sleep, ring=ring, hang_up=hang_up)
    calling.methods.update(name=name)

    async with client, server:
        connection = await client.connect(await server.start_listening())
        print("84 / 2 is", shown(await calling.call(connection, "divide", [84, 2])))
        print("calls go both ways:", shown(await calling.call(connection, "greet")))
        try:
            await calling.call(connection, "divide", [1, 0])
        except CallError as error:
            print("an error at the other end:", shown(error))

        async def show(method: str) -> None:
            print("answers come in any order:", shown(await calling.call(connection, method, "seven")))

        async with anyio.create_task_group() as tasks:
            for method in ("sleep", "sleep", "ring"):
                tasks.start_soon(show, method)

        try:
            await calling.call(connection, "sleep", "never", timeout=0.1)
        except TimeoutError:
            quotient = await calling.call(connection, "divide", [9, 3])
            print("a call timed out, and the next one works: 9 / 3 is", shown(quotient))
        try:
            await calling.call(connection, "hang_up", timeout=60)
        except PeerLeftError as error:
            print("a peer is gone:", error)


if __name__ == "__main__":
    run(command_line(__doc__).parse_args(), main)
