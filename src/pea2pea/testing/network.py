"""A network of hosts that speak TCP, in memory, with the semantics of Linux's non-blocking sockets.

    Network     hosts, what lies between them, and a heap of events; nothing ticks
    Host        one machine with one IP address: a `Transport`, which can crash, be killed and restart
    _Listener   a listening socket with its accept queue
    _End        one end of a connection: what the kernel does
    _Socket     what a program sees of it
    _Stream     the library's own TCP stream on such a socket

Rule 1: all randomness is the network's, and all time is the event loop's (or the simulation's).
Rule 2: what is under way is an event, and is looked at again when it arrives: links and hosts may be down by then.
Rule 3: TCP is reliable (RFC 9293, section 3.8): what is lost is sent again after 0.2, 0.4, ... seconds, and what
    follows waits for it. Only a reset is sent once.
"""

from __future__ import annotations

import errno
import math
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from heapq import heappop, heappush
from itertools import count, islice, permutations, product
from random import Random
from typing import Any, ClassVar, Final, Literal, TypeAlias, cast

from anyio import BusyResourceError, CancelScope, ClosedResourceError, Event, current_time
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from .._address import Address, canonical, literal, reachable, show
from ..transport import Listener, TCPStream

__all__ = ["Held", "Host", "Link", "Network", "Packet", "Verdict"]

# tcp(7): tcp_retries2, tcp_syn_retries; RFC 6298 for the pauses between two tries
RETRY_MIN, RETRY_MAX, RETRIES, SYN_RETRIES = 0.2, 120.0, 15, 6
HEADER = 40  # bytes of a segment beside its data
SEGMENT = 65_536  # bytes of data in one, at the most
LOOPBACK = 0.000_02  # seconds from a host to itself
EPHEMERAL = range(32_768, 61_000)  # ip_local_port_range
FRAGMENTED = 8  # one segment in so many is cut in two
ANY = ("0.0.0.0", "::")  # noqa: S104  # a simulated interface
Kind: TypeAlias = Literal["SYN", "DATA", "FIN", "RST"]

program_life: ContextVar[int | None] = ContextVar("pea2pea_program_life", default=None)
"""In which life of its host a program runs, so that one that was killed does not act as its successor."""


def _refuse(is_refused: object, code: int, what: str) -> None:
    """Raise an error of the system's, if there is reason to."""
    if is_refused:
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _draw(*parts: object) -> float:
    """A number from 0 to 1 that follows from these alone."""
    return Random(" ".join(map(str, parts))).random()  # noqa: S311  # no secret


@dataclass(frozen=True, kw_only=True)
class Link:
    """What the way from one host to another is like.

    Raises `ValueError` for a negative value, and for a loss of 1 or more.
    """

    latency: float | tuple[float, float] = 0.0
    """Seconds from one host to the other.

    Of a range, each pair of hosts has its own latency, drawn from the network's seed.
    """
    bandwidth: float | None = None
    """Bytes a second that a host can send, to all others together; None: as much as it likes."""
    jitter: float = 0.0
    """Seconds; each segment takes up to so much longer, and none overtakes another one of its connection."""
    loss: float = 0.0
    """The probability that a segment is lost, below 1. What is lost is sent again."""

    def __post_init__(self) -> None:
        least, most = self.latencies
        if not 0 <= least <= most or self.jitter < 0 or not 0 <= self.loss < 1:
            raise ValueError(f"no time may be negative, and a loss has to be below 1: {self!r}")
        if self.bandwidth is not None and self.bandwidth <= 0:
            raise ValueError(f"a bandwidth has to be positive: {self!r}")

    @property
    def latencies(self) -> tuple[float, float]:
        """The least latency and the greatest."""
        return self.latency if isinstance(self.latency, tuple) else (self.latency, self.latency)


@dataclass(frozen=True)
class Packet:
    """A segment on its way, as `Network.rule` sees it."""

    source: Address
    """Who sends it."""
    target: Address
    """Whom it is for."""
    kind: Kind
    """A connection's first ("SYN"), "DATA", the end of a stream ("FIN"), or a reset ("RST")."""
    data: bytes = b""
    """The bytes of the stream that it carries."""


