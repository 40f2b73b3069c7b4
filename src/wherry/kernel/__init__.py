"""Linux system calls, by ctypes; standard library only.

Read ``libc`` first. Thin functions in terms of int, str and bytes; policy belongs to ``runtime`` and ``store``. Imports nothing of ours.
"""
