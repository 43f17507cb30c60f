"""Every public name says what it takes, and shows how it is used."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import get_origin

import pytest

import skwgf

API = (Path(__file__).parents[2] / "docs" / "api.rst").read_text(encoding="utf-8")
# What users need of these are names of skwgf itself, and methods of the estimators.
ELSEWHERE = {"skwgf.estimators", "skwgf.persistence", "skwgf.pipeline"}


def listed():
    """Return what the page of the interface lists, by module."""
    chunks = re.split(r"^\.\. currentmodule:: ", API, flags=re.M)[1:]
    return {
        chunk.split("\n", 1)[0]: re.findall(r"^   ([A-Za-z_][\w.]*)$", chunk, re.M)
        for chunk in chunks
    }


def public():
    """Return the public callables by their dotted name, those of the page beyond __all__ too."""
    found = {}
    for module, names in listed().items():
        loaded = importlib.import_module(module)
        for name in {*loaded.__all__, *names}:
            thing = loaded
            for part in name.split("."):
                thing = getattr(thing, part)
            # Modules have pages of their own; a version and an alias of a type have no docstring.
            if callable(thing) and get_origin(thing) is None:
                found[f"{module}.{name}"] = thing
    return dict(sorted(found.items()))


PUBLIC = public()


def sections(docstring):
    """Return the headings of a numpydoc docstring."""
    return set(re.findall(r"^(\w[\w ]*)\n-{3,}$", docstring, re.M))


def takes_parameters(thing):
    """Tell whether something is called with arguments of its own."""
    if getattr(thing, "_is_protocol", False):
        return False
    return bool(inspect.signature(thing).parameters)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_is_whole(name):
    thing = PUBLIC[name]
    docstring = inspect.getdoc(thing) or ""
    summary = docstring.split("\n\n")[0]
    assert summary.strip().endswith((".", ":")), "the summary is a sentence"
    found = sections(docstring)
    if takes_parameters(thing):
        # Records that the package returns, and nobody builds, list their fields as attributes.
        assert found & {"Parameters", "Attributes"}
    assert "Examples" in found
    assert ">>> " in docstring.split("Examples\n--------")[1]


@pytest.mark.parametrize("name", PUBLIC)
def test_all_parameters_are_described(name):
    # Would catch a parameter that was added without a word, and one that is described but gone.
    thing = PUBLIC[name]
    docstring = inspect.getdoc(thing) or ""
    if "Parameters" not in sections(docstring):
        return
    body = re.split(
        r"^\w[\w ]*\n-{3,}$", docstring.split("Parameters\n----------\n")[1], flags=re.M
    )[0]
    described = {
        part.strip().lstrip("*")
        for line in re.findall(r"^(\*{0,2}\w[\w, *]*?)(?: : .*)?$", body, re.M)
        for part in line.split(",")
    }
    assert described == set(inspect.signature(thing).parameters)


def test_page_of_the_interface_lists_all_names():
    # Would catch a name that is made public and has no page.
    on_page = {f"{module}.{name}" for module, names in listed().items() for name in names}
    assert on_page == set(PUBLIC)


def test_no_public_module_is_left_out():
    modules = {
        f"skwgf.{info.name}"
        for info in pkgutil.iter_modules(skwgf.__path__)
        if not info.name.startswith("_")
        and hasattr(importlib.import_module(f"skwgf.{info.name}"), "__all__")
    }
    assert modules <= {*listed(), *ELSEWHERE}