@dataclass(frozen=True)
class Verdict:
    """What a rule says about a packet: `Verdict.PASS`, `Verdict.DROP`, or `Verdict(delay=...)` in seconds.

    What is dropped is sent again after a while, and the rule is asked again; but a reset is sent once.
    """

    delay: float = 0.0
    """Seconds that the packet takes longer."""
    drop: bool = False
    """Whether the packet is lost."""

    PASS: ClassVar[Verdict]
    """The packet goes on."""
    DROP: ClassVar[Verdict]
    """The packet is lost."""


Verdict.PASS = Verdict()
Verdict.DROP = Verdict(drop=True)


class Held:
    """What one host sends to another, and the network holds back until `release`."""

    def __init__(self, network: Network, way: tuple[str, str]) -> None:
        self._network = network
        self._way = way
        self.arrivals: list[Callable[[], object]] = []

    def release(self) -> None:
        """Let all arrive now, in order, and hold back no more. Again, it does nothing."""
        if self._network.held.get(self._way) is self:
            del self._network.held[self._way]
            for arrive in self.arrivals:
                arrive()


class Network:
    """Hosts, made on demand, and what lies between them.

    It works on any event loop, in real time; in a simulation (`simulate`), in virtual time. Hosts of one network reach
    only each other. All of its random decisions follow from `seed`.
    """

    def __init__(self, seed: int | str = 0) -> None:
        self.link: Link = Link()
        """What all ways between two hosts are like; a change does not affect what is under way."""
        self.rule: Callable[[Packet], Verdict] | None = None
        """A function that is asked for each packet; None: all pass."""
        self.names: dict[str, str] = {}
        """Host names, and the IP addresses they stand for."""
        self.send_buffer: int = 65_536
        """Bytes that the kernel keeps for each socket until the peer has acknowledged them."""
        self.receive_buffer: int = 65_536
        """Bytes that the kernel keeps for each socket until the program takes them."""
        self.tick: float = 0.0
        """Arrivals are rounded up to multiples of so many seconds, which makes a large simulation faster."""
        self.random: Final = Random(f"network {seed}")  # noqa: S311  # no secret
        # a simulation replaces these
        self.log: Callable[..., None] = lambda *_: None
        self.now: Callable[[], float] = lambda: min(current_time(), self._moment)
        self.catch_up: Callable[[], None] = self.run_due
        self.wait: Callable[[Event], Awaitable[object]] = self._wait
        self._moment = math.inf  # of the event that is being run, perhaps later than it was due
        self.events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self.held: dict[tuple[str, str], Held] = {}
        self.hosts: dict[str, Host] = {}
        self._cut: set[tuple[str, str]] = set()
        self._position = cache(partial(_draw, seed))  # of two hosts' latency in the link's range
        self.sequence = count()  # of the events
        self._leader: CancelScope | None = None  # around the wait of the task that runs the events
        self._waiting: dict[Event, None] = {}

    # What a test does with it

    def host(self, ip: str) -> Host:
        """The host with this IP address; the same one for the same address. `ValueError` if it is none."""
        if literal(ip) is None:
            raise ValueError(f"a host needs an IP address, not {ip!r}")
        ip = canonical((ip, 0))[0]
        return self.hosts.setdefault(ip, Host(self, ip))

    def partition(self, *groups: Iterable[Host]) -> None:
        """Let nothing pass between these groups of hosts any more; a host in none of them is not affected."""
        members = [[host.ip for host in group] for group in groups]
        self.note("network", "partition", members)
        self._cut.update(pair for two in permutations(members, 2) for pair in product(*two))

    def cut(self, a: Host, b: Host) -> None:
        """Let nothing pass from `a` to `b` any more; what `b` sends still reaches `a`."""
        self.note("network", "cut", a.ip, b.ip)
        self._cut.add((a.ip, b.ip))

    def heal(self) -> None:
        """Undo every `cut` and `partition`; what was sent meanwhile arrives with its next retransmission."""
        self.note("network", "heal")
        self._cut.clear()

    def hold(self, a: Host, b: Host) -> Held:
        """Hold back what `a` sends to `b` from now on, in order, acknowledgements excepted."""
        self.note("network", "hold", a.ip, b.ip)
        return self.held.setdefault((a.ip, b.ip), Held(self, (a.ip, b.ip)))

    # What its hosts and sockets do with it

    def note(self, *parts: object) -> None:
        """Let happen what is due before, and log that something happens."""
        self.catch_up()
        self.log(*parts)

    def reaches(self, a: Host, b: Host) -> bool:
        """Whether something sent by `a`, however long ago, gets to `b` now."""
        return b.is_up and (a.ip, b.ip) not in self._cut

    def delay(self, a: Host, b: Host, size: int) -> float:
        """Seconds from now until `size` bytes sent by `a` are at `b`, if nothing is lost."""
        if a is b:
            return LOOPBACK
        link = self.link
        after, most = link.latencies
        if most > after:
            after += self._position(*sorted((a.ip, b.ip))) * (most - after)
        if link.bandwidth is not None:
            now = self.now()
            a.uplink_free = max(a.uplink_free, now) + size / link.bandwidth
            after += a.uplink_free - now
        return after + self.random.random() * link.jitter if link.jitter else after

    def arrive(self, a: Host, b: Host, func: Callable[..., object], *args: object) -> None:
        """Call `func` now, unless what `a` sends to `b` is held back."""
        if (held := self.held.get((a.ip, b.ip))) is None:
            func(*args)
        else:
            held.arrivals.append(partial(func, *args))

    def call_at(self, when: float, func: Callable[..., object], *args: object) -> None:
        """Make this call when it is time."""
        if self.tick:
            when = math.ceil(when / self.tick) * self.tick
        heappush(self.events, (when, next(self.sequence), func, args))
        if self._leader is not None and when < self._leader.deadline:
            self._leader.deadline = when

    def call_later(self, seconds: float, func: Callable[..., object], *args: object) -> None:
        """Make this call after so many seconds."""
        self.call_at(self.now() + seconds, func, *args)

    @property
    def next_event(self) -> float:
        """When something happens next."""
        return self.events[0][0] if self.events else math.inf

    def run_due(self) -> None:
        """Make the calls that are due, each as if it was made in time."""
        now = self.now()
        try:
            while self.events and self.events[0][0] <= now:
                self._moment, _, func, args = heappop(self.events)
                func(*args)
        finally:
            self._moment = math.inf

    async def _wait(self, woken: Event) -> None:
        """Wait until `woken`, perhaps longer or less long: one of the tasks that wait runs the events for all."""
        if self._leader is not None:
            self._waiting[woken] = None
            try:
                await woken.wait()
            finally:
                del self._waiting[woken]
            return
        try:
            while not woken.is_set():
                with CancelScope(deadline=self.next_event) as self._leader:
                    await woken.wait()
                self.run_due()
        finally:
            self._leader = None
            for other in islice(self._waiting, 1):
                other.set()  # it looks around, and goes on in our place

    def __repr__(self) -> str:
        return f"<Network of {len(self.hosts)} hosts>"


