"""Measurements of the lab against its goals: ``make bench`` or ``python -m benchmarks [NAME ...]``.

Each benchmark is a module with a ``measure(workspace, options)`` that returns a report. Absolute
times differ from machine to machine and from minute to minute, so two sides are always interleaved
within one run, and the figure to trust is the ratio of each pair.
"""
