"""Networks: bridges, addresses, published ports, names.

Read ``service`` first. May import ``netlink``, ``store`` and below.
"""
