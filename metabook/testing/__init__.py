# SPDX-License-Identifier: MIT
"""The contracts of the package as tests that a course can run on its own
learners, tasks and strategies.

Each raises an `AssertionError` that says what was violated and where to look.
"""

from metabook.testing.learners import check_learner
from metabook.testing.strategies import check_strategy
from metabook.testing.tasks import check_tasks

__all__ = ["check_learner", "check_strategy", "check_tasks"]
