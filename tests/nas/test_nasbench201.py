# SPDX-License-Identifier: MIT
"""NAS-Bench-201: its cells, their names and numbers, and its table."""

import inspect
import os
import pickle
import re
import shutil
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import metabook as mb
from metabook.book import results
from metabook.nas import nasbench201
from metabook.nas.nasbench201_file import ARRAYS

FILE = (
    Path(os.environ.get("METABOOK_DATA", "nowhere"))
    / "nas"
    / "nasbench201_compact.npz"
)
real = pytest.mark.skipif(
    not FILE.is_file(),
    reason="no NAS-Bench-201: set METABOOK_DATA to a folder that has it",
)


@pytest.fixture(scope="module")
def cells():
    return mb.nas.load_nasbench201(FILE)


@real
def test_nasbench201_has_its_cells_and_its_optimum(cells):
    space = cells.space
    assert len(space) == 5**6 == 15625
    assert cells.budgets == (12,)
    # as the benchmark's authors report
    assert cells.test(cells.best) == pytest.approx(94.373, abs=1e-3)
    with np.load(FILE) as file:
        row = 4321
        arch = tuple(file["ops"][i] for i in file["arch"][row])
        assert arch == list(space)[row]
        assert cells.valid(arch) == file["val12"][row, 0]
        assert cells.test(arch) == file["test200"][row, 0]
    hundred = mb.nas.load_nasbench201(FILE, dataset="cifar100")
    assert hundred.test(hundred.best) == pytest.approx(73.513, abs=1e-3)
    with pytest.raises(
        ValueError, match="choose one of cifar10, cifar100, imagenet16-120"
    ):
        mb.nas.load_nasbench201(FILE, dataset="mnist")


NONE, SKIP, POOL = "none", "skip_connect", "avg_pool_3x3"
ONE, THREE = "nor_conv_1x1", "nor_conv_3x3"


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [  # edges 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2
        # nodes 1 and 2 exchanged
        (
            (ONE, THREE, NONE, SKIP, POOL, ONE),
            (THREE, ONE, NONE, SKIP, ONE, POOL),
            True,
        ),
        # not where an edge joins them
        (
            (ONE, THREE, SKIP, SKIP, POOL, ONE),
            (THREE, ONE, SKIP, SKIP, ONE, POOL),
            False,
        ),
        # leads nowhere
        (
            (ONE, THREE, POOL, SKIP, NONE, NONE),
            (NONE, NONE, NONE, SKIP, NONE, NONE),
            True,
        ),
        # pools of nothing
        (
            (NONE, NONE, POOL, SKIP, POOL, POOL),
            (NONE, NONE, NONE, SKIP, NONE, NONE),
            True,
        ),
        # but a shift is learned
        (
            (NONE, NONE, NONE, SKIP, ONE, NONE),
            (NONE, NONE, NONE, SKIP, NONE, NONE),
            False,
        ),
        # around by a skip
        (
            (SKIP, NONE, NONE, NONE, ONE, NONE),
            (NONE, NONE, NONE, ONE, NONE, NONE),
            True,
        ),
        # f + g, and 2 f
        (
            (ONE, ONE, NONE, NONE, SKIP, SKIP),
            (ONE, NONE, SKIP, NONE, SKIP, SKIP),
            False,
        ),
        # a pool has no weights
        (
            (POOL, POOL, NONE, NONE, SKIP, SKIP),
            (POOL, NONE, SKIP, NONE, SKIP, SKIP),
            True,
        ),
    ],
)
def test_cells_that_are_the_same_network_have_one_canonical_form(a, b, equal):
    canonical = nasbench201.space().canonical
    assert (canonical(a) == canonical(b)) == equal


def test_the_canonical_form_is_its_own_and_no_matter_of_nodes_names():
    cells = list(nasbench201.space())
    canonical = nasbench201.space().canonical
    forms = {canonical(arch) for arch in cells}
    assert len(forms) == 5875
    assert all(canonical(form) == form for form in forms)
    for arch in cells:
        e10, e20, e21, e30, e31, e32 = arch
        if e21 == "none":
            assert canonical(arch) == canonical(
                (e20, e10, "none", e30, e32, e31)
            )


# --- names and numbers ---


# from the authors' scripts and the answers in their repositories' issues:
# D-X-Y/NATS-Bench, issue 18, and D-X-Y/AutoDL-Projects, NAS-Bench-201/main.py
PUBLISHED = {
    0: "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|"
    "+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
    1: "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|"
    "+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
    9: "|avg_pool_3x3~0|+|none~0|none~1|"
    "+|skip_connect~0|none~1|nor_conv_3x3~2|",
    123: "|avg_pool_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|"
    "+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|",
    9930: "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|"
    "+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|",
}


