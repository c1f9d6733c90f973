# SPDX-License-Identifier: MIT
"""The protocol that every learner obeys: a function from a support set to a
predictor.
"""
