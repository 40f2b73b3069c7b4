"""Who is who, and what may be told where."""

from __future__ import annotations

import base64
import json

import pytest

from wherry.registry.credentials import Credentials, from_header, from_json


def test_the_auth_header_is_read_in_both_alphabets_and_without_padding() -> None:
    raw = json.dumps({"username": "al\xffice?>", "password": "p", "serveraddress": "h:5000"}).encode()
    for encoded in (base64.urlsafe_b64encode(raw), base64.b64encode(raw), base64.urlsafe_b64encode(raw).rstrip(b"=")):
        found = from_header(encoded.decode())
        assert (found.username, found.password, found.server_address) == ("al\xffice?>", "p", "h:5000")
    assert from_header(None).is_empty
    assert from_header("e30=").is_empty


@pytest.mark.parametrize("value", ["%%%", "bm90IGpzb24=", base64.b64encode(b"[1]").decode(), base64.b64encode(b"[" * 9999).decode()])
def test_a_broken_auth_header_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"auth|Auth"):
        from_header(value)


def test_user_and_password_may_come_as_one_field() -> None:
    assert from_json({"auth": base64.b64encode(b"u:p:q").decode()}).basic == "Basic " + base64.b64encode(b"u:p:q").decode()


def test_secrets_do_not_show() -> None:
    shown = repr(Credentials(username="u", password="hunter2", identity_token="hunter3", registry_token="hunter4"))
    assert "hunter" not in shown
