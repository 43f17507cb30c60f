"""The directive ``.. benchmark:: NAME``: a section on one benchmark, made at build time."""

from __future__ import annotations

from pathlib import Path

from benchmark_list import BENCHMARKS
from benchmark_tables import ROOT, page
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective


class BenchmarkDirective(SphinxDirective):
    """Show a benchmark of `benchmark_list`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes; figures that do not fit their declaration end the build."""
        name = self.arguments[0]
        if name not in BENCHMARKS:
            raise ExtensionError(f"{name!r} is not in docs/_ext/benchmark_list.py.")
        benchmark = BENCHMARKS[name]
        try:
            text = page(name, benchmark)
        except (OSError, ValueError) as error:
            raise ExtensionError(f"Benchmark {name!r}: {error}") from error
        for path in (__file__, ROOT / f"{name}.py", ROOT / "results" / f"{name}.md"):
            self.env.note_dependency(str(Path(path)))
        for table in benchmark.tables:
            self.env.note_dependency(str(ROOT / "results" / f"{table.csv}.csv"))
        title = f"{name}: {benchmark.title}"
        section = (
            f".. _benchmark-{name.replace('_', '-')}:\n\n{title}\n{'-' * len(title)}\n\n{text}"
        )
        return self.parse_text_to_nodes(section, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("benchmark", BenchmarkDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
