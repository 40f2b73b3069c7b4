from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from wherry.errors import InvalidRequest
from wherry.networks.names import Directory, Member, View, link_of


def member(number: int, *names: str, network: str = "Net") -> Member:
    return Member(container_id=f"id{number}", network=network, names=names, address=IPv4Address(f"10.0.0.{number}"))


@pytest.mark.parametrize(
    ("text", "link"), [("db:data", ("db", "data")), ("db", ("db", "db")), ("/db:/web/data", ("db", "data")), ("db:", ("db", ""))]
)
def test_a_link_is_a_name_and_an_alias(text: str, link: tuple[str, str]) -> None:
    assert link_of(text) == link


@pytest.mark.parametrize(("text", "message"), [("", "empty string specified for links"), ("a:b:c", "bad format for links: a:b:c")])
def test_what_is_no_link_is_refused_in_dockers_words(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        link_of(text)


def found(directory: Directory, name: str, **view: object) -> list[str]:
    return sorted(str(one) for one in directory.lookup(View(networks=("n",), **view), name))


def test_names_aliases_and_qualified_names_are_found_in_any_case() -> None:
    directory = Directory()
    directory.join("n", member(2, "web", "shared", "0123456789ab"))
    directory.join("n", member(3, "db", "shared"))
    assert found(directory, "web") == found(directory, "WEB.net") == found(directory, "0123456789AB") == ["10.0.0.2"]
    assert found(directory, "shared") == ["10.0.0.2", "10.0.0.3"]
    assert found(directory, "nosuch") == found(directory, "web.other") == []
    assert directory.reverse(View(networks=("n",)), IPv4Address("10.0.0.2")) == "web.Net"


def test_a_link_is_a_name_for_its_viewer_alone() -> None:
    directory = Directory()
    directory.join("n", member(2, "web"))
    assert found(directory, "alias", links={"alias": "web"}) == ["10.0.0.2"]
    assert found(directory, "alias") == []


def test_leaving_and_renaming_take_effect_at_once() -> None:
    directory = Directory()
    directory.join("n", member(2, "web", "short"))
    directory.rename("id2", "web", "shop")
    assert found(directory, "web") == []
    assert found(directory, "shop") == found(directory, "short") == ["10.0.0.2"]
    directory.leave("n", "id2")
    directory.leave("n", "id2")
    assert found(directory, "shop") == []


def test_only_the_viewers_networks_are_searched() -> None:
    directory = Directory()
    directory.join("other", member(2, "web"))
    assert found(directory, "web") == []
    assert directory.reverse(View(networks=("n",)), IPv4Address("10.0.0.2")) is None
