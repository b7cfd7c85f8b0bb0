"""Builds the manual, a site of plain files: `nox -s docs`, or `python .manual/build.py FOLDER`.

The reference is what pdoc makes of the docstrings. All other pages are Markdown: those in this folder, and documents of
the project. pdoc renders modules alone, so a page is a module object that has its text as docstring.

Any warning is an error, as is a link that leads nowhere, and a name in a text that looks public and is not.
"""

from __future__ import annotations

import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urldefrag

import pdoc
import pdoc.doc
import pdoc.docstrings
import pdoc.render
import pdoc.render_helpers
from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup

import pea2pea
from pages import DOCUMENTS, HERE, PAGES, REFERENCE, ROOT, Page, find_uses, read_pages
from rumour import draw

MADE_BY_THE_LIBRARY = ("Connection", "ConnectionLimitError", "Held", "Host", "Outbox", "Simulation")
FOR_USERS = {  # other members are public by name since modules of the library use them
    "Connection": "addr side dialled stats origin cause start_soon wait_closed",
    "Held": "release",
    "Host": "ip max_sockets crash kill restart resolve is_local listen dial",
    "Network": "__init__ link rule names send_buffer receive_buffer tick host partition cut heal hold",
    "Simulation": "seed random network digest log host start running until",
}
FIRST = {  # on the page of a module; the rest follows by name
    "pea2pea": """Node Config Connection Outbox Handshake Reading Writing OnConnect OnDisconnect Side DisconnectOrigin
        Address Peer Stats Heuristics Decoder Encoder Codec Frame Transport Listener TCPTransport NodeError""",
    "pea2pea.codecs": """mapped batched LinesCodec LengthDelimitedCodec VarintDelimitedCodec HeaderCodec DelimitedCodec
        BytesCodec""",
    "pea2pea.testing": "simulate Simulation Host Network Link Packet Verdict Held ScriptedPeer check_codec wait_until",
}
ALIASES = {  # what `inspect` shows of a name that stands for a type; the order matters
    "bytes | bytearray | memoryview | tuple[bytes | bytearray | memoryview, ...]": "pea2pea.Frame",
    "bytes | bytearray | memoryview": "pea2pea.codecs.Chunk",
    "tuple[str, int] | pea2pea.connection.Connection": "pea2pea.Peer",
    "tuple[str, int]": "pea2pea.Address",
    # type variables: the long names are for the messages of type checkers
    "~Made_by_decoder_and_taken_by_process_message": "M",
    "~Made_by_decode_and_taken_by_encode": "B",
    "~Taken_by_encoder": "M",
    "~Of_codec": "A",
}
EXAMPLES_MAX = 4  # links from a name to what uses it


def read_module(name: str) -> pdoc.doc.Module:
    """What pdoc finds in a module, in the order in which it is to be shown."""
    module = pdoc.doc.Module(import_module(name))
    if name in FIRST:
        first = FIRST[name].split()
        module.members = {each: module.members[each] for each in (*first, *sorted(set(module.members) - set(first)))}
    written = {alias.rpartition(".")[2]: shown for shown, alias in ALIASES.items() if "." in alias}
    for doc in module.variables:
        if doc.name in written:
            doc.default_value_str = written[doc.name].replace("pea2pea.connection.", "pea2pea.")
    return module


