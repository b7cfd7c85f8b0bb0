"""How fast it is, beside what else one could use: `nox -s bench`; `nox -s bench -- --help`.

    __main__.py    the driver: which work for whom, in which order, how often
    work.py        what is to be done in a run
    stage.py       the processes of a run, forked and pinned
    program.py     a run: a server, a client, and what both have measured
    crowd.py       the clients of work with many connections: bare sockets, the same for everybody
    channels.py    what contestants have in common whose users send and receive messages one by one
    of_*.py        the contestants, each a program that runs its own work when told to
    report.py      the table, the ratios to reach, the picture
    profiles.py    where the time goes: `nox -s profile`

It runs on Linux: processor time and memory of a server are read in /proc, from outside.
"""
