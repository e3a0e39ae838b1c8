"""``python -m lab.machine``: print this machine as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from lab.machine.probe import read_machine

print(json.dumps(asdict(read_machine()), indent=2))
