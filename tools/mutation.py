# SPDX-License-Identifier: MIT
"""Which small mistakes in the package would the tests notice?

    make mutants    # or: python tools/mutation.py --sample 400 --seed 0

draws places of the code by the seed, makes one mutation of cosmic-ray at each
of them in a copy of the repository, and runs the tests of its room there. It
takes hours. The summary goes to tools/mutation.json after every mutant. The
same line again goes on: what was killed is taken from that file, what survived
is run once more (with the tests that were added since), and what was "judged"
there by hand is kept. To begin anew, remove the file.
"""

import argparse
import ast
import json
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

import matplotlib.pyplot  # noqa: F401  once, before the forks
import pytest
import scipy.stats  # noqa: F401
import sklearn  # noqa: F401
import torch  # noqa: F401
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

Mutant = tuple[Path, int, str, int]  # file, line, operator, its occurrence

ROOT = Path(__file__).resolve().parents[1]
OUT = Path(__file__).with_suffix(".json")
SURVIVED = {"outcome": "survived"}
NOTHING_FAILED = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
STRATEGIES = ["random_search", "evolution", "local_search", "reinforce"]
FILES = [
    *sorted(
        path
        for room in ("optimization", "metric", "training")
        for path in (ROOT / "metabook" / room).rglob("*.py")
    ),
    *(ROOT / "metabook" / "nas" / f"{name}.py" for name in STRATEGIES),
]
# of other rooms: what is tried on every learner and every strategy
OF_ALL = ["tests/data/test_every_setting.py"]
OF_ALL += ["tests/learner/test_learner_contract.py"]
NEEDED = ["metabook", "tests", "tools", "pyproject.toml"]
# what fails wherever it is run (a shift of floats, the union of numbers), or
# is mostly the same (`is` for `==`), would only flatter
DULL = r"Shift|BitXor|_(Bit\w+)_(?!Bit)|_(?!Bit)(\w+)_Bit|_(Eq|NotEq)_Is"
DULL += r"|_Is(Not)?_(?!Is)|_(Lt|Gt)E?_Is|Variable"


def sites(path: Path) -> list[list[Mutant]]:
    """The mutations of every place; type annotations are no places."""
    source = path.read_text("utf8")
    hints = [
        (part.lineno, part.end_lineno or part.lineno)
        for node in ast.walk(ast.parse(source))
        for name in ("annotation", "returns")
        if isinstance(part := getattr(node, name, None), ast.expr)
    ]
    found = defaultdict(list)
    nodes = list(ast_nodes(get_ast(source)))
    for name in operator_names():
        if re.search(DULL, name):
            continue
        operator = get_operator(name)()
        places = (p for n in nodes for p in operator.mutation_positions(n))
        for i, (start, end) in enumerate(places):
            hint = any(a <= start[0] <= b for a, b in hints)
            if "BitOr" in name and hint:
                continue
            # the star of a signature is taken for a product
            if "_Mul_" in name or "_Pow_" in name:
                try:
                    compile(mutate_code(source, operator, i), "", "exec")
                except SyntaxError:
                    continue
            found[start, end].append((path, start[0], name, i))
    return [found[place] for place in sorted(found)]


def tests_of(path: Path) -> list[str]:
    """The file's own doctests and test file, and the rest of its room, those
    first that speak of it.
    """
    room = path.relative_to(ROOT / "metabook").parts[0]
    names = re.findall(r"^(?:def|class) ([a-zA-Z]\w+)", path.read_text(), re.M)
    word = re.compile(rf"\b({'|'.join([*names, path.stem])})\b")

    def strangeness(test: Path) -> tuple[bool, int]:
        return test.stem != f"test_{path.stem}", -len(
            word.findall(test.read_text("utf8"))
        )

    tests = sorted((ROOT / "tests" / room).rglob("test_*.py"), key=strangeness)
    return [*(str(p.relative_to(ROOT)) for p in (path, *tests)), *OF_ALL]


class FirstFailure:
    """A plugin of pytest that remembers which test noticed."""

    test = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called after every test."""
        if report.failed and not self.test:
            self.test = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Called after every file is imported."""
        if report.failed and not self.test:
            self.test = f"{report.nodeid} (when it is imported)"


