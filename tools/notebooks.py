# SPDX-License-Identifier: MIT
"""What authors do with notebooks.

    python tools/notebooks.py COMMAND

    execute [NAME ...]        run the English ones, store outputs, carry them to
                              the Chinese ones
    carry [NAME ...]          copy code and outputs from English to Chinese
    stale                     list Chinese cells whose English cell has changed
                              since
    vouch NAME CELL ...       say that these Chinese cells still render their
                              English ones
    text LANG NAME            print a notebook as text, to edit
    from-text LANG NAME FILE  make the notebook from such text

NAME is a file name without its ending. In the text, a cell begins with a line
``%% markdown ID`` or ``%% code ID``, with ``tags=a,b`` and ``alt="..."`` behind
it. The Chinese text holds Markdown cells, and code cells only to give their
figures' ``alt``: code and outputs are the English ones. Each Chinese Markdown
cell keeps the hash of the English cell that it renders, in its metadata as
``renders``.
"""

import argparse
import hashlib
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from address import address
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
METADATA = {
    "kernelspec": KERNEL,
    "language_info": {"name": "python"},
    "license": {"text": "CC-BY-4.0", "code": "MIT"},
}
HEAD = re.compile(
    r'^%% (markdown|code) ([a-z0-9-]+)((?: tags=[\w,-]+)?)((?: alt="[^"]*")?)$',
    re.M,
)


def setup_code() -> str:
    """The first code cell of every notebook."""
    return f"""\
# Nothing happens here where metabook is installed; on Colab it is installed
# from the book's repository.
try:
    from metabook import MAML
except ImportError:
    import subprocess, sys

    repository = "git+{address()}@main"
    pip_install = [sys.executable, "-m", "pip", "install", "-q"]
    subprocess.check_call([*pip_install, repository])"""


def names() -> list[str]:
    return sorted(path.stem for path in (FOLDER / "en").glob("*.ipynb"))


def path_of(language: str, name: str) -> Path:
    return FOLDER / language / f"{name}.ipynb"


def read(language: str, name: str) -> nbformat.NotebookNode:
    return nbformat.read(path_of(language, name), as_version=4)


def write(language: str, name: str, notebook: nbformat.NotebookNode) -> None:
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    path = path_of(language, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def execute(name: str) -> None:
    """Run a notebook from top to bottom, one thread, and keep what it shows but
    not when it was run.
    """
    start = time.time()
    notebook = read("en", name)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    os.environ |= {"OMP_NUM_THREADS": "1", "METABOOK_PROGRESS": "0"}
    client = NotebookClient(
        notebook,
        timeout=300,
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER / "en")}},
        kernel_name="python3",
    )
    client.execute()
    write("en", name, notebook)
    print(f"{name}: {time.time() - start:.0f} s")


