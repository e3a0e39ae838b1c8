"""Units of memory: bytes in GB, MB and KB, which are powers of two everywhere in the lab."""

from __future__ import annotations

GB = 2**30
MB = 2**20
KB = 2**10
