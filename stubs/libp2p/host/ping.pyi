import libp2p.peer.id
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol

ID: TProtocol

class PingService:
    def __init__(self, host: IHost, rcmgr: object = None) -> None: ...
    async def handle_ping(self, stream: INetStream) -> None: ...
    async def ping(self, peer_id: libp2p.peer.id.ID, ping_amt: int = 1) -> list[int]: ...
