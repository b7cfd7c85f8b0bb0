from noise.functions.keypair import KeyPair

class HandshakeState:
    # The peer's static key, once a message has brought it.
    rs: KeyPair
