"""The error of a single sample."""

from __future__ import annotations


class SampleError(ValueError):
    """A sample that cannot be used; the message says why, or what is allowed.

    It knows no file or line: whoever reads the file adds them and raises a ``ConfigError``.
    """
