"""An auction in JSON: a tagged union of dataclasses for each direction, known to the type checker.

Shows `mapped`, which makes of lines of text messages of your own types; an `Outbox` that takes nothing but what this
side may send; and `match`, which mypy checks for completeness. Run `python examples/json_messages.py`. You will see
three bidders drive the price of a teapot up to the point where only one of them is left, and a fourth one, who
claims in perfect JSON to have won, hung up on: that is no message a bidder may send.
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, get_type_hints

import anyio
from typing_extensions import assert_never

from _common import command_line, run
from pea2pea import Config, Connection, DisconnectOrigin, FrameError, Node
from pea2pea.codecs import Codec, LinesCodec, mapped

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


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
        fields: dict[str, Any] = json.loads(line)
        tag = fields.pop("type")
        if tag not in tags:
            raise ValueError(f"{tag!r} is not one of {', '.join(tags)}")
        kind, expected = tags[tag]
        if {name: type(value) for name, value in fields.items()} != expected:
            raise ValueError(f"the fields of {kind.__name__} are {', '.join(expected)}")
        return kind(**fields)

    def encode(message: T) -> str:
        return json.dumps({"type": type(message).__name__, **vars(message)})

    return mapped(LinesCodec(max_length=1024), decode=decode, encode=encode)


class Auctioneer:
    """Sells one teapot, once so many bidders are there."""

    def __init__(self, bidders: int) -> None:
        self.awaited = bidders
        self.bidders: dict[Connection, str] = {}
        self.best = Price(10, "nobody")
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
                self.bidders[source] = name
                if len(self.bidders) == self.awaited:
                    self.outbox.broadcast(self.best)
            case Bid(amount):
                if amount > self.best.amount:
                    self.best = Price(amount, self.bidders[source])
                    print(f"{self.best.bidder} bids {amount}")
                    self.outbox.broadcast(self.best)
            case Pass(reason):
                print(f"{self.bidders.pop(source)} passes: {reason}")
                if list(self.bidders.values()) == [self.best.bidder]:
                    self.outbox.broadcast(Sold(self.best.amount, self.best.bidder))
            case _:
                assert_never(message)  # a kind that was forgotten above is an error of mypy's here

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        if isinstance(cause := connection.cause, FrameError):
            print(f"the auctioneer hangs up: {cause}")
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
                print(f"{self.name} hears that it was sold to {bidder} for {amount}")
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
