"""A page holds everything that it needs, and shows whatever it is given as text."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

from topolearn.errors import OptionError, TopolearnError
from topolearn.page import Curve, Page, curves, document
from topolearn.report.tables import Table

HOSTILE = "</script><img src=x onerror=document.title='owned'>\x1b[31m\u202e"


def full() -> Page:
    page = Page(HOSTILE)
    page.section(HOSTILE, HOSTILE)
    page.table(Table((HOSTILE, "n"), ((HOSTILE, 1),), HOSTILE, HOSTILE))
    page.text(f"first\n{HOSTILE}")
    page.chart(curves(HOSTILE, [Curve(HOSTILE, (1, 2), (0.5, 0.25)), Curve("b", (1,), (1.0,))], marks={HOSTILE: 1.5}))
    return page


def test_only_its_own_scripts_may_run() -> None:
    html = full().html()
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == html.count("<script") == html.count("</script")
    (policy,) = re.findall(r'content="(default-src[^"]*)"', html)
    hashes = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == hashes
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "http" not in policy


def test_what_it_is_given_is_text() -> None:
    html = full().html()
    around = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert "<img" not in around
    assert "\x1b" not in around
    assert "\u202e" not in around
    assert around.count("&lt;/script&gt;&lt;img src=x onerror=document.title=&#x27;owned&#x27;&gt;") == 9
    assert "<pre>first\n&lt;" in around


def test_a_page_without_charts_runs_no_script() -> None:
    page = Page("plain")
    page.text("words")
    html = page.html()
    assert "script-src 'none'" in html
    assert "<script" not in html
    assert len(html) < 3000


def test_it_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page("page")
    page.write(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page.html()
    with pytest.raises(OptionError, match=r"cannot write a page to '.*page.txt'; give it the ending .html"):
        page.write(tmp_path / "page.txt")
    monkeypatch.setattr(document, "MAX_BYTES", 500)
    with pytest.raises(TopolearnError, match=r"the page would have [\d,]+ bytes, and at most 500 are written"):
        page.write(tmp_path / "large.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
