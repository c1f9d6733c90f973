# SPDX-License-Identifier: MIT
"""Build both editions into _build/html/en and _build/html/zh, with a front page
that leads to each.

Warnings are errors. The English edition is _config.yml and _toc.yml; the
Chinese one changes what book/zh/ says.
"""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "_build" / "html"
EDITIONS = {"en": ROOT / "_toc.yml", "zh": ROOT / "book" / "zh" / "_toc.yml"}

FRONT_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="description"
  content="An executable textbook on meta-learning, in English and Chinese.">
<title>Learning to Learn · 学会学习</title>
<link rel="icon" href="en/_static/favicon.svg">
<style>
:root { color-scheme: light dark; }
body {
  font: 1.15rem/1.6 system-ui, sans-serif; margin: 0; min-height: 100vh;
  display: grid; place-content: center; gap: 2rem; padding: 1rem;
}
a {
  color: inherit; text-decoration: none; border: 1px solid;
  border-radius: 8px; padding: 1.2rem 1.6rem; display: block; max-width: 30rem;
}
a:hover, a:focus { outline: 2px solid #0072B2; }
b { font-size: 1.5rem; display: block; }
</style>
</head>
<body>
<main style="display: grid; gap: 1rem">
<a href="en/book/en/preface.html" lang="en" hreflang="en">
<b>Learning to Learn</b>An executable textbook on meta-learning.</a>
<a href="zh/book/zh/preface.html" lang="zh-CN" hreflang="zh-CN">
<b>学会学习</b>一本可以运行的元学习教科书。</a>
</main>
</body>
</html>
"""


def merge(base, over):
    """Lay the settings of ``over`` on ``base``, dictionary by dictionary."""
    for key, value in over.items():
        base[key] = (
            merge(base[key], value)
            if isinstance(value, dict) and isinstance(base.get(key), dict)
            else value
        )
    return base


def pages_of(toc):
    """Every page that a table of contents names."""
    if isinstance(toc, dict):
        own = [toc[k] for k in ("root", "file") if k in toc]
        return own + pages_of([*toc.values()])
    if isinstance(toc, list):
        return [page for entry in toc for page in pages_of(entry)]
    return []


def build(language, toc):
    """Run jupyter-book for one edition and return the folder of its pages."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
    over = ROOT / "book" / language / "_config.yml"
    if over.exists():
        merge(config, yaml.safe_load(over.read_text("utf8")))
    # paths of local extensions are relative to the file that names them
    local = config["sphinx"]["local_extensions"]
    config["sphinx"]["local_extensions"] = {
        name: str(ROOT / path) for name, path in local.items()
    }
    work = ROOT / "_build" / language
    work.mkdir(parents=True)
    settings = work / "_config.yml"
    settings.write_text(yaml.safe_dump(config, allow_unicode=True), "utf8")
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ROOT]
    command += ["--config", settings, "--toc", toc, "--path-output", work]
    command += ["-W", "-q", "--keep-going"]
    print(f"Building the {language} edition ...", flush=True)
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(
            f"{run.stdout}{run.stderr}\nThe {language} edition did not build"
            " cleanly; the messages above say where."
        )
    return work / "_build" / "html"


def lighten(site):
    """Drop the theme's leftovers, and its 1.5 MB icon script: the icons are
    drawn by a font.
    """
    # templates of the theme, no pages
    for leftover in site.glob("_static/*macros.html"):
        leftover.unlink()
    for page in site.rglob("*.html"):
        text = page.read_text("utf8")
        for icons in (
            r"\s*<script[^>]*fontawesome\.js[^>]*></script>",
            r'\s*<link rel="preload" as="script"[^>]*>',
        ):
            text = re.sub(icons, "", text)
        page.write_text(text, "utf8")


def main():
    start = time.time()
    shutil.rmtree(ROOT / "_build", ignore_errors=True)
    for language, toc in EDITIONS.items():
        site = OUT / language
        caches = shutil.ignore_patterns(".buildinfo", ".doctrees")
        shutil.copytree(build(language, toc), site, ignore=caches)
        lighten(site)
        pages = pages_of(yaml.safe_load(toc.read_text("utf8")))
        missing = [p for p in pages if not (site / f"{p}.html").exists()]
        if missing:
            sys.exit(
                f"The {language} edition lacks pages that its table of contents"
                f" names: {', '.join(missing)}"
            )
    (OUT / "index.html").write_text(FRONT_PAGE, "utf8")
    out = OUT.relative_to(Path.cwd()) if OUT.is_relative_to(Path.cwd()) else OUT
    print(
        f"Built in {time.time() - start:.0f} s. Open {out}/index.html,"
        " or run `make serve`."
    )


if __name__ == "__main__":
    main()
