"""The five protocols: each module has what the user implements, and what runs it for one connection."""
