"""A page of HTML that opens without a network, and cannot run anything that came in with its contents."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topolearn.errors import OptionError, TopolearnError, printable
from topolearn.files import write_atomically
from topolearn.report.tables import Table

if TYPE_CHECKING:
    from bokeh.models import Model

MAX_BYTES = 20 * 2**20
"""Largest size of a page."""
SUFFIXES = (".html", ".htm")

# One grey is readable on white and on black, so charts need no colours of their own for dark pages.
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; margin: 0.5rem 0; } caption { text-align: left; font-weight: 600; }
td, th { padding: 0.15rem 0.8rem 0.15rem 0; border-bottom: 1px solid #8884; font-variant-numeric: tabular-nums; }
p.note { color: #6e7781; } pre { overflow: auto; max-height: 30rem; }
div.picture { background: white; border-radius: 6px; padding: 0.5rem; overflow: auto; }
div.picture svg { max-width: 100%; height: auto; }
"""


class Page:
    """A page that is written to one file.

    Whatever a text, a table or a chart holds is shown as text. The page names the scripts that may run in it by their
    hashes, and allows nothing from elsewhere, so no text in it becomes a script or loads anything.

    Attributes:
        title: Title of the page.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str | Model] = [f"<h1>{_text(title)}</h1>"]

    def section(self, heading: str, note: str = "") -> None:
        """Begin a section.

        Args:
            heading: Its heading.
            note: A sentence under the heading that says how to read it.
        """
        self._parts.append(f"<h2>{_text(heading)}</h2>")
        if note:
            self._parts.append(f'<p class="note">{_text(note)}</p>')

    def table(self, table: Table) -> None:
        """Add a table."""
        self._parts.append(table.html())

    def text(self, text: str) -> None:
        """Add lines of text in a fixed width."""
        lines = escape(printable(text, "\n"))
        self._parts.append(f"<pre>{lines}</pre>")

    def chart(self, chart: Model) -> None:
        """Add a chart of this package."""
        self._parts.append(chart)

    def svg(self, svg: str) -> None:
        """Add a picture that :mod:`topolearn.drawing` made: an ``<svg>`` element."""
        self._parts.append(f'<div class="picture">{svg}</div>')

    def html(self) -> str:
        """Return the page.

        Raises:
            TopolearnError: It is larger than :data:`MAX_BYTES`.
        """
        charts = {str(i): part for i, part in enumerate(self._parts) if not isinstance(part, str)}
        scripts, places = _scripts(charts)
        body = [places[str(i)] if str(i) in places else str(part) for i, part in enumerate(self._parts)]
        hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts) or "'none'"
        policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
        text = "\n".join(
            [
                "<!doctype html>",
                '<html lang="en">',
                "<head>",
                '<meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
                '<meta name="viewport" content="width=device-width">',
                f"<title>{_text(self.title)}</title>",
                f"<style>{STYLE}</style>",
                *(f"<script>{script}</script>" for script in scripts),
                "</head>",
                "<body>",
                *body,
                "</body>",
                "</html>",
                "",
            ]
        )
        size = len(text.encode())
        if size > MAX_BYTES:
            raise TopolearnError(
                f"the page would have {size:,} bytes, and at most {MAX_BYTES:,} are written; report fewer runs"
            )
        return text

    def write(self, path: str | Path) -> None:
        """Write the page to a file, whole or not at all.

        Raises:
            TopolearnError: The file has another ending than .html, or cannot be written.
        """
        target = Path(path)
        check_ending(target)
        write_atomically(target, self.html().encode())


def check_ending(path: Path) -> None:
    """Raise an OptionError unless a path ends in .html."""
    if path.suffix.lower() not in SUFFIXES:
        raise OptionError(f"cannot write a page to '{path}'; give it the ending .html")


def needs_bokeh(path: Path) -> None:
    """Raise an OptionError unless a page with charts can be written to a path: its ending, and Bokeh."""
    check_ending(path)
    try:
        import bokeh  # noqa: F401
    except ImportError:
        raise OptionError("Bokeh is not installed; run: pip install 'topolearn-torch[report]'") from None


def _text(text: str) -> str:
    return escape(printable(text))


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _scripts(charts: dict[str, Any]) -> tuple[Sequence[str], dict[str, str]]:
    """Return the scripts of a page, and the element of each chart."""
    if not charts:
        return [], {}
    from bokeh.embed import components
    from bokeh.resources import Resources

    script, places = components(charts, wrap_script=False)
    library = Resources(mode="inline", components=["bokeh"], minified=True).js_raw
    # A script that holds this would end there.
    return [part.replace("</script", "<\\/script") for part in (*library, script)], dict(places)
