"""A distributed hash table: thirty nodes find each other, and what any of them has stored, by Kademlia.

Shows iterative lookups over `Rpc` of `rpc.py`, a handshake that exchanges ids and listening ports, k-buckets whose
silent members make room for new ones, and values that outlive the nodes they were stored at, since they are handed
over and republished, but not their time. What others can make a node hold or do is bounded. After "Kademlia: A
Peer-to-peer Information System Based on the XOR Metric" (Maymounkov and Mazières, 2002), to whose sections the comments
refer. Run `python examples/kademlia.py`. You will see the nodes join through the first of them, texts stored at some
nodes and found from others in a few rounds of questions, and found still when half of the nodes have been replaced.
"""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from itertools import chain
from math import ceil
from random import Random
from statistics import mean
from struct import Struct
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary, WeakValueDictionary

import anyio
from anyio.lowlevel import checkpoint
from anyio.streams.buffered import BufferedByteStream

from _common import command_line, run
from pea2pea import Address, Config, Connection, Node, NodeError
from rpc import JSON, CallError, Rpc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anyio.abc import ByteStream

K = 4  # contacts in a bucket, and nodes at which a value is stored
ALPHA = 3  # questions at a time
ID_BITS = 160
ID_BYTES = ID_BITS // 8
HELLO = Struct(f"!{ID_BYTES}sH")  # an id, and the port at which it listens
HEX = re.compile(f"[0-9a-f]{{1,{2 * ID_BYTES}}}")  # an id or a key
MAX_VALUES, MAX_LENGTH = 10_000, 1_000  # stored at one node, and characters of one of them
EXPIRY = 24 * 3600  # seconds after which a value goes, unless somebody puts it again
MAX_ROUNDS = 20  # of a lookup: liars could always name somebody closer


@dataclass(frozen=True)
class Contact:
    """A node, and where it listens."""

    id: int
    addr: Address


def key_of(value: str) -> int:
    """A value's key is its hash, so that no node can return another value for it."""
    return int.from_bytes(sha256(value.encode()).digest()[:ID_BYTES], "big")


def to_json(contacts: list[Contact]) -> JSON:
    return [[f"{contact.id:x}", *contact.addr] for contact in contacts if "%" not in contact.addr[0]]


def from_json(answer: JSON) -> list[Contact]:
    """Raises `ValueError` for what is no list of contacts."""
    contacts = []
    for entry in answer[:K] if isinstance(answer, list) else [None]:
        match entry:
            case [str(number), str(host), int(port)] if HEX.fullmatch(number) and 0 < port < 2**16 and "%" not in host:
                ip = ip_address(host)  # without a zone, which would be one of another machine (RFC 4007, section 6)
                if ip.is_unspecified or ip.is_multicast:
                    raise ValueError("nobody can be there")
                contacts.append(Contact(int(number, 16), (str(ip), port)))
            case _:
                raise ValueError("this is no contact")
    return contacts


def key_from(argument: JSON) -> int:
    """Raises `CallError` for what is no key: its length is looked at before anything is computed with it."""
    if not isinstance(argument, str) or not HEX.fullmatch(argument):
        raise CallError("this is no key")
    return int(argument, 16)


class Buckets:
    """The contacts of one node, at most `K` at each distance: in each bucket, that is (section 2.2)."""

    def __init__(self, own_id: int) -> None:
        self._own_id = own_id
        self._buckets: list[list[Contact]] = [[] for _ in range(ID_BITS)]  # least recently seen first

    def see(self, contact: Contact) -> Contact | None:
        """Note that a contact is alive; return the one to ping first, if the bucket is full."""
        if contact.id == self._own_id:
            return None
        self.remove(contact)
        bucket = self._bucket(contact)
        if len(bucket) == K:
            return bucket[0]
        bucket.append(contact)
        return None

    def remove(self, contact: Contact) -> None:
        bucket = self._bucket(contact)
        bucket[:] = [other for other in bucket if other.id != contact.id]

    def closest(self, key: int) -> list[Contact]:
        return sorted(self, key=lambda contact: contact.id ^ key)[:K]

    def _bucket(self, contact: Contact) -> list[Contact]:
        return self._buckets[(contact.id ^ self._own_id).bit_length() - 1]

    def __iter__(self) -> Iterator[Contact]:
        return chain.from_iterable(self._buckets)


class Values:
    """What is stored at one node: for a time, and if there is too much of it, what is closest to the node's own id."""

    def __init__(self, own_id: int) -> None:
        self._own_id = own_id
        self._kept: dict[int, tuple[str, float]] = {}  # with the time when it expires

    def store(self, value: str, seconds: float) -> None:
        key, until = key_of(value), anyio.current_time() + min(seconds, EXPIRY)
        _, known = self._kept.get(key, (value, until))
        self._kept[key] = value, max(until, known)
        if len(self._kept) > MAX_VALUES and len(self.remaining()) > MAX_VALUES:
            del self._kept[max(self._kept, key=lambda key: key ^ self._own_id)]

    def get(self, key: int) -> str | None:
        value, until = self._kept.get(key, (None, 0.0))
        return value if until > anyio.current_time() else None

    def remaining(self) -> dict[int, tuple[str, int]]:
        """The values that have not expired, and the seconds until they do; the others are dropped."""
        now = anyio.current_time()
        self._kept = {key: (value, until) for key, (value, until) in self._kept.items() if until > now}
        return {key: (value, ceil(until - now)) for key, (value, until) in self._kept.items()}

    def __len__(self) -> int:
        return len(self._kept)


