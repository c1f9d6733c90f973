# SPDX-License-Identifier: MIT
"""Numbers on a page come from the committed results: a value by its place in
the file, and whole tables.

{measured}`speed_maml memory.implementations.metabook.peak_mb`
```{speed-table} speed_maml sinusoid 1thread
```
```{reproduction-table} protonet-omniglot-1shot protonet-omniglot-5shot
```
"""

from abc import ABC, abstractmethod
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from metabook.book import results

WORDS = {
    "en": {
        "step": "{n} step",
        "steps": "{n} steps",
        "second": "second order",
        "first": "first order",
        "peak": "peak memory",
        "beyond": "beyond the start",
        "share": "arithmetic of `metabook`, of the peak",
        "ms": "{x} ms",
        "mb": "{x} MB",
        "comma": ", ",
        "task": "{way}-way {shot}-shot",
        "paper": "the paper",
        "ours": "ours",
        "length": "iterations",
        "minutes": "core-minutes",
        "seed": "seed",
        "thread": "{n} thread",
        "threads": "{n} threads",
        "kept": "memory kept",
        "episodes": "{n:,} episodes",
        "rate": "proposals a second",
        "faster": "evolution in `metabook` is faster",
    },
    "zh": {
        "step": "{n} 步",
        "steps": "{n} 步",
        "second": "二阶",
        "first": "一阶",
        "peak": "峰值内存",
        "beyond": "开工之后新增",
        "share": "`metabook` 的算术，占峰值",
        "ms": "{x} 毫秒",
        "mb": "{x} MB",
        "comma": "，",
        "task": "{way} 类 {shot} 样本",
        "paper": "论文",
        "ours": "我们",
        "length": "迭代次数",
        "minutes": "单核分钟数",
        "seed": "种子",
        "thread": "单线程",
        "threads": "双线程",
        "kept": "不还内存",
        "episodes": "{n:,} 个任务",
        "rate": "每秒提案",
        "faster": "`metabook` 的进化快多少",
    },
}


def look_up(text: str) -> Any:
    """A value by the name of the result and the keys to it, joined by dots."""
    name, place = text.split(maxsplit=1)
    value: Any = results.load(name)
    for key in place.split("."):
        if key not in value:
            raise ValueError(
                f"{name} has no {place}: {key!r} is not among"
                f" {', '.join(map(str, value))}"
            )
        value = value[key]
    return value


class Measured(SphinxRole):
    """The value as it stands in the file; whole numbers with commas between
    thousands, and a true minus sign.
    """

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The text node."""
        value = look_up(self.text)
        text = f"{value:,}" if isinstance(value, int) else str(value)
        if isinstance(value, float):
            text = text.replace("-", "\u2212")
        return [nodes.Text(text)], []


def short(x: float, digits: int = 3) -> str:
    """A few significant digits, never an exponent."""
    return f"{x:.0f}" if x >= 10 ** (digits - 1) else f"{x:#.{digits}g}"


class Table(SphinxDirective, ABC):
    """A table whose rows come from committed results: a subclass says which."""

    required_arguments = 1
    final_argument_whitespace = True

    @abstractmethod
    def rows(self, wanted: list[str], words: dict[str, str]) -> list[list[str]]:
        """The head and the rows of the table, in Markdown."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        words = WORDS[self.env.config.language.split("_")[0]]
        rows = self.rows(self.arguments[0].split(), words)
        rows.insert(1, ["---"] + ["---:"] * (len(rows[0]) - 1))
        lines = StringList(
            ["| " + " | ".join(row) + " |" for row in rows],
            source=self.arguments[0],
        )
        box = nodes.container(classes=["measured"])
        self.state.nested_parse(lines, self.content_offset, box)
        return [box]


class SpeedTable(Table):
    """A row for each implementation, a column for each work whose name has
    these words in it; or ``memory``.
    """

    def rows(self, wanted: list[str], words: dict[str, str]) -> list[list[str]]:
        """The result's name comes first."""
        result = results.load(wanted[0])
        if wanted[1:] == ["memory"]:
            return memory_rows(result, words)
        works = {
            name: work
            for name, work in result["works"].items()
            if all(word in name.split("-") for word in wanted[1:])
        }
        if "proposals" in wanted:
            return proposal_rows(*works.values(), words)
        return speed_rows(works, words)


