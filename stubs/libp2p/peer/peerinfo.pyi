from collections.abc import Sequence

from libp2p.peer.id import ID
from multiaddr import Multiaddr

class PeerInfo:
    def __init__(self, peer_id: ID, addrs: Sequence[Multiaddr]) -> None: ...

def info_from_p2p_addr(addr: Multiaddr) -> PeerInfo: ...
