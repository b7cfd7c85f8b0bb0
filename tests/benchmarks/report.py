"""What came of it: a table, what was to be reached, and a picture."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sysconfig
from collections import defaultdict
from datetime import datetime, timezone
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from tests.benchmarks.plan import BARS, IMPORTS, NOTES, ROWS, TABLES, Column

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.work import Figures

PACKAGES = ("pea2pea", "anyio", "uvloop", "trio", "twisted", "pyzmq")


def short(value: float) -> str:
    """Three digits."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= unit:
            scale = 1e3 if name == " k" else unit
            return f"{value / scale:.3g}{name}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def build() -> str:
    """How the interpreter was built, which makes up to a third of the speed of messages."""
    options = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    found = {"PGO": "--enable-optimizations" in options, "LTO": "--with-lto" in options}
    return ", ".join(
        [f"{'' if there else 'no '}{name}" for name, there in found.items()] + [platform.python_compiler()]
    )


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    found = {
        "date": datetime.now(tz=timezone.utc).date().isoformat(),
        "cores": str(os.cpu_count()),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": f"{platform.python_version()} ({build()})",
    }
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            found["processor"] = line.split(":")[1].strip()
    installed = {one.metadata["Name"].lower(): one.version for one in distributions()}
    return found | {package: installed[package] for package in PACKAGES if package in installed}


class Results:
    """All that was measured."""

    def __init__(self, *, quick: bool) -> None:
        self._quick = quick
        self._machine = machine()
        self._runs: defaultdict[str, defaultdict[str, list[Figures]]] = defaultdict(lambda: defaultdict(list))

    def add(self, trial: str, who: str, figures: Figures) -> None:
        self._runs[trial][who].append(figures)

    def values(self, trial: str, who: str, figure: str) -> list[float]:
        return [run[figure] for run in self._runs[trial][who]] if trial in self._runs else []

    def median(self, trial: str, who: str, figure: str) -> float:
        """Raises `StatisticsError` if it was not measured."""
        return statistics.median(self.values(trial, who, figure))

    def text(self) -> str:
        about = ", ".join(f"{key} {value}" for key, value in self._machine.items())
        parts = [f"Medians, and from the least to the most in brackets. {about}."]
        parts += [
            self._table(title, columns)
            for title, columns in TABLES.items()
            if any(column.trial in self._runs for column in columns)
        ]
        return "\n\n".join([*parts, self._imports(), NOTES, self._bars()])

    def _imports(self) -> str:
        medians = (f"`{what}` {self.median('import', what, 'ms'):.3g} ms" for what in IMPORTS)
        return f"Of a fresh interpreter's time: {', '.join(medians)}."

    def _table(self, title: str, columns: tuple[Column, ...]) -> str:
        columns = tuple(column for column in columns if column.trial in self._runs)
        rows = [["", *(column.title for column in columns)]]
        for who in ROWS:
            cells = [self._cell(who, column) for column in columns]
            if any(cells):
                rows.append([who, *cells])
        return f"{title}\n\n{markdown(rows)}"

    def _cell(self, who: str, column: Column) -> str:
        values = self.values(column.trial, who, column.figure)
        if not values:
            return ""
        return f"{short(statistics.median(values))} ({short(min(values))}..{short(max(values))})"

    def verdicts(self) -> Iterator[tuple[str, str, float, str, bool]]:
        for bar in BARS:
            for loop in bar.on:
                try:
                    value = bar.value(self.median, loop)
                except statistics.StatisticsError:
                    continue
                yield bar.what, loop, value, bar.wanted, bar.reached(value)

    def _bars(self) -> str:
        rows = [["to be reached", "on", "is", "wanted", ""]]
        for what, loop, value, wanted, reached in self.verdicts():
            rows.append([what, loop, f"{value:.3g}", wanted, "yes" if reached else "NO"])
        return markdown(rows)

    def json(self) -> str:
        medians = {
            trial: {
                who: {
                    figure: {
                        "median": self.median(trial, who, figure),
                        "min": min(self.values(trial, who, figure)),
                        "max": max(self.values(trial, who, figure)),
                        "runs": len(runs),
                    }
                    for figure in runs[0]
                }
                for who, runs in contestants.items()
                if runs
            }
            for trial, contestants in self._runs.items()
        }
        bars = [
            {"what": what, "on": loop, "value": value, "wanted": wanted, "reached": reached}
            for what, loop, value, wanted, reached in self.verdicts()
        ]
        whole = {"machine": self._machine, "quick": self._quick, "results": medians, "bars": bars}
        return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"

    def svg(self) -> str:
        """Some of the columns as bars, each as long as its median, with a line from the least to the most."""
        return Picture(self).svg()


def markdown(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(cells: list[str]) -> str:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(rows[0]), line(rule), *map(line, rows[1:])])


class Picture:
    """Six panels of horizontal bars."""

    PANELS = (
        ("Messages of 32 B a second", Column("32 B", "rate", "")),
        ("Messages of 1 KiB a second", Column("1 KiB", "rate", "")),
        ("Messages of 64 KiB a second", Column("64 KiB", "rate", "")),
        ("Messages of 1 MiB a second", Column("1 MiB", "rate", "")),
        ("Round trip of 32 B, median, µs (less is better)", Column("one", "p50", "")),
        ("Connections set up a second", Column("setup", "rate", "")),
    )
    WIDTH, LABEL, BAR, ROW, GAP, HEAD = 460, 160, 215, 18, 24, 34

    def __init__(self, results: Results) -> None:
        self._results = results

    def svg(self) -> str:
        height = self.HEAD + self.ROW * len(ROWS) + self.GAP
        size = f'width="{2 * self.WIDTH}" height="{(len(self.PANELS) + 1) // 2 * height}"'
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
        ]
        for number, (title, column) in enumerate(self.PANELS):
            parts.append(f'<g transform="translate({number % 2 * self.WIDTH},{number // 2 * height})">')
            parts += [f'<text x="12" y="22" font-weight="bold">{escape(title)}</text>', *self._panel(column)]
            parts.append("</g>")
        return "\n".join([*parts, "</svg>"]) + "\n"

    def _panel(self, column: Column) -> Iterator[str]:
        measured = [(who, values) for who in ROWS if (values := self._results.values(column.trial, who, column.figure))]
        longest = max((max(values) for _, values in measured), default=1.0)
        for row, (who, values) in enumerate(measured):
            y, median = self.HEAD + row * self.ROW, statistics.median(values)
            least, middle, most = (self.BAR * value / longest for value in (min(values), median, max(values)))
            color = "#2a7f62" if who.startswith("pea2pea") else "#9aa5b1"
            yield f'<g transform="translate({self.LABEL},{y})">'
            yield f'<text x="-6" y="12" text-anchor="end">{escape(who)}</text>'
            yield f'<rect y="2" width="{middle:.1f}" height="12" fill="{color}"/>'
            yield f'<path d="M{least:.1f} 8H{most:.1f}" stroke="#222"/>'
            yield f'<text x="{most + 5:.1f}" y="12">{short(median)}</text></g>'
