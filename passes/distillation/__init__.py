"""Numerics and surgery of `distill`: the student, and what it learns from the teacher."""
