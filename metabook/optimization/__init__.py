# SPDX-License-Identifier: MIT
"""Optimisation-based meta-learning: the outer loop learns where gradient
descent starts.
"""
