"""What is wrong with a sample."""

from __future__ import annotations


class SampleError(ValueError):
    """A sample that cannot be used; the message says why, or what is allowed."""
