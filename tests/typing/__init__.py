"""What the type checkers say about code that uses the library: checked, never run.

`accepted.py` must pass. In `refused.py` each mistake carries the error it must get, and the word that the message must
have for it. `mutations.py` takes the public interface apart, piece by piece, and each time something here must fail.
"""