def run_tests(copy: Path, tests: list[str], say: Connection) -> None:
    """In a process of its own, which has torch and not yet metabook."""
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    os.environ |= {"PYTHONPATH": str(copy), "METABOOK_PROGRESS": "0"}
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    first = FirstFailure()
    options = ["-q", "-x", "-p", "no:cacheprovider", "--doctest-modules"]
    # file by file: most mistakes are noticed by the first
    codes = (pytest.main([*options, test], [first]) for test in tests)
    say.send((not all(code in NOTHING_FAILED for code in codes), first.test))
    say.close()
    os._exit(0)


def in_a_fork(copy: Path, tests: list[str], limit: float) -> dict[str, str]:
    answer, say = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(
        target=run_tests, args=(copy, tests, say)
    )
    child.start()
    say.close()
    try:
        if not answer.poll(limit):
            return {"outcome": "timeout"}
        failed, by = answer.recv()
    except EOFError:
        failed, by = True, "the process died"
    finally:
        child.kill()
        child.join()
    return {"outcome": "killed", "by": by} if failed else SURVIVED


def outcome(
    copy: Path, mutant: Mutant, known: dict[str, dict[str, str]], limit: float
) -> dict[str, str]:
    """Make the mutation in the copy, and see whether a test fails."""
    path, line, name, occurrence = mutant
    source = path.read_text("utf8")
    changed = mutate_code(source, get_operator(name)(), occurrence)
    pairs = zip(source.splitlines(), changed.splitlines(), strict=False)
    old, new = next((a.strip(), b.strip()) for a, b in pairs if a != b)
    place = path.relative_to(ROOT)
    found = {"place": f"{place}:{line}", "change": f"{old}  ->  {new}"}
    past = known.get(found["place"] + found["change"], SURVIVED)
    if past["outcome"] != "survived":
        return past
    (copy / place).write_text(changed, "utf8")
    try:
        now = in_a_fork(copy, tests_of(path), limit)
    finally:
        (copy / place).write_text(source, "utf8")
    judged = {"judged": past["judged"]} if "judged" in past else {}
    return found | now | (judged if now == SURVIVED else {})


def before(options: argparse.Namespace) -> dict[str, dict[str, str]]:
    """What an earlier run of this sample has found, by place and change."""
    if not OUT.exists():
        return {}
    then = json.loads(OUT.read_text("utf8"))
    if (then["sample"], then["seed"]) != (options.sample, options.seed):
        return {}
    return {m["place"] + m["change"]: m for m in then["mutants"]}


def environment() -> dict[str, str]:
    """In another process: mutants are forked from this one, and import the
    package themselves.
    """
    code = "import json, metabook.book.results as r;"
    code += "print(json.dumps(r.environment()))"
    return json.loads(subprocess.check_output([sys.executable, "-c", code]))


def write(
    options: argparse.Namespace,
    environment: dict[str, str],
    found: list[dict[str, str]],
) -> None:
    counts = Counter(f["outcome"] for f in found)
    summary = {
        "sample": options.sample,
        "seed": options.seed,
        "run": len(found),
        **{k: counts[k] for k in ("killed", "timeout", "survived")},
        "cosmic-ray": version("cosmic-ray"),
        "environment": environment,
        "mutants": found,
    }
    OUT.write_text(
        json.dumps(summary, indent=1, ensure_ascii=False) + "\n", "utf8"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, help="only so many of the sample")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    drawn = rng.sample([s for f in FILES for s in sites(f)], options.sample)
    mutants = [rng.choice(site) for site in drawn][: options.first]
    known, where = before(options), environment()
    found: list[dict[str, str]] = []
    free: SimpleQueue[Path] = SimpleQueue()

    def one(mutant: Mutant) -> dict[str, str]:
        copy = free.get()
        try:
            return outcome(copy, mutant, known, options.limit)
        finally:
            free.put(copy)

    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(options.jobs) as pool,
    ):
        for i in range(options.jobs):
            for name in NEEDED:
                take = shutil.copytree if "." not in name else shutil.copy
                target = Path(folder, str(i), name)
                target.parent.mkdir(exist_ok=True)
                take(ROOT / name, target)
            free.put(Path(folder, str(i)))
        for room in dict.fromkeys(m[0].parent for m in mutants):
            tests = tests_of(next(m[0] for m in mutants if m[0].parent == room))
            plain = in_a_fork(Path(folder, "0"), tests, options.limit)
            if plain != SURVIVED:
                sys.exit(f"fails without any mutation: {plain}")
        for result in pool.map(one, mutants):
            print(*result.values(), sep="  ", flush=True)
            found.append(result)
            write(options, where, found)


if __name__ == "__main__":
    main()
