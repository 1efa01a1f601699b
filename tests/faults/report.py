"""Writes what the fault tests found into the table of docs/reliability.md.

    pytest -p tests.faults.report --fault-table docs/reliability.md tests/faults

A row a test: the number in its name, its docstring ("what is done → what is expected"), how it went. Rows of
tests that were not run this time stay as they are.
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
    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.rpartition("::")[2]
        number = NUMBERED.match(name)
        if number is None or (report.when != "call" and report.outcome == "passed"):
            return
        words = dict(report.user_properties).get("words", "").replace("|", "\\|")
        result = report.outcome if report.outcome != "skipped" else f"not run: {_reason(report)}"
        test = name.partition("[")[0]
        self.rows[name] = f"| {number[1].upper()} | {words} `{test}` | {result} | {report.duration:.0f} |"

    def pytest_sessionfinish(self) -> None:
        if not self.rows:
            return
        text = self.file.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        table, after = rest.split(END)
        run = {line.split("`")[-2] for line in self.rows.values()}
        kept = [
            line for line in table.splitlines() if line.startswith("| F") and line.split("`")[-2] not in run
        ]
        lines = sorted(dict.fromkeys([*kept, *self.rows.values()]))
        self.file.write_text(f"{before}{BEGIN}\n{HEAD}{chr(10).join(lines)}\n{END}{after}", encoding="utf-8")


def _reason(report: pytest.TestReport) -> str:
    return str(report.longrepr[2]).removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--fault-table")
    if file and not hasattr(config, "workerinput"):  # with xdist, only the process that gathers the results
        config.pluginmanager.register(Table(file))
