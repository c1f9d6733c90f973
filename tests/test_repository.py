# SPDX-License-Identifier: MIT
"""The repository as a stranger finds it: what the README says is true, and
every file has a licence.
"""

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from address import address
from build import merge, pages_of

import metabook as mb
import notebooks as tool
from metabook.book import results

ROOT = Path(__file__).resolve().parents[1]


def tracked():
    run = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    )
    if run.returncode:
        pytest.skip("not a git checkout: the tracked files are unknown")
    return [name for name in run.stdout.splitlines() if (ROOT / name).is_file()]


def texts():
    for name in tracked():
        try:
            yield name, (ROOT / name).read_text("utf8")
        except UnicodeDecodeError:
            continue


def test_the_readmes_python_runs_and_prints_what_it_says():
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf8"), re.S
    )
    assert blocks, "the README shows how to use the package"
    for block in blocks:
        assert len(block.strip().splitlines()) <= 12
        exec(compile(block, "README.md", "exec"), {})


def test_the_readmes_commands_exist():
    readme = (ROOT / "README.md").read_text("utf8")
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf8"), re.M)
    )
    named = set(re.findall(r"\bmake ([a-z-]+)", readme))
    assert {"book", "test"} <= named <= targets
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert all(target in listed for target in targets)


def test_the_readme_shows_and_links_only_what_is_there():
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text("utf8")
        assert not re.search(r"README-[A-Z]+|OMNIGLOT-READ", text), (
            "a placeholder"
        )
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert target in tracked() or any(
                t.startswith(f"{target}/") for t in tracked()
            ), f"{name}: {target}"


def test_the_measured_numbers_in_the_readme_are_the_committed_ones():
    readme = (ROOT / "README.md").read_text("utf8")
    for name in results.names():
        result = results.load(name)
        # a shorter run, on the page of the papers' tables
        if "--iterations" in result["command"]:
            continue
        for test in result.get("tests", []):
            row = (
                f"| {test['rotated']['accuracy']} ± {test['rotated']['ci95']} |"
                f" {test['paper']}"
            )
            assert row in readme, f"{name}: {row}"


def test_katex_has_one_version():
    """The style sheet in the book and the script that sets the formulas: a
    mismatch renders visibly wrong.
    """
    katex = pytest.importorskip("sphinxcontrib.katex")
    assert f'content:"{katex.katex_version}"' in (
        ROOT / "book/_static/katex/katex.min.css"
    ).read_text("utf8")


def test_every_file_has_a_licence():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    rules = tomllib.loads((ROOT / "REUSE.toml").read_text("utf8"))[
        "annotations"
    ]
    patterns = [
        p
        for rule in rules
        for p in (
            [rule["path"]] if isinstance(rule["path"], str) else rule["path"]
        )
    ]
    for name in tracked():
        if name in ("LICENSE", "LICENSE-TEXT"):
            continue
        assert any(
            fnmatch.fnmatch(name, p.replace("**", "*")) for p in patterns
        ), f"{name}: add it to REUSE.toml"
        if name.endswith(".py"):
            first = (ROOT / name).read_text("utf8").splitlines()[0]
            assert first == "# SPDX-License-Identifier: MIT", name


def test_the_repositorys_address_stands_in_one_place_and_elsewhere_agrees():
    assert (ROOT / "_config.yml").read_text("utf8").count(address()) == 1
    repository = address().removeprefix("https://github.com/")
    for name, text in texts():
        for found in re.findall(
            r"github(?:\.com|usercontent\.com)?/([\w.-]+/metabook)\b", text
        ):
            assert found == repository, f"{name} names {found}"


