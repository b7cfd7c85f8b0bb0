"""Who may connect: the limits, and the table of connections.

Rule 1: what is checked and what is taken is one step: nothing here waits, so no limit can be overrun.
Rule 2: whatever was reserved is released, once, by whoever reserved it: `release` is for every way a connection ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from collections.abc import Set as AbstractSet
from typing import TypeVar

from ._address import Address, canonical, group_of, is_pair, show
from ._session import Session
from .config import Config
from .connection import Connection, Side
from .errors import AlreadyConnectedError, ConnectionLimitError

S = TypeVar("S")


class Admission:
    """The slots of one node."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.established: dict[Address, Session] = {}
        self.connecting: dict[Address, Side] = {}
        self._of_side = dict.fromkeys(Side, 0)
        self._of_group: Counter[str] = Counter()
        self._setting_up = dict.fromkeys(Side, 0)

    def has_budget(self, side: Side) -> bool:
        """Whether one more set-up may be under way on that side."""
        return self._setting_up[side] < self._config.max_connecting

    def reserve(self, addr: Address, side: Side) -> None:
        """Take a slot for a connection that is being set up.

        Raises `AlreadyConnectedError` or `ConnectionLimitError`; then nothing is taken.
        """
        config = self._config
        if addr in self.established:
            raise AlreadyConnectedError(f"there is a connection to {show(addr)} already")
        if addr in self.connecting:
            raise AlreadyConnectedError(f"a connection to {show(addr)} is being set up already")
        if not self.has_budget(side):
            raise _limit("max_connecting", config.max_connecting, addr)
        inbound = side is Side.RESPONDER
        if inbound and config.max_inbound is not None and self._of_side[side] >= config.max_inbound:
            raise _limit("max_inbound", config.max_inbound, addr)
        group = group_of(addr[0], config.ipv6_prefix)
        if group is not None and self._of_group[group] >= config.max_connections_per_ip:
            raise _limit("max_connections_per_ip", config.max_connections_per_ip, addr)
        if len(self.established) + len(self.connecting) >= config.max_connections:
            raise _limit("max_connections", config.max_connections, addr)
        if group is not None:
            self._of_group[group] += 1
        self.connecting[addr] = side
        self._of_side[side] += 1
        self._setting_up[side] += 1

    def establish(self, session: Session) -> None:
        """The set-up is over: the connection is among the established ones."""
        self.established[session.addr] = session
        side = self.connecting.pop(session.addr)
        self._setting_up[side] -= 1

    def release(self, addr: Address) -> None:
        """Give the slot back, of an established connection or of a set-up, unless that was begun before."""
        session, side = self.established.pop(addr, None), self.connecting.pop(addr, None)
        if side is not None:
            self._setting_up[side] -= 1
        elif session is not None:
            side = session.side
        else:
            return
        self._of_side[side] -= 1
        group = group_of(addr[0], self._config.ipv6_prefix)
        if group is not None:
            self._of_group[group] -= 1
            if not self._of_group[group]:
                del self._of_group[group]


def _limit(field: str, value: int, addr: Address) -> ConnectionLimitError:
    return ConnectionLimitError(f"no connection with {show(addr)}: {field}={value} is reached", field)


class ConnectionsView(Mapping[Address, Connection]):
    """The established connections, live and read-only. Iterates over a snapshot."""

    def __init__(self, admission: Admission) -> None:
        self._found = admission.established

    def __getitem__(self, addr: Address) -> Connection:
        session = self._found.get(addr) or self._found[canonical(addr) if is_pair(addr) else addr]
        return session.connection

    def __iter__(self) -> Iterator[Address]:
        return iter(list(self._found))

    def __len__(self) -> int:
        return len(self._found)

    def values(self) -> ValuesView[Connection]:
        """A snapshot."""
        return self._snapshot().values()

    def items(self) -> ItemsView[Address, Connection]:
        """A snapshot."""
        return self._snapshot().items()

    def _snapshot(self) -> dict[Address, Connection]:
        return {addr: session.connection for addr, session in self._found.items()}

    def __repr__(self) -> str:
        return f"<connections {list(self._found)}>"


class ConnectingView(AbstractSet[Address]):
    """The addresses of connections that are being set up, live and read-only. Iterates over a snapshot."""

    def __init__(self, admission: Admission) -> None:
        self._found = admission.connecting

    @classmethod
    def _from_iterable(cls, it: Iterable[S]) -> AbstractSet[S]:  # what `view & other` and the like return
        return set(it)

    def __contains__(self, addr: object) -> bool:
        return is_pair(addr) and canonical(addr) in self._found

    def __iter__(self) -> Iterator[Address]:
        return iter(list(self._found))

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return f"<connecting {list(self._found)}>"
