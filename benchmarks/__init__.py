"""Measurements of the lab against its goals: ``make bench`` or ``python -m benchmarks [NAME ...]``.

Each benchmark is a module with a ``measure(place, options)`` that returns a report. Absolute times
differ from machine to machine and from minute to minute, so two sides are always measured in turns
within one run, and what counts is the ratio of each pair.
"""