class Host:
    """One machine with one IP address; the `Transport` of the nodes on it.

    It has a loopback interface of its own. After `crash` or `kill` the program of its last life goes on in a void: what
    it sends vanishes, nothing comes, no dial is answered. (A simulation cancels the program, which then winds
    down in that void; its hooks run, though nobody hears of it.)
    """

    def __init__(self, network: Network, ip: str) -> None:
        self.ip: Final[str] = ip
        """Its address, in canonical form."""
        self.max_sockets: int = 1_000_000
        """Connections that a program may have open; beyond that, dialling and accepting fail with EMFILE."""
        self.network: Final = network
        self.is_up: bool = True
        self.boot: int = 0  # how often the power went off
        self.life: int = 0  # how often the program ended
        self.uplink_free: float = 0.0  # when it can send the next segment
        self.sockets: dict[_Socket, None] = {}  # of the program, in order
        self.listeners: dict[_Listener, None] = {}  # likewise
        self.end_program: Callable[[], object] = lambda: None
        self.start_program: Callable[[], Awaitable[object]] = checkpoint
        self._port = EPHEMERAL.start - 1

    # What a test does with it

    def crash(self) -> None:
        """Switch the power off: nobody is told. The other ends notice it as with a real one, if at all."""
        self._die("crash")

    def kill(self) -> None:
        """End the program at once (SIGKILL): the kernel closes its sockets, with a reset where there is unread data."""
        self._die("kill")

    def _die(self, how: Literal["crash", "kill"]) -> None:
        self.network.note(self.ip, how)
        self.life += 1
        if how == "crash":
            self.is_up = False
            self.boot += 1
        for listener in list(self.listeners):
            listener.close()
        for sock in self.sockets:
            sock.abandon()  # after a crash it does nothing
            sock.is_void = True
        self.sockets.clear()
        self.end_program()

    async def restart(self) -> None:
        """Switch the power on again, and start the program anew, if it has one, once the last one has wound down."""
        self.network.note(self.ip, "restart")
        self.is_up = True
        await self.start_program()

    # What a node does with it

    async def resolve(self, addr: Address, /) -> Sequence[Address]:
        """An IP literal is itself, but the unspecified one is loopback; a name is looked up in `Network.names`."""
        await checkpoint()
        return [reachable(self.look_up(addr))]

    def look_up(self, addr: Address, /) -> Address:
        """What an address stands for; `OSError` if nobody knows it."""
        host = "127.0.0.1" if addr[0] == "localhost" else self.network.names.get(addr[0], addr[0])
        if literal(host) is None:
            raise socket.gaierror(socket.EAI_NONAME, f"{addr[0]!r} is no host of this network")
        return canonical((host, addr[1]))

    def is_local(self, host: str) -> bool:
        """Whether this is an address of this very host."""
        ip = literal(host)
        return ip is not None and (str(ip) == self.ip or ip.is_loopback or ip.is_unspecified)

    async def listen(self, addr: Address, /, *, backlog: int, reuse_port: bool) -> Listener:
        """Listen at the host's address, its loopback address, or all of them; `OSError` as the system says."""
        await checkpoint()
        listener = _Listener(self, self._bind(self.look_up(addr), "listen at", reuse_port), backlog, reuse_port)
        if not self._is_void():
            self.listeners[listener] = None
        return listener

    async def dial(self, addr: Address, /, *, local_addr: Address | None = None) -> ByteStream:
        """Connect to an address; `OSError` as the system says. Cancelling it closes the socket."""
        own = self.ip
        if addr[0] != own and self.is_local(addr[0]):
            own = "::1" if ":" in addr[0] else "127.0.0.1"
        ip, port = self._bind(canonical(local_addr or (own, 0)), "dial from", reuse_port=True)
        sock = _Socket(self, (own if ip in ANY else ip, port), canonical(addr))
        what = f"connecting to {show(addr)} failed"
        is_mixed = local_addr and (":" in ip) != (":" in addr[0])
        _refuse(is_mixed, errno.EAFNOSUPPORT, f"cannot dial from {show((ip, port))}")
        is_taken = any((other.local, other.remote) == (sock.local, sock.remote) for other in self.sockets if local_addr)
        _refuse(is_taken, errno.EADDRNOTAVAIL, what)
        sock.is_connecting = True
        sock.is_void = self._is_void()
        if not sock.is_void:
            self.open(sock)
        try:
            await checkpoint()
            sock.send_syn()
            await sock.wait("writer", lambda: not sock.is_connecting)
            sock.raise_error(what)
            self.network.log(self.ip, "connected", show(sock.local), show(sock.remote))
            return _Stream(sock)
        except BaseException:
            sock.close()
            raise

    def _bind(self, addr: Address, what: str, reuse_port: bool) -> Address:
        """The address, with a port, if a socket can have it."""
        ip, port = addr
        _refuse(not self.is_local(ip), errno.EADDRNOTAVAIL, f"cannot {what} {show(addr)}")
        others = [listener for listener in self.listeners if ip in ANY or listener.addr[0] in (ip, *ANY)]
        taken = {other.addr[1] for other in others if not (reuse_port and other.reuse_port)}
        while not port or (not addr[1] and port in taken):
            port = self._port = self._port + 1 if self._port + 1 in EPHEMERAL else EPHEMERAL.start
        _refuse(port in taken, errno.EADDRINUSE, f"cannot {what} {show(addr)}")
        return ip, port

    def _is_void(self) -> bool:
        return not self.is_up or program_life.get() not in (None, self.life)

    def open(self, sock: _Socket) -> None:
        """Give the program one socket more, if it may have that."""
        _refuse(len(self.sockets) >= self.max_sockets, errno.EMFILE, self.ip)
        self.sockets[sock] = None

    def listeners_at(self, ip: str, port: int) -> list[_Listener]:
        """Who listens at that very address, or else at all addresses."""
        places = {ip, "::"} if ":" in ip else {ip, *ANY}  # "::" takes IPv4, too
        found = [listener for listener in self.listeners if listener.addr[1] == port and listener.addr[0] in places]
        return [listener for listener in found if listener.addr[0] == ip] or found

    def __repr__(self) -> str:
        return f"<Host {self.ip}{'' if self.is_up else ', down'}>"


