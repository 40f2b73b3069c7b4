"""The services put together; flows that cross rooms; events; recovery at start.

Read ``engine`` first. May import every room below ``api``.
"""
