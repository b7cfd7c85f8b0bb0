"""An auction in JSON: a tagged union of dataclasses for each direction, known to the type checker.

Shows `mapped`, which makes of lines of text messages of your own types; an `Outbox` that takes nothing but what this
side may send; and `match`, which mypy checks for completeness. A message may be well formed and still come at the wrong
time: the auctioneer checks for that and disconnects the peer, since an exception in a hook would count as a bug. Run
`python examples/json_messages.py`. You will see three bidders raise the price of a teapot until only one of them is
left, and a fourth one, who claims in perfect JSON to have won, disconnected: a bidder may not send that message.
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar, get_type_hints

import anyio
from typing_extensions import assert_never

from _common import command_line, run, shown
from pea2pea import Config, Connection, DisconnectOrigin, FrameError, Node
from pea2pea.codecs import Codec, LinesCodec, mapped

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

FIRST_PRICE, HIGHEST_PRICE = 10, 1_000_000


@dataclass(frozen=True)
class Join:
    """A bidder introduces itself."""

    name: str


@dataclass(frozen=True)
class Bid:
    """A bidder offers more than the price."""

    amount: int


@dataclass(frozen=True)
class Pass:
    """A bidder gives up."""

    reason: str


@dataclass(frozen=True)
class Price:
    """What was bid last, and by whom."""

    amount: int
    bidder: str


@dataclass(frozen=True)
class Sold:
    """The end of it."""

    amount: int
    bidder: str


FromBidder: TypeAlias = Join | Bid | Pass
FromAuctioneer: TypeAlias = Price | Sold


def json_codec(*kinds: Callable[..., T]) -> Codec[T]:
    """Lines like `{"type": "Bid", "amount": 30}`; anything else in the line refuses the peer that sent it."""
    tags = {kind.__name__: (kind, get_type_hints(kind)) for kind in kinds}

    def decode(line: str) -> T:
        match document := json.loads(line):
            case {"type": str(tag)} if tag in tags:
                kind, expected = tags[tag]
                fields = {name: value for name, value in document.items() if name != "type"}
                if {name: type(value) for name, value in fields.items()} != expected:
                    raise ValueError(f"the fields of {tag} are {', '.join(expected)}")
                return kind(**fields)
            case {"type": tag}:
                raise ValueError(f"{tag!r:.40} is not one of {', '.join(tags)}")
        raise ValueError("there is no type")

    def encode(message: T) -> str:
        return json.dumps({"type": type(message).__name__, **vars(message)})

    return mapped(LinesCodec(max_length=1024), decode=decode, encode=encode)


def codec() -> Codec[FromBidder | FromAuctioneer]:
    """What both sides say: `python -m pea2pea proxy :4001 :4000 --frame json_messages:codec` shows it."""
    return json_codec(Join, Bid, Pass, Price, Sold)


class Auctioneer:
    """Sells one teapot, once so many bidders are there."""

    def __init__(self, bidders: int) -> None:
        self.awaited = bidders
        self.bidders: dict[Connection, str] = {}  # who have joined, and have neither passed nor left
        self.leader: Connection | None = None
        self.best = Price(FIRST_PRICE, "nobody")
        self.refused = anyio.Event()
        self.node = Node(Config(name="auctioneer"))
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)  # Outbox[Price | Sold]: to send a Bid is a type error
        self.node.enable_on_disconnect(self)

    def decoder(self, connection: Connection) -> Codec[FromBidder]:
        return json_codec(Join, Bid, Pass)

    def encoder(self, connection: Connection) -> Codec[FromAuctioneer]:
        return json_codec(Price, Sold)

    async def process_message(self, source: Connection, message: FromBidder) -> None:
        match message:
            case Join(name):
                if source in self.bidders or name in self.bidders.values():
                    await self.refuse(source, "that name is taken")
                    return
                self.bidders[source] = name
                if len(self.bidders) >= self.awaited:
                    self.outbox.broadcast(self.best)
            case Bid() | Pass() if source not in self.bidders:
                await self.refuse(source, "a bidder must join first, and not bid after it has passed")
            case Bid(amount):
                if self.best.amount < amount <= HIGHEST_PRICE:
                    self.leader, self.best = source, Price(amount, self.bidders[source])
                    print(f"{shown(self.best.bidder)} bids {amount}")
                    self.outbox.broadcast(self.best)
                    self.settle()
            case Pass(reason):
                print(f"{shown(self.bidders.pop(source))} passes: {shown(reason)}")
                self.settle()
            case _:
                assert_never(message)  # mypy reports a kind that is missing above

    def settle(self) -> None:
        """Sell it if nobody but the leader is left."""
        if list(self.bidders) == [self.leader]:
            self.outbox.broadcast(Sold(self.best.amount, self.best.bidder))
            self.bidders.clear()

    async def refuse(self, peer: Connection, why: str) -> None:
        print(f"the auctioneer hangs up: {why}")
        await self.node.disconnect(peer)

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        if self.bidders.pop(connection, None) is not None:
            self.settle()
        if isinstance(connection.cause, FrameError):
            print(f"the auctioneer hangs up: {shown(connection.cause)}")
            self.refused.set()


class Bidder:
    """Bids ten more than the others, up to a limit."""

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.passed = False
        self.told = anyio.Event()
        self.node = Node(Config(name=name, listener_addr=None))
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)  # Outbox[Join | Bid | Pass]

    def decoder(self, connection: Connection) -> Codec[FromAuctioneer]:
        return json_codec(Price, Sold)

    def encoder(self, connection: Connection) -> Codec[FromBidder]:
        return json_codec(Join, Bid, Pass)

    async def process_message(self, source: Connection, message: FromAuctioneer) -> None:
        match message:
            case Price(amount, bidder):
                if bidder == self.name or self.passed:
                    return
                if amount + 10 <= self.limit:
                    await self.outbox.send(source, Bid(amount + 10))
                else:
                    self.passed = True
                    await self.outbox.send(source, Pass(f"more than {self.limit} is too much"))
            case Sold(amount, bidder):
                print(shown(f"{self.name} hears that it was sold to {bidder} for {amount}"))
                self.told.set()
            case _:
                assert_never(message)


class Liar:
    """Says what only the auctioneer may."""

    def __init__(self) -> None:
        self.node = Node(Config(name="liar", listener_addr=None))
        self.outbox = self.node.enable_writing(self)

    def encoder(self, connection: Connection) -> Codec[FromAuctioneer]:
        return json_codec(Price, Sold)


async def main() -> None:
    bidders = [Bidder("Alice", 60), Bidder("Bob", 90), Bidder("Carol", 120)]
    auctioneer, liar = Auctioneer(len(bidders)), Liar()
    async with AsyncExitStack() as stack:
        for node in (auctioneer.node, liar.node, *(bidder.node for bidder in bidders)):
            await stack.enter_async_context(node)
        addr = await auctioneer.node.start_listening()
        for bidder in bidders:
            connection = await bidder.node.connect(addr)
            await bidder.outbox.send(connection, Join(bidder.name))
        for bidder in bidders:
            await bidder.told.wait()
        await liar.outbox.send(await liar.node.connect(addr), Sold(1, "the liar"))
        await auctioneer.refused.wait()


if __name__ == "__main__":
    run(command_line(__doc__).parse_args(), main)
