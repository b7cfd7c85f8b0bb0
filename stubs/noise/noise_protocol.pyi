from noise.backends.noise_backend import NoiseBackend
from noise.state import HandshakeState

class NoiseProtocol:
    # Deleted as soon as the last message of the handshake was read or written.
    handshake_state: HandshakeState
    def __init__(self, protocol_name: bytes, backend: NoiseBackend) -> None: ...
