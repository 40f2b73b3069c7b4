"""Our bridges in ``DOCKER-USER``, the chain that Docker keeps for other people's rules about what is forwarded.

Docker's ``FORWARD`` chain of table ``ip filter`` drops what it does not know, once Docker has switched forwarding on itself. Two rules for
each bridge, ``-i BRIDGE -j ACCEPT`` and ``-o BRIDGE -j ACCEPT``, are its documented way out. They are encoded as the iptables program does,
so that it lists them, and their comment says whose they are. They live as long as our own tables: containers outlive the daemon.
They open nothing of ours: ``forward`` of our own table has to consent as well.

See docs/decisions/docker-user.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from wherry.netlink import nftables
from wherry.netlink.message import Message
from wherry.netlink.nftables import Table, Transaction
from wherry.netlink.request import Netlink

log = logging.getLogger(__name__)

TABLE = Table(nftables.NFPROTO_IPV4, "filter")
CHAIN = "DOCKER-USER"
_FORWARD = "FORWARD"


def admit(netlink: Netlink, tag: str, bridges: Iterable[str]) -> bool:
    """Let exactly these bridges of the daemon ``tag`` pass, where the chain exists.  Returns whether it does.  Raises OSError."""
    present = nftables.rules(netlink, TABLE, CHAIN)
    if present is None:
        return False
    wanted = {_mark(tag, bridge, way): (bridge, way) for bridge in bridges for way in ("from", "to")}
    work = Transaction()
    for rule in present:
        if rule.comment.startswith(f"wherry:{tag}:") and wanted.pop(rule.comment, None) is None:
            work.delete_rule(TABLE, CHAIN, rule.handle)
    # After what the administrator forbids, but not after a bare RETURN, which older versions of Docker put at the end.
    last = present[-1].handle if present and present[-1].is_bare_return else 0
    for mark, (bridge, way) in wanted.items():
        load = nftables.meta_iifname if way == "from" else nftables.meta_oifname
        match = [load(nftables.REG_1), nftables.compare(bridge.encode() + b"\0", nftables.REG_1)]
        work.add_rule(TABLE, CHAIN, [*match, nftables.counter(), nftables.verdict(nftables.ACCEPT)], comment=mark, before=last)
    work.commit(netlink)
    return True


def is_asked(netlink: Netlink) -> bool:
    """Whether the chain is there and ``FORWARD`` asks it."""
    forward = nftables.rules(netlink, TABLE, _FORWARD) or []
    return nftables.rules(netlink, TABLE, CHAIN) is not None and any(rule.target == CHAIN for rule in forward)


def concerns(notice: Message) -> bool:
    """Whether a notice tells of a change that may have taken our rules away, or brought the chain."""
    return nftables.chain_lost_rules(notice, TABLE, CHAIN)


def excuses(table: Table, chain: str) -> bool:
    """Whether this is the chain whose policy our rules answer."""
    return (table, chain) == (TABLE, _FORWARD)


def _mark(tag: str, bridge: str, way: str) -> str:
    return f"wherry:{tag}:{way}:{bridge}"
