from __future__ import annotations

import pytest

from wherry.netlink import nftables
from wherry.netlink.nftables import Element, Table, Transaction
from wherry.netlink.request import Netlink

TABLE = Table(nftables.NFPROTO_INET, "t")


def test_rule_is_encoded_as_the_nft_program_does() -> None:
    work = Transaction()
    work.add_rule(TABLE, "c", [nftables.meta_l4proto(), nftables.compare(b"\x06"), nftables.verdict(nftables.DROP)])
    # `nft --debug=netlink` shows [ meta load l4proto => reg 8 ] [ cmp eq reg 8 0x06 ] [ immediate reg 0 drop ]
    assert (
        work.requests[0].payload.hex()
        == (
            "01000000"  # inet, version 0, resource 0
            "0600010074000000"  # table "t"
            "0600020063000000"  # chain "c"
            "84000480"  # expressions
            "24000180" + "09000100" + b"meta".hex() + "00000000" + "14000280" + "0800020000000010" + "0800010000000008"
            "2c000180"
            + "08000100"
            + b"cmp\0".hex()
            + "20000280"
            + "0800010000000008"
            + "0800020000000000"
            + "0c000380"
            + "0500010006000000"
            "30000180"
            + "0e000100"
            + b"immediate\0".hex()
            + "0000"
            + "1c000280"
            + "0800010000000000"
            + "10000280"
            + "0c000280"
            + "0800010000000000"
        )
    )


def test_concatenated_key_is_padded_by_field() -> None:
    assert nftables.field_bytes(b"\x06", b"\x1f\x90").hex() == "060000001f900000"
    assert nftables.ifname("br0") == b"br0" + bytes(13)


@pytest.fixture
def socket(route_socket: Netlink) -> Netlink:
    return nftables.connect()


@pytest.mark.root
def test_transaction_is_applied_wholly_or_not_at_all(socket: Netlink) -> None:
    with socket:
        work = Transaction()
        work.add_table(TABLE)
        work.add_set(TABLE, "s", [(nftables.TYPE_IPV4, 4)])
        work.add_elements(TABLE, "s", [Element(bytes([10, 0, 0, 1]))])
        work.delete_elements(TABLE, "s", [Element(bytes([10, 0, 0, 9]))])
        with pytest.raises(FileNotFoundError, match="delete from set s"):
            work.commit(socket)
        assert nftables.tables(socket) == []
        work.requests.pop()
        work.commit(socket)
        assert nftables.tables(socket) == [TABLE]
        assert nftables.elements(socket, TABLE, "s") == [bytes([10, 0, 0, 1])]


@pytest.mark.root
def test_elements_are_listed_once_each_while_the_kernel_enlarges_the_set(socket: Netlink) -> None:
    keys = [(0x0A000000 + number).to_bytes(4, "big") for number in range(60000)]
    with socket:
        work = Transaction()
        work.add_table(TABLE)
        work.add_set(TABLE, "s", [(nftables.TYPE_IPV4, 4)])
        work.add_elements(TABLE, "s", [Element(key) for key in keys])
        work.commit(socket)
        listed = nftables.elements(socket, TABLE, "s")
        assert (len(listed), set(listed)) == (len(keys), set(keys))


@pytest.mark.root
def test_interval_and_map_elements_are_kept(socket: Netlink) -> None:
    with socket:
        work = Transaction()
        work.add_table(TABLE)
        work.add_set(TABLE, "i", [(nftables.TYPE_IPV4, 4)], interval=True)
        work.add_elements(TABLE, "i", [Element(bytes([10, 0, 0, 0]), end=bytes([11, 0, 0, 0]))])
        work.add_set(TABLE, "m", [(nftables.TYPE_SERVICE, 2)], value=[(nftables.TYPE_IPV4, 4)])
        work.add_elements(TABLE, "m", [Element(b"\x00\x50", bytes([10, 0, 0, 1]))])
        work.commit(socket)
        assert nftables.elements(socket, TABLE, "i") == [bytes([10, 0, 0, 0])]
        conflict = Transaction()
        conflict.add_elements(TABLE, "m", [Element(b"\x00\x50", bytes([10, 0, 0, 2]))])
        with pytest.raises(OSError, match="add to set m"):
            conflict.commit(socket)


@pytest.mark.root
def test_what_one_socket_changes_is_no_news_where_it_is_ignored(socket: Netlink) -> None:
    with socket, nftables.connect() as other, nftables.subscribe() as watching:
        watching.ignore(socket.port)
        for changer, name in ((socket, "ignored"), (other, "told"), (socket, "ignored-too"), (other, "told-too")):
            work = Transaction()
            work.add_table(Table(nftables.NFPROTO_IPV4, name))
            work.commit(changer)
        told: list[str] = []
        while "told-too" not in told:
            notices = watching.notices()
            assert {one.sender for one in notices} == {other.port}
            told += [nftables.table_name(one) for one in notices]
        assert [name for name in told if name] == ["told", "told-too"]
