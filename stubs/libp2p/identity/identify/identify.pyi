from collections.abc import Sequence
from typing import Protocol

from libp2p.custom_types import TProtocol

ID: TProtocol

class _Identify(Protocol):
    # In truth a class that protobuf makes at run time.
    agent_version: str
    protocols: Sequence[str]
    listen_addrs: Sequence[bytes]
    observed_addr: bytes

def parse_identify_response(response: bytes) -> _Identify: ...
