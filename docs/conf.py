"""How Sphinx builds the site: `make docs`. The sources are the checkout's own pages, so links work there too."""

import re

from sphinx.application import Sphinx

from topolearn import __version__

project = "topolearn"
version = release = __version__
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "models/README.md",
    "benchmarks/README.md",
    "export/README.md",
]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"topolearn {__version__}"
html_show_copyright = False

myst_heading_anchors = 3  # links of the form page.md#heading

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_rtype = False
napoleon_custom_sections = [("Options", "params_style"), ("Class attributes", "params_style")]


def show_bars(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep the bars of |alpha|: reStructuredText takes them for a substitution."""
    lines[:] = [re.sub(r"\|(\w+)\|", r"\\|\1\\|", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", show_bars)
