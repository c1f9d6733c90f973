# SPDX-License-Identifier: MIT
"""Shared settings: real data where it lies beside the repository, one thread,
and a few small models.
"""

import os
import signal
from pathlib import Path

import pytest
import torch

import metabook as mb

ROOT = Path(__file__).resolve().parents[1]
_DATA = ROOT.parent / "shared" / "data"
if "METABOOK_DATA" not in os.environ and _DATA.is_dir():
    os.environ["METABOOK_DATA"] = str(_DATA)

# a shell that starts the tests in the background has Ctrl-C ignored
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def one_thread_and_one_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def images():
    return mb.glyphs(classes=40, examples=20, seed=0)


@pytest.fixture
def tasks(images):
    return mb.FewShotTasks(images, way=5, shot=2, query=3, seed=0)


def small_conv(out=None, norm="batch_stats", **options):
    return mb.Conv4(out=out, width=4, norm=norm, **options)
