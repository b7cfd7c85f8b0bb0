"""What the arguments of the command line may be, and the certificates that they name."""

from __future__ import annotations

import argparse
import os
import re
import ssl
from argparse import ArgumentTypeError
from typing import NoReturn

from ._address import Address
from ._screen import Failure, framing, reason_of
from .connection import Side
from .handshakes import TLSHandshake


def address(text: str) -> Address:
    """The type of arguments that are addresses."""
    host, _, port = text.rpartition(":")
    bracketed = host[:1] + host[-1:] == "[]"
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535 or (":" in host and not bracketed):
        raise ArgumentTypeError(f"{text!r} has no port from 0 to 65535; write HOST:PORT or [IPV6]:PORT")
    return (host[1:-1] if bracketed else host) or "127.0.0.1", int(port)


def factor(text: str) -> float:
    """The type of `--speed`."""
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", text):
        raise ArgumentTypeError(f"{text!r} is no number; write 5 or 0.5")
    return float(text)


def seconds(text: str) -> float:
    """The type of `--timeout`."""
    if not (value := factor(text)):
        raise ArgumentTypeError(f"{text!r} is no time; write 5 or 0.5")
    return value


def call(manual: str | None) -> argparse.ArgumentParser:
    """The parser of the arguments; `manual` is what `--help` says."""

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    shared = Parser(add_help=False)
    option = shared.add_argument
    option("--frame", dest="framing", metavar="FRAME", type=framing, default="lines", help="how bytes become messages")
    option("--width", type=int, metavar="N", help="columns of a line; 0: all of it (default: the terminal's, or 160)")
    option("--json", action="store_true", help="write a JSON object for each event")
    option(
        "--timeout",
        type=seconds,
        default=5.0,
        metavar="S",
        help="seconds for a dial, an answer, a silence (default: 5)",
    )
    option("--record", metavar="FILE", help="write all events to this file, too, as JSON lines")
    option("--loop", choices=["asyncio", "trio"], default="asyncio", help="the event loop")
    option("--tls", action="store_true", help="use TLS (a proxy: with the target and, given --cert, with its peers)")
    option("--cert", metavar="FILE", help="this side's certificate, PEM")
    option("--key", metavar="FILE", help="its key, PEM, unless --cert has it")
    option(
        "--ca", metavar="FILE", help="the authorities that a peer's certificate must be of, PEM; to listen: require one"
    )
    option("--insecure", action="store_true", help="accept any certificate")
    option("--confirm", action="store_true", help="the peer is a node that uses pea2pea.handshakes.TLSHandshake")
    sending = Parser(add_help=False)
    sending.add_argument("--hex", action="store_true", help="input is bytes in hexadecimal")
    sending.add_argument(
        "--one", action="store_true", help="send the input, print one answer and nothing else, and leave"
    )
    parser = Parser(prog="pea2pea", description=manual, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(listen=None, dial=(), hex=False, one=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    listen = commands.add_parser("listen", parents=[shared, sending], help="accept peers")
    connect = commands.add_parser("connect", parents=[shared, sending], help="connect to peers")
    proxy = commands.add_parser("proxy", parents=[shared], help="show what two programs say to each other")
    replay = commands.add_parser("replay", parents=[shared], help="send the bytes of a record once more")
    for command in (listen, proxy):
        command.add_argument("listen", type=address, metavar="LISTEN", help="where to listen")
    replay.add_argument("file", metavar="FILE", help="what --record has written")
    replay.add_argument("--speed", type=factor, default=1.0, metavar="N", help="N times as fast; 0: without pauses")
    for command, count in ((connect, "+"), (proxy, 1), (replay, 1)):
        command.add_argument("dial", type=address, nargs=count, metavar="ADDR", help="to whom to connect")
    return parser


def prepare_tls(options: argparse.Namespace) -> None:
    """Make the contexts for TLS; `Failure` says which file or option is wrong."""
    options.contexts = {}
    given = {flag: getattr(options, flag) for flag in ("cert", "key", "ca", "insecure", "confirm")}
    if not options.tls:
        for flag in filter(given.get, given):
            raise Failure(f"--{flag} is for TLS; give --tls, too", 2)
        return
    for flag in ("cert", "key", "ca"):
        if given[flag] and not os.access(given[flag], os.R_OK):
            raise Failure(f"--{flag} {given[flag]} cannot be read; give a file in PEM format", 2)
    if options.command == "listen" and not options.cert:
        raise Failure("to listen with --tls takes a certificate; give --cert and --key", 2)
    client, server = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_too = options.listen is not None and options.cert
    try:
        if options.cert:
            (server if server_too else client).load_cert_chain(options.cert, options.key)
        if options.ca:
            (server if options.command == "listen" else client).load_verify_locations(options.ca)
            server.verify_mode = ssl.CERT_REQUIRED if options.command == "listen" else ssl.CERT_NONE
    except OSError as error:
        what = f"--cert {options.cert} --key {options.key} --ca {options.ca}"
        raise Failure(f"{what}: {reason_of(error)}; certificates and keys are to be PEM, and to fit", 2) from error
    if options.insecure:
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    options.tls_handshake = TLSHandshake(client=client, server=server)
    options.contexts = {Side.INITIATOR: client} | ({Side.RESPONDER: server} if server_too else {})
