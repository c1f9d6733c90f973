# SPDX-License-Identifier: MIT
"""The shape of the package: floors, public names, what an import costs."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import metabook as mb
from metabook.book import results
from metabook.book.figures import Timeline
from metabook.book.reproduce import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "metabook"

# from the ground up; a file imports from its own room or from lower floors
FLOORS = [
    ["data", "models"],
    ["tasks"],
    ["learner"],
    ["optimization", "metric"],
    ["training"],
    ["nas"],
    ["book"],
    ["testing", "cli", "__init__"],
]


def floor_of(module):
    room = module.removeprefix("metabook.").split(".")[0]
    for height, rooms in enumerate(FLOORS):
        if room in rooms:
            return height, room
    raise AssertionError(f"{module} has no floor: add it to FLOORS")


def name_of(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text("utf8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{path.name}: relative imports hide where things come from"
            )
            if node.module == "metabook":
                yield from (f"metabook.{a.name}" for a in node.names)
            elif node.module.startswith("metabook."):
                yield node.module
                inside = ROOT.joinpath(*node.module.split("."))
                for a in node.names:  # from metabook.room import module
                    if (inside / f"{a.name}.py").exists():
                        yield f"{node.module}.{a.name}"
        elif isinstance(node, ast.Import):
            yield from (
                a.name for a in node.names if a.name.startswith("metabook")
            )


@pytest.mark.parametrize(
    "path",
    sorted(PACKAGE.rglob("*.py")),
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_nothing_imports_upward(path):
    name = name_of(path)
    if name == "metabook":
        return
    height, room = floor_of(name)
    for module in imports_of(path):
        other, other_room = floor_of(module)
        assert other < height or other_room == room, f"{name} imports {module}"


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "training").glob("*.py")), ids=lambda p: p.stem
)
def test_training_and_evaluation_know_no_family(path):
    families = {"metabook.optimization", "metabook.metric", "metabook.nas"}
    assert not [
        m for m in imports_of(path) if ".".join(m.split(".")[:2]) in families
    ]


@pytest.mark.parametrize(
    "path",
    sorted(PACKAGE.rglob("*.py")),
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_underscored_names_stay_in_their_file(path):
    for node in ast.walk(ast.parse(path.read_text("utf8"))):
        module = getattr(node, "module", None) or ""
        if isinstance(node, ast.ImportFrom) and module.startswith("metabook"):
            assert not [a.name for a in node.names if a.name.startswith("_")]


def test_nothing_imports_in_a_circle():
    graph = {}
    for path in PACKAGE.rglob("*.py"):
        name = name_of(path)
        graph[name] = set(imports_of(path)) - {name}

    def visit(name, above):
        assert name not in above, " -> ".join([*above, name])
        for other in graph.get(name, ()):
            visit(other, [*above, name])

    for name in graph:
        visit(name, [])


@pytest.mark.parametrize("name", mb.__all__)
def test_every_public_name_is_documented(name):
    thing = getattr(mb, name)
    doc = inspect.getdoc(thing)
    assert doc, name
    # a base class, a record and a room: nothing to show that others do not
    if name not in ("Learner", "History", "testing"):
        assert "Examples" in doc, f"{name} has no example"


def test_import_costs_less_than_half_a_second_beyond_torch():
    code = (
        "import time, torch; t = time.process_time(); import metabook;"
        " print(time.process_time() - t)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
        )
        for _ in range(3)
    ]
    assert min(float(run.stdout) for run in runs) < 0.5


def test_only_what_is_declared_is_imported():
    """A newcomer has the dependencies of pyproject.toml and nothing else."""
    declared = {"torch", "numpy", "scipy", "matplotlib", "PIL", "tqdm"}
    declared |= {"sklearn", "metabook"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module]
            else:
                continue
            rooms = {module.split(".")[0] for module in modules}
            undeclared = rooms - declared - sys.stdlib_module_names
            assert not undeclared, f"{path.name}, line {node.lineno}"


def test_dependencies_have_lower_bounds_only():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))
    allowed = {"torch", "numpy", "scipy", "matplotlib", "pillow", "tqdm"}
    allowed |= {"scikit-learn"}
    for line in settings["project"]["dependencies"]:
        name, _, bound = line.partition(">=")
        assert name in allowed
        assert bound.replace(".", "").isdigit(), line


def test_an_unknown_result_is_answered_with_those_that_exist():
    with pytest.raises(
        FileNotFoundError, match="there are: .*protonet_omniglot_1shot_seed0"
    ):
        results.load("nothing")


@pytest.mark.parametrize(
    "path",
    sorted((PACKAGE / "book" / "results").glob("*.json")),
    ids=lambda p: p.stem,
)
def test_a_committed_result_says_how_it_came_about(path):
    result = results.load(path.stem)
    program, what, *rest = result["command"].split()
    if program == "metabook":
        assert what == "reproduce"
        assert rest[0] in EXPERIMENTS
    else:
        assert program == "python"
        assert (ROOT / what).is_file()
    assert {"processor", "cores", "torch", "python", "date"} <= set(
        result["environment"]
    )
    # of a benchmark of speed the seeds are fixed in the command, and rounds
    # take their place
    if "works" not in result:
        assert "seed" in str(result)
        # of learners, or of architectures
        assert "episodes" in str(result) or "evaluations" in result


def test_the_timeline_is_one_file_for_both_languages():
    timeline = Timeline()
    years = [entry["year"] for entry in timeline.entries]
    assert years == sorted(years) and years[0] == 1987
    for entry in timeline.entries:
        assert set(entry) == {"year", "who", "what", "link", "en", "zh"}
        assert entry["link"].startswith(("https://", "http://"))
        assert entry["en"].endswith((".", "?"))
        assert re.search(r"[一-鿿]", entry["zh"])
    html = timeline._repr_html_()
    assert html.count("<li>") == 2 * len(years)
    assert '<ul lang="en">' in html and '<ul lang="zh">' in html
    figure = Figure()
    timeline.draw(figure.subplots())
    texts = [t.get_text() for t in figure.axes[0].texts]
    shown = [y for y in set(years) for text in texts if str(y) in text]
    assert len(shown) == len(years)
