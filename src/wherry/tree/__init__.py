"""Directory trees and tar streams, every path resolved beneath a root descriptor by openat2.

Read ``tar`` (bytes to entries), then ``apply`` and ``pack``. Standard library and ``kernel`` only: the zygote imports it.
"""