class ReproductionTable(Table):
    """A row for every committed test of these experiments."""

    def rows(self, wanted: list[str], words: dict[str, str]) -> list[list[str]]:
        """In the order of the names, short runs before long ones."""
        found = [
            r
            for r in map(results.load, results.names())
            if r.get("experiment") in wanted
        ]
        found.sort(
            key=lambda r: (
                wanted.index(r["experiment"]),
                r["training"]["iterations"],
                r["training"]["seed"],
            )
        )
        head = ("paper", "ours", "length", "minutes", "seed")
        rows = [["", *(words[key] for key in head)]]
        for r in found:
            training = r["training"]
            length, minutes = training["iterations"], training["core_minutes"]
            last = (
                f"{length:,}",
                "–" if minutes is None else f"{minutes:.0f}",
                f"{training['seed']}",
            )
            for test in r["tests"]:
                paper, ours = f"{test['paper']}", test["rotated"]
                if test["paper_ci95"]:
                    paper += f" ± {test['paper_ci95']}"
                ours = f"{ours['accuracy']:.2f} ± {ours['ci95']:.2f}"
                rows.append([words["task"].format(**test), paper, ours, *last])
        return rows


def speed_rows(
    works: dict[str, dict[str, Any]], words: dict[str, str]
) -> list[list[str]]:
    found = [w["implementations"] for w in works.values()]
    reference = next(
        name
        for name, entry in found[0].items()
        if entry.get("speedup_ci95") == [1.0, 1.0]
    )
    head = (heading(name, work, words) for name, work in works.items())
    times = (words["ms"].format(x=short(f[reference]["ms"])) for f in found)
    rows = [["", *head], [reference, *times]]
    for name in found[0]:
        if name not in (reference, "metabook, one task at a time"):
            rows.append([name, *(speedup(f.get(name, {})) for f in found)])
    if "share_of_sgemm" in found[0].get("metabook", {}):
        shares = (f["metabook"]["share_of_sgemm"] for f in found)
        rows.append([words["share"], *(f"{100 * s:.0f} %" for s in shares)])
    return rows


def heading(name: str, work: dict[str, Any], words: dict[str, str]) -> str:
    """What distinguishes a work from its neighbours in the table."""
    parts = []
    if "inner_steps" in work:
        n = work["inner_steps"]
        parts.append(words["step" if n == 1 else "steps"].format(n=n))
        parts.append(words["first" if work["first_order"] else "second"])
        return words["comma"].join(parts)
    if name.startswith("evaluation"):
        parts.append(words["episodes"].format(n=work["episodes"]))
    n = work["threads"]
    parts.append(words["thread" if n == 1 else "threads"].format(n=n))
    if "kept" in name.split("-"):
        parts.append(words["kept"])
    return words["comma"].join(parts)


def proposal_rows(
    work: dict[str, Any], words: dict[str, str]
) -> list[list[str]]:
    rows = [["", words["rate"], words["faster"]]]
    for name, entry in work["implementations"].items():
        rate = float(f"{entry.get('per_second', 0):.3g}")
        faster = speedup(entry.get("evolution_is_faster", {}))
        rows.append([name, f"{rate:,.0f}" if rate else "–", faster])
    return rows


def speedup(found: dict[str, Any]) -> str:
    """How many times faster, with its interval below; a dash for who cannot do
    this work.
    """
    if "speedup" not in found:
        return "–"
    times, low, high = (
        short(x, 2) for x in (found["speedup"], *found["speedup_ci95"])
    )
    # joiners: an interval stays on one line
    return f"×{times} ({low}\u2060–\u2060{high})"


def memory_rows(
    result: dict[str, Any], words: dict[str, str]
) -> list[list[str]]:
    found = result["memory"]["implementations"].items()
    rows = [["", words["peak"], words["beyond"]]]
    for name, m in found:
        sizes = m["peak_mb"], m["beyond_start_mb"]
        rows.append([name, *(words["mb"].format(x=size) for size in sizes)])
    return rows


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_role("measured", Measured())
    app.add_directive("speed-table", SpeedTable)
    app.add_directive("reproduction-table", ReproductionTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
