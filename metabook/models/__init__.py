# SPDX-License-Identifier: MIT
"""Networks: those of the papers, and ways to normalise in them."""
