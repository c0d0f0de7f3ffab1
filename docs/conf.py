"""Builds the documentation with Sphinx: the pages beside this file, and the public docstrings."""

import hermes

project = "hermes"
author = "the authors of hermes"
version = release = hermes.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib.mermaid",
]
html_theme = "furo"
html_title = "hermes"
html_show_copyright = False
default_role = "py:obj"
exclude_patterns = ["_build"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # Luigi's are written for its own pages
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_rtype = False
# A browser draws the diagrams; without a network it shows their text.
mermaid_version = "11.4.1"
