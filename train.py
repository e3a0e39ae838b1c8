"""Train a model under a memory budget: ``python train.py [overrides]``, a sweep with ``-m``."""

import sys

from lab.machine.probe import start_probe

if __name__ == "__main__":
    start_probe()  # looks at the machine while Hydra is imported

    from lab.launch import app

    sys.exit(app())
