"""Configuration of the documentation: sphinx, numpydoc, sphinx-gallery, the pydata theme."""

from __future__ import annotations

import sys
from pathlib import Path

# The gallery looks up the names in examples, which it does not run with -D plot_gallery=0.
from sklearn.experimental import enable_halving_search_cv  # noqa: F401

import skwgf

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "skwgf"
author = "The skwgf developers"
copyright = "2026, the skwgf developers"
release = skwgf.__version__
version = ".".join(release.split(".")[:2])

# No inventories of other projects: the build needs no network.
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "benchmark_directive",
]
exclude_patterns = ["_build"]
html_static_path = ["_static"]
html_css_files = ["custom.css"]
templates_path = ["_templates"]

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say types with shapes, units and ranges
numpydoc_show_class_members = False  # the class template lists the methods

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"(^|/)(?!plot_)[^/]*\.py$",
    "within_subsection_order": "FileNameSortKey",  # the numbers are the order to read them in
    "doc_module": ("skwgf",),
    "reference_url": {"skwgf": None},
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "skwgf"
html_show_sourcelink = False
# These pages have no pages below them: what their sections are is on the right.
html_sidebars = {name: [] for name in ("install", "which", "faq", "developer/add_a_flow")}
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