class _Listener:
    """A listening socket, and its accept queue."""

    def __init__(self, host: Host, addr: Address, backlog: int, reuse_port: bool) -> None:
        self.addr: Address = addr
        self.reuse_port: bool = reuse_port
        self._host = host
        self._backlog = backlog
        self._queue: deque[_Socket] = deque()
        self._coming = 0  # set up but for the last acknowledgement
        self._changed = Event()
        self._is_closed = False

    def admit(self) -> bool:
        """Take a place in the queue for one more, if there is room: for one more than the backlog, on Linux."""
        has_room = len(self._queue) + self._coming <= self._backlog
        self._coming += has_room
        return has_room

    def enqueue(self, sock: _Socket) -> None:
        """Its set-up is done."""
        self._coming -= 1
        if self not in self._host.listeners:  # it was closed meanwhile, or its program was killed
            sock.close(reset=True)
            return
        self._queue.append(sock)
        self._changed.set()

    async def accept(self) -> tuple[ByteStream, Address]:
        """See `Listener`."""
        await checkpoint()
        while not self._queue:
            if self._is_closed:
                raise ClosedResourceError
            self._changed = Event()
            await self._host.network.wait(self._changed)
        self._host.open(self._queue[0])
        sock = self._queue.popleft()
        self._host.network.log(self._host.ip, "accepted", show(sock.local), show(sock.remote))
        return _Stream(sock), sock.remote

    def close(self) -> None:
        """Reset whoever is in the queue (RFC 9293, section 3.10.4)."""
        self._host.listeners.pop(self, None)
        while self._queue:
            self._queue.popleft().close(reset=True)

    async def aclose(self) -> None:
        """See `Listener`."""
        self.close()
        self._is_closed = True
        self._changed.set()
        await checkpoint()


