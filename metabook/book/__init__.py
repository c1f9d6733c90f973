# SPDX-License-Identifier: MIT
"""What only the book needs: figures, drawings, exercises, the papers'
experiments, and the committed results.
"""
