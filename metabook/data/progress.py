# SPDX-License-Identifier: MIT
"""Progress bars, in one place: on a terminal, and in a notebook as a widget
where there are widgets.
"""

import os
import sys
import warnings
from collections.abc import Iterable
from typing import Any

__all__ = ["progress_bar"]


def progress_bar(
    iterable: Iterable[Any] | None = None, *, show: bool = True, **options: Any
) -> Any:
    """A bar of tqdm around an iterable, or with ``total=`` to be updated by
    hand.

    Nothing is shown where the output is a file, nor where the environment says
    ``METABOOK_PROGRESS=0``.

    Parameters
    ----------
    iterable : iterable, optional
    show : bool
    **options
        Those of `tqdm.tqdm`, such as ``desc`` and ``total``.

    Examples
    --------
    >>> sum(progress_bar(range(4), desc="count"))
    6
    """
    with warnings.catch_warnings():
        # without ipywidgets tqdm warns, and shows text, which will do
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    off = os.environ.get("METABOOK_PROGRESS") == "0"
    shown = show and not off and (_in_notebook() or sys.stderr.isatty())
    return tqdm(iterable, disable=not shown, **options)


def _in_notebook() -> bool:
    """Whether the program is run by Jupyter or Colab."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel")
