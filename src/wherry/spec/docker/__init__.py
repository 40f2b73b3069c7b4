"""Engine API bodies, one module per resource.  Source: Engine API 1.51."""
