"""Many runs under one command: all checked before the first starts, each in its own process."""