class Peer:
    """One node of the network."""

    def __init__(self, number: int) -> None:
        self.id = number
        self.buckets = Buckets(number)
        self.values = Values(number)
        self.contacts: WeakKeyDictionary[Connection, Contact] = WeakKeyDictionary()  # the nodes at the other ends
        self._dialling: WeakValueDictionary[Address, anyio.Lock] = WeakValueDictionary()
        self._tended: set[int] = set()  # the ids of those that a background task is busy with: one task each
        self.node = Node(Config(name=f"{number:040x}"[:8]))
        self.node.enable_handshake(self)
        self.rpc = Rpc(self.node, max_length=16 * MAX_LENGTH, idle_timeout=60.0)  # an idle peer is dialled again
        self.rpc.methods.update(ping=self._on_ping, store=self._on_store, find=self._on_find, get=self._on_get)

    # ---- What there is to do with it

    async def join(self, addr: Address) -> None:
        """Get to know the network through one node of it: look up oneself, then somebody in each farther bucket."""
        self._see(self.contacts[await self.node.connect(addr)])
        if found := await self.find(self.id):
            for bit in range((found[0].id ^ self.id).bit_length(), ID_BITS):
                await self.find(self.id ^ 1 << bit)

    async def put(self, value: str, seconds: int = EXPIRY) -> int:
        """Store a value for so long at the nodes closest to its key, and return the key."""
        if len(value) > MAX_LENGTH:
            raise ValueError(f"a value has at most {MAX_LENGTH} characters")
        key, entry = key_of(value), cast("JSON", [value, seconds])
        async with anyio.create_task_group() as tasks:
            for contact in await self.find(key):
                tasks.start_soon(self._ask, contact, "store", entry)
        return key

    async def get(self, key: int) -> tuple[str | None, int]:
        """The value, if it is to be found, and how many rounds of questions it took."""
        if (value := self.values.get(key)) is not None:
            return value, 0
        lookup = Lookup(key, self.buckets, but=self.id)
        await self._run(lookup, "get")
        return lookup.value, lookup.rounds

    async def find(self, key: int) -> list[Contact]:
        """The nodes that are closest to the key."""
        lookup = Lookup(key, self.buckets, but=self.id)
        await self._run(lookup, "find")
        return lookup.closest()

    async def republish(self) -> None:
        """Store every value at the nodes that are closest to it now; to be called every hour (section 2.5)."""
        for value, seconds in self.values.remaining().values():
            await self.put(value, seconds)

    # ---- How it asks others

    async def _run(self, lookup: Lookup, method: str) -> None:
        while batch := lookup.next_batch():
            async with anyio.create_task_group() as tasks:
                for contact in batch:
                    tasks.start_soon(self._ask_and_note, lookup, contact, method)

    async def _ask_and_note(self, lookup: Lookup, contact: Contact, method: str) -> None:
        lookup.note(contact, await self._ask(contact, method, f"{lookup.key:x}"))

    async def _ask(self, contact: Contact, method: str, argument: JSON = None) -> JSON:
        """Return its answer; None if there is none, and then the contact is removed."""
        try:
            answer = await self.rpc.call(await self._connection(contact), method, argument)
        except (OSError, NodeError, CallError):
            self.buckets.remove(contact)
            return None
        self._see(contact)
        return answer

    async def _connection(self, contact: Contact) -> Connection:
        """Return the connection with a contact, dialled by either side; a new one if there is none."""
        async with self._dialling.setdefault(contact.addr, anyio.Lock()):
            for connection in self.node.connections.values():
                if self.contacts[connection] == contact:
                    return connection
            connection = await self.node.connect(contact.addr)
        if self.contacts[connection] != contact:
            raise CallError(f"another node is at {contact.addr} now")
        return connection

    def _see(self, contact: Contact) -> None:
        is_new = contact not in self.buckets
        oldest = self.buckets.see(contact)
        tended = contact if oldest is None else oldest
        if (is_new or oldest is not None) and tended.id not in self._tended:
            self._tended.add(tended.id)
            self.node.start_soon(self._tend, contact, oldest)

    async def _tend(self, newcomer: Contact, oldest: Contact | None) -> None:
        try:
            if oldest is None:
                await self._hand_over(newcomer)
            else:
                await self._check(oldest, newcomer)
        finally:
            self._tended.discard(newcomer.id if oldest is None else oldest.id)

    async def _hand_over(self, newcomer: Contact) -> None:
        """Store at a new contact the values it is closest to, or lookups would not find them there (section 2.5)."""
        for key, (value, seconds) in self.values.remaining().items():
            await checkpoint()  # there may be many
            if newcomer in self.buckets.closest(key) and not await self._ask(newcomer, "store", [value, seconds]):
                return

    async def _check(self, oldest: Contact, newcomer: Contact) -> None:
        """Keep an old contact as long as it answers (section 2.2): the longer a node has lived, the longer it will."""
        if await self._ask(oldest, "ping") is None:
            self.buckets.see(newcomer)

    # ---- What others ask it

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        """Each side says who it is, and where it listens."""
        assert self.node.listening_addr is not None
        buffered = BufferedByteStream(stream)
        await stream.send(HELLO.pack(self.id.to_bytes(ID_BYTES, "big"), self.node.listening_addr[1]))
        number, port = HELLO.unpack(await buffered.receive_exactly(HELLO.size))
        if not port:
            raise ValueError("it does not listen")
        self.contacts[connection] = Contact(int.from_bytes(number, "big"), (connection.addr[0], port))
        return buffered

    async def _on_ping(self, caller: Connection, _argument: JSON) -> JSON:
        self._see(self.contacts[caller])
        return "pong"

    async def _on_store(self, caller: Connection, argument: JSON) -> JSON:
        self._see(self.contacts[caller])
        match argument:
            case [str(value), int(seconds)] if len(value) <= MAX_LENGTH and seconds > 0:
                self.values.store(value, seconds)
                return "stored"
        raise CallError("this is not stored here")

    async def _on_find(self, caller: Connection, argument: JSON) -> JSON:
        self._see(self.contacts[caller])
        return to_json(self.buckets.closest(key_from(argument)))

    async def _on_get(self, caller: Connection, argument: JSON) -> JSON:
        contacts = await self._on_find(caller, argument)
        value = self.values.get(key_from(argument))
        return contacts if value is None else value


