"""Many runs under one command: planned before the first starts, each in a process of its own."""
