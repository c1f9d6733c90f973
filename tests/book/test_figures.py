# SPDX-License-Identifier: MIT
"""What the notebooks show of the package."""

import ast

import metabook as mb
from metabook.book.figures import source


def test_source_is_code_without_docstrings_and_coloured_in_a_notebook():
    shown = source(mb.ProtoNet.score, mb.Learner.loss)
    code = repr(shown)
    score, loss = ast.parse(code).body
    assert (score.name, loss.name) == ("score", "loss")
    assert ast.get_docstring(score) is ast.get_docstring(loss) is None
    assert "averaged over the tasks" not in code
    assert shown._repr_markdown_() == f"```python\n{code}\n```"
