# SPDX-License-Identifier: MIT
"""Two editions of one book: each page links to its twin, and the themes'
Chinese catalogues have no gaps.
"""

import io
import tempfile
from pathlib import Path

from babel.messages import mofile, pofile
from sphinx.application import Sphinx
from sphinx.locale import init

OTHER = {"en": ("zh", "中文", "zh-CN"), "zh": ("en", "English", "en")}


def twin_of(page: str, language: str) -> str:
    """The same page of the other edition; pages without a source (search,
    index) lead to its front page.
    """
    there = OTHER[language][0]
    twin = page.replace(f"/{language}/", f"/{there}/")
    return twin if twin != page else f"book/{there}/preface"


def add_switch(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict,
    doctree: object,
) -> None:
    language = app.config.language.split("_")[0]
    there, label, code = OTHER[language]
    up = "../" * (pagename.count("/") + 1)
    url = f"{up}{there}/{twin_of(pagename, language)}.html"
    context["edition_switch"] = {"url": url, "label": label, "lang": code}
    links = f'<link rel="alternate" hreflang="{code}" href="{url}"/>\n'
    context["metatags"] = context.get("metatags", "") + links


def add_messages(app: Sphinx, config: object) -> None:
    """Compile book/_locale/*.po: what the themes leave in English."""
    source = Path(app.srcdir, "book", "_locale", app.config.language)
    if not source.is_dir():
        return
    with tempfile.TemporaryDirectory() as out:
        for catalogue in source.glob("*.po"):
            target = Path(
                out, app.config.language, "LC_MESSAGES", f"{catalogue.stem}.mo"
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            messages = pofile.read_po(io.BytesIO(catalogue.read_bytes()))
            with target.open("wb") as file:
                mofile.write_mo(file, messages)
            init([out], app.config.language, catalogue.stem)


def setup(app: Sphinx) -> dict[str, bool]:
    # jupyter-book always passes it
    app.add_config_value("comments_config", {}, "html")
    app.connect("config-inited", add_messages)
    # before the theme drops empty templates
    app.connect("html-page-context", add_switch, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
