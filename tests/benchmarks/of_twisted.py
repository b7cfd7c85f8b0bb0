"""Twisted's Int32StringReceiver on its default reactor; its source is a producer, for flow control."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Protocol, cast

from twisted.internet import protocol
from twisted.protocols.basic import Int32StringReceiver

from tests.benchmarks.program import take_turns
from tests.benchmarks.work import (
    BACKLOG,
    DIALLERS,
    HOST,
    MESSAGE,
    PREFIX,
    SMALL,
    STAMP,
    Contestant,
    Figures,
    RoundTrips,
    Server,
    Tell,
    Work,
)

if TYPE_CHECKING:
    from twisted.python.failure import Failure


class Transport(Protocol):
    """Of Twisted's, which is typed in parts, what is used here."""

    def write(self, data: bytes, /) -> None: ...
    def loseConnection(self) -> None: ...
    def setTcpNoDelay(self, enabled: bool, /) -> None: ...
    def registerProducer(self, producer: object, streaming: bool, /) -> None: ...
    def unregisterProducer(self) -> None: ...


class Reactor(Protocol):
    """Likewise."""

    def listenTCP(self, port: int, factory: object, /, backlog: int, interface: str) -> Port: ...
    def connectTCP(self, host: str, port: int, factory: object, /) -> object: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...


class Port(Protocol):
    """Likewise."""

    def getHost(self) -> Address: ...


class Address(Protocol):
    """Likewise."""

    port: int


def the_reactor() -> Reactor:
    from twisted.internet import reactor  # noqa: PLC0415  # made at import, and no fork may come after that

    return cast("Reactor", reactor)


class Receiver(Int32StringReceiver):
    MAX_LENGTH = 1 << 30

    @property
    def tcp(self) -> Transport:
        return cast("Transport", self.transport)

    def connectionMade(self) -> None:
        self.tcp.setTcpNoDelay(True)

    def say(self, message: bytes) -> None:
        self.sendString(message)  # type: ignore[no-untyped-call]  # see above


class Serving(protocol.Factory):
    """Makes the protocols of a server, and knows those that are connected."""

    def __init__(self, work: Work, tell: Tell) -> None:
        self.work, self.tell = work, tell
        self.everybody: list[Receiver] = []

    def buildProtocol(self, addr: object) -> Receiver:
        match self.work.kind:
            case "throughput":
                return Sink(self)
            case "broadcast":
                return Broadcaster(self)
            case "disconnect" | "shutdown":
                return Ender(self)
            case _:
                return Echo(self)


class Served(Receiver):
    def __init__(self, serving: Serving) -> None:
        self.serving = serving

    def connectionMade(self) -> None:
        super().connectionMade()
        self.serving.everybody.append(self)


class Sink(Served):
    def __init__(self, serving: Serving) -> None:
        super().__init__(serving)
        self.received, self.began = 0, 0.0

    def stringReceived(self, string: bytes) -> None:
        if not string:
            self.serving.tell.figures(received=self.received, rate=(self.received - 1) / (perf_counter() - self.began))
            self.say(b"")
            return
        self.received += 1
        if self.received == 1:
            self.began = perf_counter()


class Echo(Served):
    def stringReceived(self, string: bytes) -> None:
        if len(string) == SMALL:
            self.say(string)


class Broadcaster(Served):
    def stringReceived(self, string: bytes) -> None:
        size = self.serving.work.size
        frame = PREFIX.pack(size) + STAMP.pack(perf_counter()).ljust(size, b"\0")
        for other in self.serving.everybody:
            other.tcp.write(frame)


class Ender(Served):
    def stringReceived(self, string: bytes) -> None:
        for other in self.serving.everybody:
            other.tcp.loseConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.serving.everybody.remove(self)
        if not self.serving.everybody:
            self.serving.tell.figures(ended=perf_counter())


class Calling(protocol.ClientFactory):
    """Makes the protocols of a client, and keeps what they have measured."""

    def __init__(self, work: Work, server: Server) -> None:
        self.work, self.server = work, server
        self.figures: Figures = {}
        self.dialled: list[Dialled] = []
        self.before, self.began = 0, 0.0

    def dial(self) -> None:
        the_reactor().connectTCP(HOST, self.server.port, self)

    def done(self, figures: Figures) -> None:
        self.figures = figures
        the_reactor().stop()

    def buildProtocol(self, addr: object) -> Receiver:
        match self.work.kind:
            case "throughput":
                return Source(self)
            case "setup":
                return Dialled(self)
            case _:
                return Pinger(self)


class Called(Receiver):
    def __init__(self, calling: Calling) -> None:
        self.calling = calling


class Source(Called):
    """An IPushProducer."""

    paused_by_transport, sent = False, 0

    def connectionMade(self) -> None:
        super().connectionMade()
        self.message = bytes(self.calling.work.size)
        self.deadline = perf_counter() + self.calling.work.seconds
        self.tcp.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self.paused_by_transport = False
        while not self.paused_by_transport:
            for _ in range(self.calling.work.burst):
                self.say(self.message)
            self.sent += self.calling.work.burst
            if self.sent > 1 and perf_counter() > self.deadline:
                self.tcp.unregisterProducer()
                self.say(b"")
                return

    def pauseProducing(self) -> None:
        self.paused_by_transport = True

    def stopProducing(self) -> None:
        self.paused_by_transport = True

    def stringReceived(self, string: bytes) -> None:
        self.calling.done({"sent": self.sent})


class Pinger(Called):
    def connectionMade(self) -> None:
        super().connectionMade()
        self.trips = RoundTrips(self.calling.work)
        for _ in range(self.calling.work.in_flight):
            self.ping()

    def ping(self) -> None:
        self.trips.sent()
        self.say(MESSAGE)

    def stringReceived(self, string: bytes) -> None:
        if self.trips.answered():
            self.ping()
        elif not self.calling.figures:
            self.calling.done(self.trips.figures())


class Dialled(Called):
    """One of many: the first and the last prove by an echo that they were accepted, the others dial on."""

    def connectionMade(self) -> None:
        super().connectionMade()
        calling = self.calling
        calling.dialled.append(self)
        made, wanted = len(calling.dialled), calling.work.connections + 1
        if made in {1, wanted}:
            self.say(MESSAGE)
        elif made + DIALLERS <= wanted:
            calling.dial()

    def stringReceived(self, string: bytes) -> None:
        calling = self.calling
        if len(calling.dialled) == 1:
            calling.before, calling.began = calling.server.memory(), perf_counter()
            for _ in range(DIALLERS):
                calling.dial()
            return
        took, grown = perf_counter() - calling.began, calling.server.memory() - calling.before
        calling.done({"rate": calling.work.connections / took, "rss": grown / calling.work.connections})


def serve(work: Work, tell: Tell) -> None:
    reactor = the_reactor()
    port = reactor.listenTCP(0, Serving(work, tell), backlog=BACKLOG, interface=HOST)
    tell.listening(port.getHost().port)
    reactor.run()


def call(work: Work, server: Server) -> Figures:
    calling = Calling(work, server)
    calling.dial()
    the_reactor().run()
    return calling.figures


if __name__ == "__main__":
    take_turns({"twisted": Contestant(serve, call)})