class Site:
    """What the site has, and where."""

    def __init__(self) -> None:
        self.pages = {page.name: page for page in read_pages()}
        self.uses = find_uses(list(self.pages.values()))
        self.copies: dict[Path, str] = {}
        """Files of the repository that pages refer to, and where they are in the site."""
        self.problems: list[str] = []
        self.modules = {name: read_module(name) for name in REFERENCE}
        self.urls = dict(self._names())
        for page in self.pages.values():
            module = ModuleType(page.name, self._linked(page))
            module.__docformat__ = "markdown"  # type: ignore[attr-defined]  # pdoc looks for it
            self.modules[page.name] = pdoc.doc.Module(module)

    def _names(self) -> Iterator[tuple[str, str]]:
        """Each public name, and each member of a public class as `Class.member`, with its place."""
        for module in self.modules.values():
            url = f"{module.modulename.replace('.', '/')}.html"
            yield module.modulename, url
            for doc in module.own_members:
                if module.modulename != "pea2pea.topology" or "_" in doc.name:  # others are words: ring, random
                    yield doc.name, f"{url}#{doc.qualname}"
                yield f"{module.modulename}.{doc.name}", f"{url}#{doc.qualname}"
                for member in doc.members.values() if isinstance(doc, pdoc.doc.Class) else ():
                    if not self.is_internal(member):
                        yield member.qualname, f"{url}#{member.qualname}"

    @staticmethod
    def is_internal(doc: pdoc.doc.Doc[Any]) -> bool:
        """Whether a member of a class is not for users."""
        owner, _, name = doc.qualname.rpartition(".")
        if name == "__init__":
            return owner in MADE_BY_THE_LIBRARY
        return name.startswith("_") or (owner in FOR_USERS and name not in FOR_USERS[owner].split())

    def _linked(self, page: Page) -> str:
        """The text of a page, with links to where things are in the site."""
        if page.source.suffix == ".py":
            return page.text

        def replace(match: re.Match[str]) -> str:
            target, mark, fragment = match[2].partition("#")
            if re.match(r"[a-z]+:", target) or not target:
                return match[0]
            where = self.locate(page.source.parent / target)
            return f"{match[1]}{relpath(where, str(PurePosixPath(page.url).parent))}{mark}{fragment})"

        parts = re.split(r"(^```.*?^```$|`[^`\n]+`)", page.text, flags=re.DOTALL | re.MULTILINE)
        return "".join(re.sub(r"(\]\()([^)\s]+)\)", replace, part) if part[:1] != "`" else part for part in parts)

    def locate(self, path: Path) -> str:
        """Where a file of the repository is in the site; it is copied if it is no page."""
        path = Path(normpath(path))
        for page in self.pages.values():
            if page.source == path:
                return page.url
        if path == HERE / "rumour.svg":
            return "rumour.svg"
        if not path.is_file():
            return path.name  # a dead link, as will be told
        suffix = ".txt" if path.suffix in ("", ".py") else ""  # so that a browser shows it
        return self.copies.setdefault(path, f"files/{path.relative_to(ROOT).as_posix()}{suffix}")

    def examples_of(self, doc: pdoc.doc.Doc[Any]) -> list[Page]:
        """Some pages that use a public name, the shortest first."""
        found = sorted(self.uses[doc.name], key=lambda page: (page.name.startswith("examples."), len(page.text)))
        return found[:EXAMPLES_MAX]

    def source_of(self, module: pdoc.doc.Module) -> Markup:
        """The code of an example, as HTML; nothing for other pages."""
        page = self.pages.get(module.modulename)
        if page is None or page.source.suffix != ".py":
            return Markup()
        text = page.source.read_text()
        code = text.partition('"""\n')[2].lstrip()  # the page begins with the docstring
        return Markup(pdoc.render_helpers.to_html(f"```python\n{code}\n```"))  # noqa: S704  # our own

    def write(self, folder: Path) -> None:
        """Write all files."""
        pdoc.render.configure(template_directory=HERE / "templates", show_source=False, footer_text="pea2pea")
        environment = pdoc.render.env
        environment.globals |= {"site": self, "pages": PAGES, "documents": DOCUMENTS, "reference": REFERENCE}
        environment.filters["linkify"] = self.linkify
        shutil.rmtree(folder, ignore_errors=True)
        for name, module in self.modules.items():
            file = folder / f"{name.replace('.', '/')}.html"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(pdoc.render.html_module(module, self.modules))
        # what is found is shown on pages in any folder, so links that are relative to its own one lead nowhere
        index = re.sub(r'<a href=\\"(?!https?:)[^"]*\\">(.*?)</a>', r"\1", pdoc.render.search_index(self.modules))
        (folder / "search.js").write_text(index)
        for path, where in self.copies.items():
            (folder / where).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / where)

    @pass_context
    def linkify(self, context: Context, code: str, namespace: str = "", *, shorten: bool = True) -> Markup:
        """Link names as pdoc does, and then those that it does not find, since they are in another module."""
        module: pdoc.doc.Module = context["module"]
        here = str(PurePosixPath(module.modulename.replace(".", "/")).parent)

        def replace(match: re.Match[str]) -> str:
            name, head = match[1], match[1].partition(".")[0]
            url = self.urls.get(name)
            if url is not None:
                return f'<a href="{relpath(url, here)}">{match[0]}</a>'
            if "." in name and head in self.urls and head[0].isupper() and module.modulename != "changelog":
                self.problems.append(f"{module.modulename}: there is no {name}")
            return match[0]

        linked = pdoc.render_helpers.linkify(context, code, namespace, shorten)
        pattern = r"(?<!\">)<code>((?:pea2pea\.)?[A-Za-z_]\w*(?:\.\w+)*)(?:\(\))?</code>(?!</a>)"
        return Markup(re.sub(pattern, replace, linked))  # noqa: S704  # our own


def shorten(annotation: str) -> str:
    """Write an annotation as the source has it."""
    for long, short in ALIASES.items():
        annotation = annotation.replace(long, short)
    annotation = annotation.replace(repr(pea2pea.Config()), "Config()")
    annotation = re.sub(r"(?<!\w)[~+-](?=[A-Z]\w*)", "", annotation)
    annotation = re.sub(r"\b(?:collections\.abc|typing_extensions)\.|_co(?:ntra)?\b", "", annotation)
    annotation = re.sub(r"^(?:typing\.)?Final\[(.*)\]$", r"\1", annotation)
    return re.sub(r"\b(pea2pea(?:\.\w+)*)\.(\w+)", _public_name, annotation)


def _public_name(match: re.Match[str]) -> str:
    return f"pea2pea.{match[2]}" if match[1] not in REFERENCE and match[2] in pea2pea.__all__ else match[0]


