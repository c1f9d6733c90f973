# SPDX-License-Identifier: MIT
"""The outer loop, and scores with intervals: what knows the protocol of
learners, and no family of them.
"""
