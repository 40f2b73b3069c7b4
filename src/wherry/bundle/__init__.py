"""An OCI bundle run by command: ``wherry-runtime``, for containerd, Podman and whoever else speaks the OCI runtime's command line.

Read `creation` first: a container from its bundle to the gate where it waits for ``start``.
Imports `runtime` and `kernel`; nobody imports it.
"""
