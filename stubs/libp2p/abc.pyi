from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

class INetStream(ABC):
    @abstractmethod
    async def read(self, n: int | None = None) -> bytes: ...
    @abstractmethod
    async def write(self, data: bytes) -> None: ...
    @abstractmethod
    async def close(self) -> None: ...

class IHost(ABC):
    @abstractmethod
    def run(
        self, listen_addrs: Sequence[Multiaddr], *, task_status: object = ...
    ) -> AbstractAsyncContextManager[None]: ...
    @abstractmethod
    def get_addrs(self) -> list[Multiaddr]: ...
    @abstractmethod
    def set_stream_handler(
        self, protocol_id: TProtocol, stream_handler: Callable[[INetStream], Awaitable[None]]
    ) -> None: ...
    @abstractmethod
    async def connect(self, peer_info: PeerInfo) -> None: ...
    @abstractmethod
    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[TProtocol]) -> INetStream: ...
