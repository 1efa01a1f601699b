"""Writes what the fault tests found into the table of docs/reliability.md.

    pytest -p tests.faults.report --fault-table docs/reliability.md tests/faults

A row for each test: the number in its name, its docstring ("what is done → what is expected"), how it went.
Rows of tests that were not run this time stay as they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

BEGIN, END = "<!-- faults -->", "<!-- /faults -->"
HEAD = "| fault | what is done → what must come of it | result | s |\n|---|---|---|---|\n"
NUMBERED = re.compile(r"test_(f\d\d)_(\w+)")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-table", type=Path, help="the Markdown file whose table of faults is brought up to date"
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    outcome = yield
    report = outcome.get_result()
    words = " ".join((getattr(item, "function", None).__doc__ or "").split())
    report.user_properties.append(("words", words))


class Table:
    """Of a test with parameters the row has the worst result, how many there were, and the longest."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[str, list[tuple[str, float]]] = {}
        self.words: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid.rpartition("::")[2].partition("[")[0]
        if not NUMBERED.match(test) or (report.when != "call" and report.outcome == "passed"):
            return
        result = report.outcome if report.outcome != "skipped" else f"not run: {_reason(report)}"
        self.found.setdefault(test, []).append((result, report.duration))
        self.words[test] = dict(report.user_properties).get("words", "").replace("|", "\\|")

    def pytest_sessionfinish(self) -> None:
        if not self.found:
            return
        text = self.file.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        table, after = rest.split(END)
        kept = [line for line in table.splitlines() if line.startswith("| F")]
        kept = [line for line in kept if line.split("`")[-2] not in self.found]
        lines = sorted([*kept, *map(self._row, self.found)])
        self.file.write_text(f"{before}{BEGIN}\n{HEAD}{chr(10).join(lines)}\n{END}{after}", encoding="utf-8")

    def _row(self, test: str) -> str:
        number = NUMBERED.match(test)
        assert number
        results = [result for result, _ in self.found[test]]
        worst = next((result for result in results if result != "passed"), "passed")
        times = f" × {len(results)}" if len(results) > 1 and worst == "passed" else ""
        seconds = max(duration for _, duration in self.found[test])
        return f"| {number[1].upper()} | {self.words[test]} `{test}` | {worst}{times} | {seconds:.0f} |"


def _reason(report: pytest.TestReport) -> str:
    return str(report.longrepr[2]).removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--fault-table")
    if file and not hasattr(config, "workerinput"):  # with xdist, only the process that gathers the results
        config.pluginmanager.register(Table(file))
