from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import Internal
from wherry.networks import interfaces, namespace

NAME, SETTINGS = "com.docker.network.endpoint.ifname", "com.docker.network.endpoint.sysctls"


@pytest.mark.parametrize(
    ("asked", "taken", "expected"),
    [
        ("", [], "eth0"),
        ("", ["eth0", "foo"], "eth1"),
        ("", ["eth1"], "eth0"),
        ("foo", ["eth0"], "foo"),
        ("foo%d", ["foo0", "foo2"], "foo1"),
        ("fifteen-letters", [], "fifteen-letters"),
    ],
)
def test_an_interface_has_the_name_it_asks_for_or_the_first_free(asked: str, taken: list[str], expected: str) -> None:
    assert interfaces.name({NAME: asked}, taken, port="p") == expected


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ("a b", "invalid argument"),
        ("a/b", "invalid argument"),
        ("a:b", "invalid argument"),
        (".", "invalid argument"),
        ("..", "invalid argument"),
        ("a%d%d", "invalid argument"),
        ("sixteen-letters-", "numerical result out of range"),
        ("eth3", "file exists"),
        ("lo", "file exists"),
    ],
)
def test_a_name_that_the_kernel_would_not_take_is_refused_in_dockers_words(asked: str, reason: str) -> None:
    with pytest.raises(Internal) as refused:
        interfaces.name({NAME: asked}, ["eth3"], port="whv1")
    shown = asked.replace("%d", "0", 1)
    assert str(refused.value) == f'failed to add interface whv1 to sandbox: error renaming interface "whv1" to "{shown}": {reason}'


@given(st.text(max_size=20))
def test_any_text_is_a_name_or_an_error(asked: str) -> None:
    try:
        found = interfaces.name({NAME: asked}, [], port="p")
    except Internal:
        return
    assert 0 < len(found.encode()) <= 15
    assert not set(found) & set("/: \0")


@pytest.mark.parametrize(
    "text",
    ["", "foo", "net.ipv4.conf.eth0.forwarding=1", "net.ipv4.conf.IFNAME.forwarding=1,", "kernel.shmmax=1", "net.ipv4.conf.IFNAME.../x=1"],
)
def test_settings_of_anything_but_the_interface_are_refused(text: str) -> None:
    assert interfaces.problems({SETTINGS: text})
    assert not interfaces.problems({SETTINGS: "net.ipv4.conf.ifname.forwarding=1,net.ipv4.neigh.IFNAME.retrans_time_ms=99"})
    assert not interfaces.problems({"unknown": text})
    assert not interfaces.problems(None)


@pytest.mark.root
def test_settings_are_written_in_the_namespace_of_the_thread() -> None:
    made = namespace.create()

    def apply(text: str) -> None:
        namespace.inside(made.fd, lambda: interfaces.apply({SETTINGS: text}, "lo", port="p"))

    def read() -> str:
        with open("/proc/sys/net/ipv4/conf/lo/log_martians", encoding="ascii") as file:
            return file.read()

    before = read()
    apply("net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.forwarding=0")
    assert namespace.inside(made.fd, read) == "1\n"
    assert read() == before
    for text, words in (
        ("net.ipv4.conf.IFNAME.nope=1", "p to sandbox: /proc/sys/net/ipv4/conf/lo/nope is not a sysctl file"),
        ("net.ipv4.conf.IFNAME.log_martians=x", "unable to write to '/proc/sys/net/ipv4/conf/lo/log_martians': write /proc/sys"),
        ("net.ipv4.conf.IFNAME.log_martians", "to have format name=value"),
    ):
        with pytest.raises(Internal, match=words):
            apply(text)
    made.close()