def test_make_address_reaches_every_cell(tmp_path):
    shutil.copytree(
        ROOT / "notebooks",
        tmp_path / "notebooks",
        ignore=shutil.ignore_patterns(".ipynb_checkpoints"),
    )
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    for name in ("_config.yml", "README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path / name)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([*git, "add", "-A"], cwd=tmp_path, check=True)
    tool_path = tmp_path / "tools" / "address.py"
    wrong = subprocess.run(
        [sys.executable, tool_path, "example.org"],
        capture_output=True,
        text=True,
    )
    assert wrong.returncode
    assert "Say the address" in wrong.stderr
    subprocess.run(
        [sys.executable, tool_path, "https://github.com/somebody/course"],
        check=True,
        capture_output=True,
    )
    for path in [
        *tmp_path.rglob("*.ipynb"),
        tmp_path / "_config.yml",
        tmp_path / "README.md",
        tmp_path / "CITATION.cff",
    ]:
        text = path.read_text("utf8")
        assert address() not in text, path.name
        assert "somebody/course" in text, path.name


def test_no_file_names_a_machines_path_or_says_to_install_the_other_metabook():
    path = re.compile(r"(?<![\w.:/|])/(?:home|root|Users|work|farm)/[\w.-]+")
    hold_it = "tests/book/test_notebooks.py", "tests/test_repository.py"
    for name, text in texts():
        if name in hold_it:
            continue
        assert not path.search(text), f"{name}: {path.search(text)}"
        assert not re.search(
            r"pip install (?:-q |-U )*metabook(?![-\w])",
            text.replace("pip install metabook`", ""),
        ), name


def test_large_files_stay_out():
    for name in tracked():
        assert (ROOT / name).stat().st_size < 3_000_000, name


def test_the_ci_script_runs_the_readmes_commands():
    script = (ROOT / ".ci" / "run").read_text("utf8")
    assert "make book" in script
    assert "make test" in script


def test_an_old_python_is_told_what_is_needed():
    """The installer must at least start on old versions: nothing newer than
    their syntax.
    """
    code = (ROOT / "tools" / "install.py").read_text("utf8")
    compile(code, "install.py", "exec", dont_inherit=True)
    pretend = (
        "import sys; sys.version_info = (3, 9, 1); sys.argv = ['install.py',"
        " 'nowhere']; exec(open('tools/install.py').read())"
    )
    run = subprocess.run(
        [sys.executable, "-c", pretend],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode
    assert "need Python 3.11 or newer; this is 3.9" in run.stderr
    assert not (ROOT / "nowhere").exists()


def test_executing_a_notebook_twice_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "FOLDER", tmp_path)
    text = (
        "%% markdown title\n# 0.0 T\n\n%% code setup tags=remove-cell\n\n%%"
        ' code fig alt="a line that rises"\nimport matplotlib.pyplot as'
        ' plt\n\nplt.plot([1, 2])\nplt.show()\n\n%% code words\n{1: "a"}\n'
    )
    tool.from_text("en", "0_0_t", text)
    tool.from_text(
        "zh",
        "0_0_t",
        '%% markdown title\n# 0.0 题\n\n%% code fig alt="一条上升的线"\n',
    )
    tool.execute("0_0_t")
    first = (tmp_path / "en" / "0_0_t.ipynb").read_bytes()
    tool.execute("0_0_t")
    assert (tmp_path / "en" / "0_0_t.ipynb").read_bytes() == first
    tool.carry("0_0_t")
    chinese = {c.id: c for c in tool.read("zh", "0_0_t").cells}
    assert chinese["words"].outputs[0]["data"]["text/plain"] == "{1: 'a'}"
    assert chinese["fig"].metadata["mystnb"]["image"]["alt"] == "一条上升的线"
    assert tool.stale_cells("0_0_t") == []
    tool.from_text("en", "0_0_t", text.replace("# 0.0 T", "# 0.0 Title"))
    assert tool.stale_cells("0_0_t") == ["title"]
    tool.vouch("0_0_t", ["title"])
    assert tool.stale_cells("0_0_t") == []
    assert tool.parse(tool.as_text("en", "0_0_t")) == tool.parse(
        text.replace("# 0.0 T", "# 0.0 Title").replace(
            "tags=remove-cell\n", f"tags=remove-cell\n{tool.setup_code()}\n"
        )
    )


def test_settings_of_an_edition_lie_on_the_shared_ones():
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {
        "a": {"b": 3, "c": 2}
    }
    assert pages_of(
        {"root": "x", "chapters": [{"file": "y", "sections": [{"file": "z"}]}]}
    ) == ["x", "y", "z"]


def test_the_version_is_one():
    assert f"version: {mb.__version__}" in (ROOT / "CITATION.cff").read_text(
        "utf8"
    )
