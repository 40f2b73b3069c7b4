import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.spec.digest import Digest, chain_id, chain_ids, is_digest, sha256

A = sha256(b"a")
B = sha256(b"b")


def test_sha256_names_the_bytes() -> None:
    assert sha256(b"") == "sha256:" + hashlib.sha256().hexdigest()
    assert A.hex == hashlib.sha256(b"a").hexdigest()


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", "sha512:" + "a" * 64, "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha256:" + "a" * 65, A + "\n", "sha256:../../etc"],
)
def test_anything_else_is_refused(text: str) -> None:
    assert not is_digest(text)
    with pytest.raises(ValueError, match="invalid digest"):
        Digest(text)


@settings(max_examples=100)
@given(st.text())
def test_no_text_becomes_a_digest_that_could_be_a_path(text: str) -> None:
    for candidate in (text, "sha256:" + text):
        assert is_digest(candidate) == (
            len(candidate) == 71 and all(c in "0123456789abcdef" for c in candidate[7:]) and candidate[:7] == "sha256:"
        )


def test_chain_of_one_layer_is_its_diff_id_and_of_two_the_hash_of_both() -> None:
    assert chain_id([A]) == A
    assert chain_ids([A, B]) == [A, sha256(f"{A} {B}".encode())]
    with pytest.raises(ValueError, match="without layers"):
        chain_id([])
