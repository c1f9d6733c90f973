# SPDX-License-Identifier: MIT
"""Tasks: where episodes come from."""
