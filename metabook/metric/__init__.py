# SPDX-License-Identifier: MIT
"""Metric-based meta-learning: the outer loop learns an embedding, the inner
loop averages.
"""
