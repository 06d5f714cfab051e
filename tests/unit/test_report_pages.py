"""The HTML reports and their drawings."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest

from lab.report.job import write_reports
from lab.report.pages import run_page
from lab.report.rundir import read_run
from lab.report.svg import Bar, line_chart, ticks, timeline
from tests.sample_job import FAILED, PASSED, write_job, write_killed_run, write_run


class Page(HTMLParser):
    """What a page links to, loads, and shows as text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        if tag == "a":
            self.links.append(values["href"] or "")
        self.loads += [value or "" for name, value in attrs if name in ("src", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def job_dir(tmp_path: Path) -> Path:
    job_dir = write_job(tmp_path / "20261120-101010-ab12")
    write_reports(job_dir)
    return job_dir


def pages(job_dir: Path) -> list[Path]:
    return sorted(job_dir.rglob("report.html"))


def test_every_page_stands_alone(job_dir: Path) -> None:
    for path in pages(job_dir):
        text = path.read_text()
        page = Page(text)
        assert page.loads == []
        assert not page.tags & {"script", "link", "iframe", "img"}
        assert not re.search(r"https?://|url\(|@import", text)


def test_every_link_leads_to_a_file(job_dir: Path) -> None:
    for path in pages(job_dir):
        links = Page(path.read_text()).links
        assert links
        assert [link for link in links if not (path.parent / unquote(link)).exists()] == []


def test_the_job_links_to_each_run(job_dir: Path) -> None:
    links = Page((job_dir / "report.html").read_text()).links
    assert len([link for link in links if link.endswith("/report.html")]) == 4


def test_a_run_shows_what_explains_it(tmp_path: Path) -> None:
    page = Page(run_page(read_run(write_run(tmp_path, 2, FAILED))))
    for text in (
        "FAIL",
        "l1-kernel",
        "what the scenario does & expects",
        "no WARN, BUG, oops, KASAN, lockdep",
        "vhost_vdpa_pa_unmap+0x3a/0x110",
        "vdpalab run net-vp_vdpa-vhost_vdpa-unplug --set workload.streams.0.seconds=5 --cold",
        "l2: line 119 of the console <script>",
        "6.12.43+deb13 <x>",
        "tcg: /dev/kvm opens, no guest ran",
        "vdpa dev add name v1 mgmtdev pci/x",
    ):
        assert text in page.text, text


def test_console_lines_are_shown_only_when_something_is_wrong(tmp_path: Path) -> None:
    assert "line 119 of the console" not in run_page(read_run(write_run(tmp_path, 1, PASSED)))


def test_missing_evidence_is_named(tmp_path: Path) -> None:
    page = Page(run_page(read_run(write_killed_run(tmp_path, 4))))
    assert "plan.json: No such file or directory" in page.text
    assert "events.jsonl: unreadable line" in page.text


def test_an_empty_run_directory_has_a_page(tmp_path: Path) -> None:
    assert "Nothing was judged" in run_page(read_run(tmp_path))


@pytest.mark.parametrize(
    ("total", "expected"),
    [(0, [0]), (1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (44, [0, 10, 20, 30, 40]), (6, [0, 1, 2, 3, 4, 5, 6])],
)
def test_ticks_are_round(total: float, expected: list[float]) -> None:
    assert ticks(total) == expected


def test_timeline_escapes_and_is_well_formed() -> None:
    svg = str(timeline([Bar("a<b>&", 0, 1), Bar("x" * 100, 1, 3, "error", 'note "<i>"', 2)]))
    root = ET.fromstring(svg)
    assert len(root.findall("g")) == 2
    assert "<b>" not in svg
    assert "…" in svg


def test_nothing_to_draw() -> None:
    assert timeline([]) == ""
    assert line_chart([(1, 1)], "Mbit/s") == ""


def test_line_chart_has_a_mark_per_value() -> None:
    root = ET.fromstring(str(line_chart([(0, 0), (1, 5), (2, 0)], "<unit>")))
    assert len(root.findall("circle")) == 3
    assert ET.fromstring(str(line_chart([(0, 0), (1, 0)], "x"))) is not None