def list_parameters(docstring: str) -> str:
    """Make a list of paragraphs in which each line, or line with those indented below it, is about one name."""
    item = r"(?:`\w+`|\w+(?:, \w+)*(?: \d)?): "

    def mark(match: re.Match[str]) -> str:
        return f"- **{match[0].rstrip(': ').strip('`')}**: "

    paragraphs = docstring.split("\n\n")
    for number, paragraph in enumerate(paragraphs):
        lines = paragraph.split("\n")
        is_marked = lines[0].startswith("`")
        if re.match(item, lines[0]) and all(
            is_marked or line.startswith("    ") or re.match(item, line) for line in lines
        ):
            made = [
                re.sub(r"^`?([\w, ]+?)`?: ", r"- **\1**: ", line) if re.match(item, line) else line for line in lines
            ]
            if len(lines) > 1 and (not is_marked or sum(line.startswith("- ") for line in made) > 1):
                paragraphs[number] = "\n".join(line if line.startswith("-") else f"  {line.strip()}" for line in made)
    return "\n\n".join(paragraphs)


def own_members(cls: pdoc.doc.Class) -> list[pdoc.doc.Doc[Any]]:
    """The members of a class, also those that it has of a base that is private, since no other page shows them."""
    own = (cls.taken_from, (cls.modulename, cls.qualname))
    found = []
    for (module, base), members in cls._members_by_origin.items():
        if (module, base) in own or (base.startswith("_") and module.startswith("pea2pea")):
            found += members
    return found


def bases(cls: pdoc.doc.Class) -> list[tuple[str, str, str]]:
    """The bases of a class as pdoc has them, those of a private base in place of that."""
    found = []
    for base in cls.obj.__bases__:
        if base.__name__.startswith("_"):
            found += bases(pdoc.doc.Class(base.__module__, base.__qualname__, base, ("", "")))
        elif base.__module__ not in ("abc", "typing") and base is not object:
            module = "" if base.__module__.partition(".")[0] in ("builtins", "pea2pea") else f"{base.__module__}."
            found.append((base.__module__, base.__qualname__, f"{module}{base.__qualname__}"))
    return found


class Links(HTMLParser):
    """The ids of a page, and what it refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.targets: set[str] = set()

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an id or a link."""
        for name, value in attrs:
            if value and name in ("id", "name"):
                self.ids.add(value)
            elif value and name in ("href", "src") and not re.match(r"[a-z]+:", value):
                self.targets.add(value)


def dead_links(folder: Path) -> list[str]:
    """Links between the files of the site that lead nowhere."""
    found: dict[Path, Links] = {}
    for path in folder.rglob("*.html"):
        found[path] = Links()
        found[path].feed(path.read_text())
    dead = []
    for path, links in found.items():
        for target in sorted(links.targets):
            file, fragment = urldefrag(target)
            there = Path(normpath(path.parent / unquote(file))) if file else path
            if not there.is_file() or (fragment and there in found and unquote(fragment) not in found[there].ids):
                dead.append(f"{path.relative_to(folder)}: a link to {target}, which is not there")
    return dead


def undocumented(site: Site) -> Iterator[str]:
    """What is public, and has no docstring, or nothing that uses it."""
    for name in REFERENCE:
        for doc in site.modules[name].own_members:
            if not doc.docstring and doc.kind != "variable":
                yield f"{doc.fullname} has no docstring"
            if not site.examples_of(doc):
                yield f"{doc.fullname} is in no example and on no page"
            if isinstance(doc, pdoc.doc.Class):
                yield from undocumented_members(site, doc)


def undocumented_members(site: Site, cls: pdoc.doc.Class) -> Iterator[str]:
    """The same for a class; and names that `FOR_USERS` has for it in vain."""
    for member in cls.own_members:
        if not (member.docstring or site.is_internal(member) or member.name == "__init__"):
            yield f"{member.fullname} has no docstring"
    for name in FOR_USERS.get(cls.name, "").split():
        if name not in cls.members:
            yield f"{cls.fullname} has no member {name} to show"


def main(folder: Path) -> int:
    """Build the site; return the exit code."""
    convert = pdoc.docstrings.convert
    for owner, name, value in (
        (pdoc.docstrings, "convert", lambda text, *rest: convert(list_parameters(text), *rest)),
        (pdoc.doc, "_remove_collections_abc", shorten),
        (pdoc.doc.Class, "own_members", property(own_members)),
        (pdoc.doc.Class, "bases", property(bases)),
    ):
        setattr(owner, name, value)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "Error parsing .* for anyio")  # what the library's classes inherit from AnyIO
        site = Site()
        site.write(folder)
    (folder / "rumour.svg").write_text(draw())
    problems = [*map(str, (each.message for each in caught)), *site.problems, *undocumented(site), *dead_links(folder)]
    sys.stderr.write("".join(f"{problem}\n" for problem in dict.fromkeys(problems)))
    sys.stdout.write(f"{folder / 'index.html'}: {len(site.modules)} pages\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
