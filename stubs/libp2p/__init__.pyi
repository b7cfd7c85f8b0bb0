from collections.abc import Sequence
from typing import Literal

from libp2p.abc import IHost
from libp2p.crypto.keys import KeyPair
from multiaddr import Multiaddr

def new_host(
    key_pair: KeyPair | None = None,
    *,
    muxer_preference: Literal["YAMUX", "MPLEX"] | None = None,
    listen_addrs: Sequence[Multiaddr] | None = None,
) -> IHost: ...