@pytest.mark.parametrize("index", PUBLISHED)
def test_strings_and_numbers_are_those_of_the_benchmark(index):
    text = PUBLISHED[index]
    arch = nasbench201.from_index(index)
    assert nasbench201.to_string(arch) == text
    assert nasbench201.from_string(text) == arch
    assert nasbench201.to_index(arch) == index


def test_every_cell_has_one_string_and_one_number():
    cells = list(nasbench201.space())
    strings = [nasbench201.to_string(arch) for arch in cells]
    assert [*map(nasbench201.from_string, strings)] == cells
    numbers = [nasbench201.to_index(arch) for arch in cells]
    assert sorted(numbers) == list(range(len(cells)))
    assert [*map(nasbench201.from_index, numbers)] == cells


@real
def test_the_numbers_are_those_of_the_compact_file(cells):
    with np.load(FILE) as file:
        numbers = file["nb201_index"].tolist()
    assert [nasbench201.to_index(arch) for arch in cells.space] == numbers
    # what the benchmark's API prints of cell 1 after 12 epochs
    assert cells.valid(nasbench201.from_index(1)) == pytest.approx(
        82.83, abs=0.005
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nor_conv_3x3",
        "|none~0|+|none~0|none~1|",
        "|none~0|+|none~1|none~0|+|none~0|none~1|none~2|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|conv_5x5~2|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2| ",
        "|none~0|none~0|+|none~1|+|none~0|none~1|none~2|",
    ],
)
def test_another_string_is_refused_and_told_how_cells_are_written(text):
    with pytest.raises(ValueError, match="is no cell of NAS-Bench-201") as e:
        nasbench201.from_string(text)
    example = re.search(r"written as '(.*?)',", str(e.value))[1]
    assert nasbench201.from_string(example) == ("none",) * 6  # the way out


@pytest.mark.parametrize("arch", [("none",) * 5, ("zero",) * 6, "none", None])
def test_what_is_no_cell_has_no_name(arch):
    for name in (nasbench201.to_string, nasbench201.to_index):
        with pytest.raises(ValueError, match="is no cell of NAS-Bench-201: a "):
            name(arch)


@pytest.mark.parametrize("index", [-1, 15625])
def test_a_number_that_no_cell_has_is_refused(index):
    with pytest.raises(ValueError, match=f"index is {index}; .* 0 to 15624"):
        nasbench201.from_index(index)


# --- its file, and files that are taken for it ---


def some_table():
    """Arrays like those of the compact file, with numbers of no meaning."""
    rng = np.random.default_rng(0)
    cells = np.indices((5,) * 6).reshape(6, -1).T.astype(np.int8)
    return {
        "ops": np.array(nasbench201.OPERATIONS),
        "edges": np.array(nasbench201.EDGES),
        "arch": cells,
        "datasets": np.array(["cifar10", "cifar100"]),
        "val12": rng.random((15625, 2)).astype(np.float32),
        "test200": rng.random((15625, 2)).astype(np.float32),
    }


def test_a_table_is_read_by_the_name_of_its_data_set(tmp_path):
    arrays = some_table()
    np.savez(tmp_path / "x.npz", **arrays)
    for column, name in enumerate(arrays["datasets"]):
        table = mb.nas.load_nasbench201(tmp_path / "x.npz", dataset=name)
        arch = list(table.space)[777]
        assert table.valid(arch, budget=12) == arrays["val12"][777, column]
        assert table.test(arch) == arrays["test200"][777, column]
    with pytest.raises(ValueError, match="choose one of cifar10, cifar100"):
        mb.nas.load_nasbench201(tmp_path / "x.npz", dataset="mnist")


def damaged(path, part):
    np.savez(path, **some_table())
    whole = path.read_bytes()
    if part == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + b"?" * 99 + whole[middle + 99 :])


def legacy_torch(path):
    torch.save({"meta_archs": []}, path, _use_new_zipfile_serialization=False)


def zipped(path):
    folder = path.parent / "folder"
    folder.mkdir()
    (folder / "readme").write_text("hello")
    shutil.make_archive(str(path), "zip", folder)
    path.with_suffix(".npz.zip").rename(path)


OTHER_FILES = {
    "a folder": lambda path: path.mkdir(),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"a": 1})),
    "a pickle, as": legacy_torch,
    "a file of torch.save": lambda path: torch.save({"meta_archs": []}, path),
    "a compressed pickle": lambda path: path.write_bytes(b"BZh91AY&SY"),
    "a single array": lambda path: np.save(path.open("wb"), np.ones(3)),
    "an empty file": lambda path: path.touch(),
    "no npz": lambda path: path.write_text("accuracy, architecture"),
    "a zip archive": zipped,
    "an npz that lacks arch, datasets, edges, test200, val12": (
        lambda path: np.savez(path, ops=["none"])
    ),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_a_file_that_is_not_the_table_is_told_by_its_kind(kind, tmp_path):
    path = tmp_path / "nasbench201.npz"
    OTHER_FILES[kind](path)
    with pytest.raises(
        ValueError,
        match=rf"nasbench201.npz is {kind}.*; metabook reads the compact .*"
        r"help\(metabook.nas.load_nasbench201\) shows",
    ):
        mb.nas.load_nasbench201(path)