class Lookup:
    """An iterative lookup (section 2.3): ask the closest nodes known for closer ones, until there are none."""

    def __init__(self, key: int, contacts: Iterable[Contact], but: int) -> None:
        self.key = key
        self.value: str | None = None
        self.rounds = 0
        self._known = {contact.id: contact for contact in contacts}
        self._asked = {but}

    def closest(self) -> list[Contact]:
        return sorted(self._known.values(), key=lambda contact: contact.id ^ self.key)[:K]

    def next_batch(self) -> list[Contact]:
        """Return the contacts to ask next; none if the lookup is over."""
        batch = [contact for contact in self.closest() if contact.id not in self._asked][:ALPHA]
        if self.value is not None or not batch or self.rounds == MAX_ROUNDS:
            return []
        self.rounds += 1
        self._asked |= {contact.id for contact in batch}
        return batch

    def note(self, contact: Contact, answer: JSON) -> None:
        """Use the answer of a contact; remove the contact if the answer is nonsense or missing."""
        if isinstance(answer, str) and key_of(answer) == self.key:
            self.value = answer
            return
        try:
            for other in from_json(answer):
                if other.id not in self._asked:
                    self._known.setdefault(other.id, other)
        except ValueError:
            self._known.pop(contact.id, None)


async def main(count: int) -> None:
    random = Random(1)  # noqa: S311  # no secret; real ids are those of keys
    async with AsyncExitStack() as stack:

        async def join(addr: Address | None) -> Peer:
            peer = Peer(random.getrandbits(ID_BITS))
            await stack.enter_async_context(peer.node)
            await peer.node.start_listening()
            if addr is not None:
                await peer.join(addr)
            return peer

        async def find_all(keys: list[int]) -> None:
            found = [await random.choice(peers).get(key) for key in keys]
            rounds = mean(rounds for _, rounds in found)
            print(f"{sum(value is not None for value, _ in found)} of {len(keys)} texts found, in {rounds:.1f} rounds")

        async def replace(leaving: list[Peer]) -> None:
            """Some leave without a word to the others, and as many come."""
            async with anyio.create_task_group() as tasks:
                for peer in leaving:
                    peers.remove(peer)
                    tasks.start_soon(peer.node.shut_down)
            for _ in leaving:
                peers.append(await join(random.choice(peers).node.listening_addr))

        peers = [await join(None)]
        for _ in range(count - 1):
            peers.append(await join(peers[0].node.listening_addr))
        print(f"{count} nodes have {mean(len(list(peer.buckets)) for peer in peers):.0f} contacts each")

        keys = [await random.choice(peers).put(f"text {number}") for number in range(20)]
        copies = sum(len(peer.values) for peer in peers) / len(keys)
        print(f"{len(keys)} texts are stored, {copies:.0f} times each")
        await find_all(keys)

        for _ in range(3):
            await replace(peers[: count // 6])
            print(f"the {count // 6} oldest nodes have been replaced by new ones")
            await find_all(keys)
            for peer in peers:
                await peer.republish()
        print(f"a text that nobody has stored: {(await peers[0].get(key_of('nobody')))[0]}")


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--nodes", type=int, default=30)
    options = parser.parse_args()
    run(options, main, options.nodes)
