"""An OCI spec becomes a process: zygote, monitor, init.

Read ``plan`` first. May import ``tree``, ``kernel``, ``spec``, ``errors``, ``ids``;
what the zygote imports is standard library beyond those.
"""