def test_a_file_that_is_not_there_is_an_error_with_a_way_out(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"x.npz is not there; metabook reads the comp"
    ):
        mb.nas.load_nasbench201(tmp_path / "x.npz")


@pytest.mark.parametrize("part", ["cut", "middle"])
def test_a_damaged_file_is_told_apart_from_another_one(part, tmp_path):
    path = tmp_path / "x.npz"
    damaged(path, part)
    with pytest.raises(ValueError, match="cut short or damaged .*copy it agai"):
        mb.nas.load_nasbench201(path)


@pytest.mark.parametrize("name", ["ops", "edges", "arch"])
def test_cells_in_another_order_are_refused(name, tmp_path):
    arrays = some_table()
    arrays[name] = arrays[name][::-1]
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match="in another order than metabook.nas"):
        mb.nas.load_nasbench201(tmp_path / "x.npz")


def test_the_table_can_be_made_from_the_authors_files_as_the_page_says(
    monkeypatch, tmp_path
):
    """With a stand-in for their package: the same calls, answers of ours."""
    arrays = some_table()
    rows = {arch: i for i, arch in enumerate(nasbench201.space())}

    class Api:
        def get_more_info(
            self, index, dataset, iepoch=None, hp="12", is_random=True
        ):
            assert is_random is False
            row = rows[nasbench201.from_index(index)]
            known = {
                ("cifar10-valid", "12"): ("valid-accuracy", "val12"),
                ("cifar10", "200"): ("test-accuracy", "test200"),
            }
            key, name = known[dataset, hp]
            return {key: float(arrays[name][row, 0])}

    def create(path, space, fast_mode, verbose):
        assert (path, space, fast_mode) == ("folder", "tss", True)
        return Api()

    fake = types.ModuleType("nats_bench")
    fake.create = create
    monkeypatch.setitem(sys.modules, "nats_bench", fake)
    doc = inspect.getdoc(mb.nas.load_nasbench201)
    program = textwrap.dedent(doc[doc.index("    api = ") : doc.index("On ``")])
    names = {"mb": mb, "nats_bench": fake, "folder": "folder"}
    exec(program, names)
    table = names["table"]
    np.savez(tmp_path / "x.npz", **arrays)
    loaded = mb.nas.load_nasbench201(tmp_path / "x.npz")
    for arch in list(table.space)[::500]:
        assert table.valid(arch, budget=12) == loaded.valid(arch)
        assert table.test(arch) == loaded.test(arch)
    assert set(ARRAYS) == set(arrays)
    assert all(f"``{name}``" in doc for name in ARRAYS)


# --- what searches find in it ---


@real
def test_the_looked_up_accuracies_of_one_network_are_close(cells):
    groups = {}
    for arch in cells.space:
        groups.setdefault(cells.space.canonical(arch), []).append(
            cells.test(arch)
        )
    many = [np.array(g) for g in groups.values() if len(g) > 1]
    within = np.sqrt(
        sum(((g - g.mean()) ** 2).sum() for g in many)
        / sum(len(g) - 1 for g in many)
    )
    assert within < 0.3  # the same network, trained again
    assert np.std([g.mean() for g in many]) > 10 * within


@real
@pytest.mark.parametrize("dataset", ["cifar10", "imagenet16-120"])
def test_the_committed_benchmark_is_what_the_strategies_find_now(dataset):
    table = mb.nas.load_nasbench201(FILE, dataset=dataset)
    result = results.load("nasbench201")
    for name, make in {
        "random": lambda space, seed: mb.nas.RandomSearch(space, seed=seed),
        "evolution": lambda space, seed: mb.nas.RegularizedEvolution(
            space, population=30, sample=10, seed=seed
        ),
        "local": lambda space, seed: mb.nas.LocalSearch(space, seed=seed),
    }.items():
        found = [
            table.test(
                mb.nas.search(make(table.space, seed), table.valid, 105).best
            )
            for seed in range(5)
        ]
        assert found == pytest.approx(
            result["searched"][dataset][name]["seeds_0_to_4"], abs=1e-3
        ), name


def test_random_search_is_committed_where_the_benchmarks_authors_found_it():
    """105 evaluations stand for their 12,000 seconds; the other strategies lie
    above, the interval included.
    """
    result = results.load("nasbench201")
    published, sd = result["published"]["cifar10"]["random"]
    searched = result["searched"]["cifar10"]
    assert (
        abs(searched["random"]["test"]["mean"] - published)
        < 3 * sd * (2 / 500) ** 0.5
    )
    for name in (
        "evolution",
        "evolution_10_3",
        "reinforce_independent",
        "local",
    ):
        gain = searched[name]["minus_random"]
        assert gain["mean"] - gain["ci95"] > 0, name
