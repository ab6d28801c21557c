"""Configuration of Sphinx, which builds this folder as a site: `make docs`."""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for the extension
logging.getLogger("httpx").setLevel(logging.WARNING)  # the theme's styles log on the terminal

project = "Fairlog"
author = "Fairlog's authors"
copyright = "Fairlog's authors"  # noqa: A001 (the name that Sphinx reads)

extensions = ["myst_parser", "fairlog_site"]
exclude_patterns = ["examples", "fairlog_site"]
nitpicky = True  # a reference to nothing is a warning, and warnings are errors
highlight_language = "text"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = "Fairlog"
html_favicon = "../entrypoints/dashboard/static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {"source_edit_link": "", "top_of_page_buttons": []}
