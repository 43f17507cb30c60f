"""What the texts point to is there: files, pages, labels and names. Addresses are not visited."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BUILT = {"auto_examples", "generated", "_build"}  # below docs/, by sphinx
# Folders that are named but made later, or by the reader.
ELSEWHERE = ("DIR/", "demo/", "docs/_build", "/some/dir/", ".venv")

MARKDOWN = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
OUR_FOLDERS = "skwgf|tests|docs|examples|benchmarks|results"


def texts():
    """Return the texts by hand, relative to the root."""
    pages = [path for path in DOCS.rglob("*.rst") if not BUILT & set(path.relative_to(DOCS).parts)]
    examples = [*(ROOT / "examples").glob("*.py"), *(ROOT / "examples").glob("*.rst")]
    return [*MARKDOWN, *sorted(str(path.relative_to(ROOT)) for path in [*pages, *examples])]


TEXTS = texts()
SOURCES = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "skwgf").rglob("*.py"))]


def read(name):
    """Return a text; strings that a script only writes are read like the rest."""
    return (ROOT / name).read_text(encoding="utf-8")


OF_SPHINX = {"genindex", "modindex", "search"}


def own_labels():
    """Return the labels that pages define, as often as they do."""
    return [
        label
        for name in TEXTS
        if name.endswith(".rst")
        for label in re.findall(r"^\.\. _([\w-]+):$", read(name), re.M)
    ]


def labels():
    """Return all labels that sphinx, a page, the gallery or the benchmarks define."""
    found = OF_SPHINX | set(own_labels())
    for name in TEXTS:
        for benchmark in re.findall(r"^\.\. benchmark:: (\w+)$", read(name), re.M):
            found.add(f"benchmark-{benchmark.replace('_', '-')}")
    for example in (ROOT / "examples").glob("plot_*.py"):
        found.add(f"sphx_glr_auto_examples_{example.name}")
    return found


LABELS = labels()


def roles(text, role):
    """Return the targets of a role: ``:role:`target``` or ``:role:`words <target>```."""
    found = re.findall(rf":{role}:`([^`]+)`", text)
    # A target that is written out may break over lines, a label or a path may not.
    return [re.sub(r".*<(.+)>$", r"\1", target, flags=re.S).strip() for target in found]


def named_paths(text):
    """Return what looks like a path of this repository."""
    quoted = re.findall(r"`{1,2}([\w.*/-]+/[\w.*/-]*)`{1,2}", text)
    plain = re.findall(rf"(?<![\w/.<-])((?:{OUR_FOLDERS})/[\w.*/-]*[\w*/])", text)
    roled = {target for role in ("doc", "ref", "download") for target in roles(text, role)}
    return [p for p in {*quoted, *plain} - roled if not p.startswith(ELSEWHERE)]


def exists(path, *folders):
    """Tell whether a path, a page or what a pattern stands for is there in one of the folders."""
    names = (path.rstrip("/"), f"{path}.rst")
    return any(any(folder.glob(name)) for folder in folders for name in names)


def test_named_files_exist():
    # Would catch a script, a test or a page that was renamed or removed. A word with a slash, such
    # as "and/or", has neither a folder nor an ending of ours.
    ours = re.compile(rf"^\.?/?(?:{OUR_FOLDERS}|\.ci)/|\.(?:py|md|rst|csv|png|toml|txt)$|^\w+/$")
    missing = [
        (name, path)
        for name in TEXTS
        for path in named_paths(read(name))
        if ours.search(path) and not exists(path, ROOT, (ROOT / name).parent, ROOT / "skwgf", DOCS)
    ]
    assert not missing


@pytest.mark.parametrize("name", MARKDOWN)
def test_links_of_markdown_lead_somewhere(name):
    text, folder = read(name), (ROOT / name).parent
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    inner = [target.split("#")[0] for target in targets if "://" not in target]
    assert not [target for target in inner if target and not (folder / target).exists()]


def test_labels_are_defined_once():
    # A second one, or one of sphinx's own, leads readers to the wrong page.
    own = own_labels()
    assert not {label for label in own if own.count(label) > 1 or label in OF_SPHINX}


def test_labels_are_defined():
    missing = [
        (name, label)
        for name in [*TEXTS, *SOURCES]
        for label in roles(read(name), "ref")
        if label not in LABELS
    ]
    assert not missing


@pytest.mark.parametrize("name", [name for name in TEXTS if name.endswith(".rst")])
def test_pages_pictures_and_files_exist(name):
    text, folder = read(name), (ROOT / name).parent
    pages = roles(text, "doc")
    for body in re.findall(r"^\.\. toctree::\n(?:   :.*\n)*\n((?:   .*\n|\n)+)", text, re.M):
        pages += [re.sub(r".*<(.+)>$", r"\1", line.strip()) for line in body.split("\n")]
    for page in filter(None, pages):
        if page.endswith("auto_examples/index"):
            continue
        path = DOCS / page[1:] if page.startswith("/") else folder / page
        assert path.with_suffix(".rst").exists(), page
    files = re.findall(r"^ *\.\. (?:image|figure|literalinclude):: (\S+)$", text, re.M)
    files += re.findall(r"^ +:file: (\S+)$", text, re.M) + roles(text, "download")
    for file in files:
        path = DOCS / file[1:] if file.startswith("/") else folder / file
        assert path.exists(), file


def test_the_chart_leads_to_sections_of_its_page():
    page = (DOCS / "which.rst").read_text(encoding="utf-8")
    chart = (DOCS / "_static" / "which.svg").read_text(encoding="utf-8")
    targets = set(re.findall(r"href=\"#([\w-]+)\"", chart))
    assert targets
    assert targets <= set(re.findall(r"^\.\. _([\w-]+):$", page, re.M))


def test_names_of_the_package_exist():
    # Sphinx leaves a name that it does not find as plain text, and says nothing.
    missing = {
        (name, target)
        for name in [*TEXTS, *SOURCES]
        for role in ("class", "func", "mod", "meth", "attr", "data", "exc")
        for target in full_names(read(name), role)
        if target.split(".")[0] == "skwgf" and not resolves(target)
    }
    assert not missing


def full_names(text, role):
    """Return the targets of a role; below ``currentmodule`` a short one is of that module."""
    for chunk in re.split(r"^(?=\.\. currentmodule:: )", text, flags=re.M):
        module = re.match(r"\.\. currentmodule:: (\S+)", chunk)
        for target in (target.lstrip("~") for target in roles(chunk, role)):
            short = module and target.split(".")[0] not in ("skwgf", "sklearn", "torch", "numpy")
            yield f"{module[1]}.{target}" if short else target


def resolves(full):
    """Tell whether a dotted name is a module or something in one."""
    parts = full.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if part.endswith("_"):  # a fitted attribute, which only an instance has
                return True
            found = getattr(found, part, None)
        return found is not None
    return False


def test_addresses_are_well_formed():
    for name in [*TEXTS, *SOURCES]:
        for url in re.findall(r"https?://[^\s`>\"')\]]+", read(name)):
            parts = urlsplit(url.rstrip(".,;"))
            assert parts.scheme == "https", (name, url)
            assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc), (name, url)
