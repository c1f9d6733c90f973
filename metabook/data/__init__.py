# SPDX-License-Identifier: MIT
"""Labelled images: procedural handwriting, and Omniglot."""
