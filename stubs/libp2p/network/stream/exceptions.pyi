class StreamEOF(EOFError): ...  # noqa: N818  # not ours to name
