# SPDX-License-Identifier: MIT
"""Formulas become HTML while the book is built: KaTeX in a V8 inside Python, no
script on the page, no Node.
"""

from importlib.resources import files

from docutils import nodes
from py_mini_racer import MiniRacer
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_engine: MiniRacer | None = None
_known: dict[tuple[str, bool], str] = {}
log = logging.getLogger(__name__)


def render(tex: str, display: bool) -> str:
    """The HTML (with MathML for screen readers) of a formula; a faulty one is a
    warning, and fails the build.
    """
    global _engine
    if (tex, display) not in _known:
        if _engine is None:
            _engine = MiniRacer()
            _engine.eval(
                (files("sphinxcontrib") / "katex.min.js").read_text("utf8")
            )
        options = {
            "displayMode": display,
            "throwOnError": True,
            "strict": "error",
            "trust": False,
        }
        _known[tex, display] = _engine.call(
            "katex.renderToString", tex, options
        )
    return _known[tex, display]


def _visit(self: HTML5Translator, node: nodes.Element, display: bool) -> None:
    try:
        html = render(node.astext(), display)
    except Exception as error:
        log.warning(
            "KaTeX cannot set %r: %s", node.astext(), error, location=node
        )
        html = self.encode(node.astext())
    if display:
        number = node.get("number")
        tag = (
            f'<span class="eqno">({number})</span>'
            if number and not node.get("no-wrap")
            else ""
        )
        ids = f' id="{node["ids"][0]}"' if node.get("ids") else ""
        self.body.append(f'<div class="math-block"{ids}>{html}{tag}</div>\n')
    else:
        self.body.append(f'<span class="math-inline">{html}</span>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer(
        "katex",
        inline_renderers=(lambda self, node: _visit(self, node, False), None),
        block_renderers=(lambda self, node: _visit(self, node, True), None),
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