def markdown(ident: str, source: str, **metadata: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_markdown_cell(source, id=ident, metadata=metadata)


def alt_of(cell: nbformat.NotebookNode) -> str | None:
    """The alternative text of a cell's figure."""
    return cell.metadata.get("mystnb", {}).get("image", {}).get("alt")


def carry(name: str) -> None:
    """Give the Chinese notebook the English one's code and outputs; its own
    text and alternative texts stay.
    """
    if not path_of("zh", name).exists():
        print(f"{name}: no Chinese edition yet")
        return
    english, chinese = read("en", name), read("zh", name)
    own = {cell.id: cell for cell in chinese.cells}
    cells = []
    for cell in english.cells:
        mine = own.get(cell.id)
        if cell.cell_type == "markdown":
            cells.append(mine or markdown(cell.id, "", renders=""))
        else:
            copy = nbformat.from_dict(cell)
            if mine and alt_of(mine):
                copy.metadata["mystnb"] = {"image": {"alt": alt_of(mine)}}
            cells.append(copy)
    chinese.cells = cells
    write("zh", name, chinese)


def stale_cells(name: str) -> list[str]:
    """Ids of Chinese Markdown cells that do not render the English cell as it
    now is.
    """
    english = {cell.id: cell for cell in read("en", name).cells}
    return [
        cell.id
        for cell in read("zh", name).cells
        if cell.cell_type == "markdown"
        and (
            cell.id not in english
            or cell.metadata.get("renders") != digest(english[cell.id].source)
        )
    ]


def vouch(name: str, idents: list[str]) -> None:
    """Record that Chinese cells were read again and need no change."""
    english = {cell.id: cell for cell in read("en", name).cells}
    chinese = read("zh", name)
    for cell in chinese.cells:
        if cell.id in idents:
            cell.metadata["renders"] = digest(english[cell.id].source)
    write("zh", name, chinese)


def as_text(language: str, name: str) -> str:
    parts = []
    for cell in read(language, name).cells:
        tags, alt = cell.metadata.get("tags", []), alt_of(cell)
        head = f"%% {cell.cell_type} {cell.id}"
        named = f' alt="{alt}"' if alt else ""
        if language == "zh" and cell.cell_type == "code":
            if alt:
                parts.append(f"{head}{named}\n")
            continue
        if tags:
            head += f" tags={','.join(tags)}"
        parts.append(f"{head}{named}\n{cell.source}\n")
    return "\n".join(parts)


def parse(text: str) -> list[tuple[str, str, list[str], str, str]]:
    """(kind, id, tags, alt, source) of every cell in the text."""
    heads = list(HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    broken = [
        line
        for line in text.splitlines()
        if line.startswith("%% ") and not HEAD.match(line)
    ]
    if broken:
        sys.exit(f"not the beginning of a cell: {broken[0]}")
    cells = []
    for head, end in zip(heads, ends, strict=True):
        kind, ident, tags, alt = head.groups()
        tags = tags.removeprefix(" tags=").split(",") if tags else []
        alt = alt.removeprefix(' alt="').removesuffix('"')
        source = text[head.end() : end].strip("\n")
        cells.append((kind, ident, tags, alt, source))
    return cells


def from_text(language: str, name: str, text: str) -> None:
    old = (
        {c.id: c for c in read(language, name).cells}
        if path_of(language, name).exists()
        else {}
    )
    if language == "zh":
        return _chinese_from_text(name, text, old)
    cells = []
    for kind, ident, tags, alt, source in parse(text):
        if kind == "markdown":
            cells.append(markdown(ident, source))
            continue
        if ident == "setup":
            source = setup_code()
        cell = nbformat.v4.new_code_cell(source, id=ident)
        if ident in old and old[ident].source == cell.source:
            cell.outputs = old[ident].outputs
            cell.execution_count = old[ident].execution_count
        if tags:
            cell.metadata["tags"] = tags
        # Colab folds checks and solutions too
        if ident.startswith("ex-") and set(tags) & {"hide-cell", "hide-input"}:
            cell.metadata["cellView"] = "form"
        if alt:
            cell.metadata["mystnb"] = {"image": {"alt": alt}}
        cells.append(cell)
    write("en", name, nbformat.v4.new_notebook(cells=cells))
    return None


def _chinese_from_text(name: str, text: str, old: dict) -> None:
    english = {c.id: c for c in read("en", name).cells}
    cells = []
    for kind, ident, _, alt, source in parse(text):
        if ident not in english:
            sys.exit(f"{name}: the English edition has no cell {ident}")
        if kind == "code":
            metadata = {"mystnb": {"image": {"alt": alt}}}
            cells.append(
                nbformat.v4.new_code_cell("", id=ident, metadata=metadata)
            )
            continue
        # text that did not change still renders what it rendered: only new text
        # vouches for the present English cell
        if ident in old and old[ident].source == source:
            renders = old[ident].metadata.get("renders", "")
        else:
            renders = digest(english[ident].source)
        cells.append(markdown(ident, source, renders=renders))
    write("zh", name, nbformat.v4.new_notebook(cells=cells))
    carry(name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command",
        choices=("execute", "carry", "stale", "vouch", "text", "from-text"),
    )
    parser.add_argument("words", nargs="*", metavar="NAME")
    args = parser.parse_args()
    if args.command == "vouch":
        vouch(args.words[0], args.words[1:])
    elif args.command == "text":
        print(as_text(*args.words), end="")
    elif args.command == "from-text":
        language, name, file = args.words
        from_text(language, name, Path(file).read_text("utf8"))
    else:
        for name in args.words or names():
            if args.command == "execute":
                execute(name)
            if args.command == "stale":
                for ident in stale_cells(name):
                    print(f"{name}: {ident}")
            else:
                carry(name)


if __name__ == "__main__":
    main()
