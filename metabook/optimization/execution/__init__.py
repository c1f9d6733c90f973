# SPDX-License-Identifier: MIT
"""How an inner loop is run: one task at a time, a task a core, side by side,
compiled. The same numbers each way.
"""