class _End:
    """One end of a connection: what the kernel does for it. Data and b"", the end of the stream, are sent in order."""

    def __init__(self, host: Host, local: Address, remote: Address) -> None:
        self.host, self.network, self.boot = host, host.network, host.boot
        self.local, self.remote = local, remote
        self.family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
        self.peer: _End = self  # until there is one
        self.error = 0
        self.last = 0.0  # when its last segment arrives
        self.is_closed = self.is_connecting = False
        self.low_mark = 1  # bytes from which on it is readable
        self.is_void = False  # the program was killed, or the host has crashed
        self._is_dead = False  # a reset has come or gone
        self.inbox, self.out = bytearray(), bytearray()
        self.unsettled: int = 0  # bytes in the send buffer, sent or not; the end counts as one
        self._flight = 0  # bytes under way
        self._lost: list[bytes] = []  # what did not get through, and what came behind it
        self._eof_in = self._eof_out = self._eof_sent = False
        self.waiting: dict[str, Event] = {}  # a reader, a writer

    @property
    def is_up(self) -> bool:
        """Whether there is such a connection, for the kernel."""
        return not self._is_dead and self.boot == self.host.boot

    # What a program makes it do

    def abandon(self, *, reset: bool = False) -> None:
        """Its program has gone: what that had sent is still sent, unless there is a reset."""
        if self.boot == self.host.boot:
            if not self._is_dead and not self.is_connecting:
                (self.give_up if reset or self.inbox else self.end)()
            self.inbox.clear()

    def end(self) -> None:
        """Send the end behind all that is to be sent."""
        if not self._eof_out:
            self._eof_out = True
            self.unsettled += 1
            self.push()

    def raise_error(self, what: str) -> None:
        """Raise the error, if there is one, which is told once (SO_ERROR)."""
        code, self.error = self.error, 0
        _refuse(code, code, what)

    def wake(self, *which: str) -> None:
        """Let who waits look again."""
        for each in which or ("reader", "writer"):
            if each in self.waiting:
                self.waiting[each].set()

    # Sending and receiving

    def push(self) -> None:
        """Send what the peer has room for, and the end behind it."""
        if not self.is_up:
            return
        while self.out and (window := self.network.receive_buffer - self._flight - len(self.peer.inbox)) > 0:
            size = min(window, SEGMENT, len(self.out))
            if size > 1 and not self.network.random.randrange(FRAGMENTED):
                size = self.network.random.randrange(1, size)
            self._flight += size
            self._transmit(bytes(self.out[:size]))
            del self.out[:size]
        if self._eof_out and not self.out and not self._eof_sent:
            self._eof_sent = True
            self._transmit(b"")

    def _transmit(self, item: bytes) -> None:
        if not self._send_segment(self.peer.host, _kind(item), item, self._arrive, item):
            self.deliver(self.peer.host, self._arrive, item, True)

    def verdict(self, kind: Kind, data: bytes) -> Verdict:
        """What the rule says about a packet."""
        rule = self.network.rule
        return Verdict.PASS if rule is None else rule(Packet(self.local, self.remote, kind, data))

    def _send_segment(self, target: Host, kind: Kind, data: bytes, func: Callable[..., object], *args: object) -> bool:
        """Let `func` be called once a segment has arrived; False if it does not.

        What is lost is sent again, but for a SYN, which its sender repeats, and a reset.
        """
        verdict, network, loss = self.verdict(kind, data), self.network, self.network.link.loss
        after, pause = network.delay(self.host, target, HEADER + len(data)) + verdict.delay, RETRY_MIN
        is_lost = verdict.drop
        while loss and self.host is not target and not is_lost and network.random.random() < loss:
            is_lost = kind in {"SYN", "RST"}
            after += pause
            pause *= 2
        if not is_lost:
            self.last = max(self.last, network.now() + after)
            self.deliver(target, func, *args)
        return not is_lost

    def deliver(self, target: Host, func: Callable[..., object], *args: object) -> None:
        """Call `func` when the last segment arrives, unless what comes from here is held back then."""
        self.network.call_at(max(self.last, self.network.now()), self.network.arrive, self.host, target, func, *args)

    def _arrive(self, item: bytes, is_lost: bool = False) -> None:
        if self._lost or is_lost or not self._hand_over(item):
            self._lost.append(item)
            if len(self._lost) == 1:
                self.network.call_later(RETRY_MIN, self._retransmit)

    def _retransmit(self, tries: int = 1) -> None:
        if not self.is_up:
            return
        if tries > RETRIES:
            self._fail(errno.ETIMEDOUT)
            return
        lost = self._lost
        while lost and not self.verdict(_kind(lost[0]), lost[0]).drop and self._hand_over(lost[0]):
            del lost[0]
        if lost:
            self.network.call_later(min(RETRY_MIN * 2**tries, RETRY_MAX), self._retransmit, tries + 1)

    def _hand_over(self, item: bytes) -> bool:
        """Let the peer's kernel have an item; False if it does not get there."""
        if not self.network.reaches(self.host, self.peer.host):
            return False
        self._flight -= len(item)
        if self.peer.take(item):
            self._acknowledge(len(item) or 1, RETRY_MIN)
            self.push()
        return True

    def take(self, item: bytes) -> bool:
        """Something has come from the peer; False if it is of no use any more, which the answer says."""
        if not self.is_up or (item and (self.is_closed or self.is_void)):
            self.give_up()
            return False
        self.inbox += item
        self._eof_in = not item
        self.wake("reader")
        return True

    def give_up(self) -> None:
        """Send a reset: there is no such connection, any more (RFC 9293, section 3.5.2)."""
        self._is_dead = True
        self.out.clear()
        self._send_segment(self.peer.host, "RST", b"", self.peer.meet_reset)

    def _acknowledge(self, size: int, pause: float) -> None:
        """The peer's acknowledgement is sent: once it is here, there is room again. If it is lost, it is repeated."""
        network, peer = self.network, self.peer
        if not self.is_up or peer.boot != peer.host.boot:
            return
        if network.reaches(peer.host, self.host) and network.reaches(self.host, peer.host):
            network.call_later(network.delay(peer.host, self.host, HEADER), self._settle, size)
        else:
            network.call_later(pause, self._acknowledge, size, min(pause * 2, RETRY_MAX))

    def _settle(self, size: int) -> None:
        self.unsettled -= size
        self.wake("writer")

    def meet_reset(self) -> None:
        """A reset has come."""
        if self.is_up and self.network.reaches(self.peer.host, self.host):
            self._fail(errno.EPIPE if self._eof_in else errno.ECONNRESET)

    def _fail(self, code: int) -> None:
        self._is_dead, self.is_connecting, self.error = True, False, code
        self.out.clear()
        self.network.log(self.host.ip, show(self.local), "to", show(self.remote), errno.errorcode[code])
        self.wake()

    # Setting up

    def send_syn(self, tries: int = 0) -> None:
        """Ask for a connection, again and again, until there is an answer."""
        if not self.is_connecting or not self.is_up or self.is_closed or self.is_void:
            return
        if tries > SYN_RETRIES:
            self._fail(errno.ETIMEDOUT)
            return
        network = self.network
        network.call_later(2.0**tries, self.send_syn, tries + 1)
        target = self.host if self.host.is_local(self.remote[0]) else network.hosts.get(self.remote[0])
        if target is not None:
            self._send_segment(target, "SYN", b"", self._meet_listener, target)

    def _meet_listener(self, target: Host) -> None:
        network, back = self.network, self.network.delay(target, self.host, HEADER)
        is_through = network.reaches(self.host, target) and network.reaches(target, self.host)
        if not is_through or not self.is_connecting or self.peer is not self:
            return
        listeners = target.listeners_at(*self.remote)
        if not listeners:
            network.call_later(back, self._be_answered, False)
            return
        listener = listeners[0] if len(listeners) == 1 else network.random.choice(listeners)
        if listener.admit():  # else the SYN is dropped (tcp_abort_on_overflow is off)
            self.peer = server = _Socket(target, self.remote, self.local)
            server.peer = self
            self.last = network.now() + back
            network.call_later(back, self._be_answered, True)
            network.call_later(back + network.delay(self.host, target, HEADER), listener.enqueue, server)

    def _be_answered(self, accepted: bool) -> None:
        if self.boot == self.host.boot and self.is_connecting:
            self.is_connecting = False
            if not accepted:
                self._fail(errno.ECONNREFUSED)
            elif self.is_closed or self.is_void:
                self.give_up()
            self.wake()

    def __repr__(self) -> str:
        return f"<simulated socket {show(self.local)} to {show(self.remote)}{', closed' if self.is_closed else ''}>"


def _kind(item: bytes) -> Kind:
    return "DATA" if item else "FIN"


class _Socket(_End):
    """What a program sees of it, made like `socket.socket`."""

    def recv(self, size: int) -> bytes:
        """What is there; b"" at the end."""
        self._look()
        if self.inbox:
            data = bytes(self.inbox[:size])
            del self.inbox[:size]
            if (peer := self.peer).out:  # it learns of the window
                self.network.call_later(self.network.delay(self.host, peer.host, HEADER), peer.push)
            return data
        if self._eof_in or (self._is_dead and not self.error):  # Linux looks at the end (SOCK_DONE) before the error
            return b""
        self.raise_error("recv")
        raise BlockingIOError

    def send(self, data: bytes) -> int:
        """How many bytes there was room for."""
        self._look()
        if self.is_void:
            return len(data)
        self.raise_error("send")
        _refuse(self._eof_out or self._is_dead, errno.EPIPE, "send")
        room = self.network.send_buffer - self.unsettled
        if room <= 0:
            raise BlockingIOError
        part = data[:room]
        self.unsettled += len(part)
        self.out += part
        self.push()
        return len(part)

    def sendmsg(self, parts: Iterable[bytes]) -> int:
        """The same, of several parts."""
        return self.send(b"".join(parts))

    def shutdown(self, _how: int) -> None:
        """Say that nothing more will come."""
        self._look()
        is_over = self._is_dead or (self._eof_in and self._eof_out and not self.unsettled)
        if not self.is_void:
            _refuse(is_over, errno.ENOTCONN, "shutdown")
            self.end()

    def setsockopt(self, _level: int, option: int, value: object) -> None:
        """Nothing depends on options here but how much makes it readable; Linux bounds that by half of the buffer."""
        if option == socket.SO_RCVLOWAT and isinstance(value, int):
            self.low_mark = min(value, self.network.receive_buffer // 2)
            self.wake()

    def close(self, *, reset: bool = False) -> None:
        """Close it: with a reset, where something is unread (RFC 2525, section 2.17)."""
        if not self.is_closed:
            self.network.catch_up()
            self.is_closed = True
            self.host.sockets.pop(self, None)
            self.wake()
            if not self.is_void:  # else that was done when the program was killed
                self.abandon(reset=reset)

    def fileno(self) -> int:
        """No descriptor; below 0 once it is closed."""
        return -1 if self.is_closed else 1 << 30

    def getsockname(self) -> Address:
        """Its own address."""
        self._look()
        return self.local

    def getpeername(self) -> Address:
        """The peer's address."""
        self._look()
        return self.remote

    def is_readable(self) -> bool:
        """Whether `recv` would not block."""
        self.network.catch_up()
        return not self.is_void and (self._eof_in or self._is_dead or len(self.inbox) >= self.low_mark)

    def is_writable(self) -> bool:
        """Whether `send` would not block for long: Linux says so once a third of the buffer is free."""
        self.network.catch_up()
        return self.is_void or self._eof_out or self._is_dead or self.unsettled * 3 <= self.network.send_buffer * 2

    async def wait(self, which: Literal["reader", "writer"], is_ready: Callable[[], bool]) -> None:
        """As `anyio.wait_readable` and `wait_writable`."""
        if which in self.waiting:
            raise BusyResourceError(which)
        if is_ready():
            await checkpoint()
        while not is_ready() and not self.is_closed:
            event = self.waiting[which] = Event()
            try:
                await self.network.wait(event)
            finally:
                del self.waiting[which]
        if self.is_closed:
            raise ClosedResourceError

    def _look(self) -> None:
        _refuse(self.is_closed, errno.EBADF, "the socket is closed")
        self.network.catch_up()


class _Stream(TCPStream):
    """The library's own TCP stream; what waits, waits for the simulated socket."""

    def __init__(self, sock: _Socket) -> None:
        self._simulated = sock
        super().__init__(cast("socket.socket", sock))

    def readable(self) -> Awaitable[None]:
        return checkpoint() if self._back else self._simulated.wait("reader", self._simulated.is_readable)

    def writable(self) -> Awaitable[None]:
        return self._simulated.wait("writer", self._simulated.is_writable)

    def unacknowledged(self) -> int | None:
        self._simulated.network.catch_up()
        return None if self._simulated.is_closed else self._simulated.unsettled

    def _release(self, *, reset: bool) -> None:
        self._simulated.close(reset=reset)
