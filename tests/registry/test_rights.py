"""Rights by repository."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from tests.registry.conftest import digest_of

from wherry.registry.accounts import hash_password
from wherry.registry.rights import BadRightsFile, Line, Right, Rights, parse


def test_lines_are_read_and_a_bad_one_is_named() -> None:
    assert parse("# who\n\n* public/* pull\nal * DELETE\n") == (
        Line(name="*", pattern="public/*", right=Right.PULL),
        Line(name="al", pattern="*", right=Right.DELETE),
    )
    for bad in ("al * all", "al pull", "al a b pull"):
        with pytest.raises(BadRightsFile, match="line 2: not NAME REPOSITORIES"):
            parse("# who\n" + bad)


def test_a_right_has_those_before_it_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rights"
    path.write_text("ci team/* push\n")
    rights = Rights(str(path))
    allowed = [right for right in Right if rights.may("ci", "team/deep/app", right)]
    assert allowed == [Right.PULL, Right.PUSH]
    assert not rights.may("ci", "teams", Right.PULL)
    assert not rights.may("al", "team/app", Right.PULL)
    path.write_text("ci team/* everything\n")
    assert rights.may("ci", "team/app", Right.PUSH)
    path.write_text("al team/* pull\n")
    assert not rights.may("ci", "team/app", Right.PULL)
    assert rights.may("al", "team/app", Right.PULL)


def test_everybody_does_what_the_file_says_and_no_more(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text("".join(f"{name}:{hash_password('secret')}\n" for name in ("al", "ci", "eve")))
    (tmp_path / "rights").write_text("* public/* pull\nci team/* push\nal * delete\n")
    with serve("--htpasswd", str(tmp_path / "passwords"), "--rights", str(tmp_path / "rights")) as registry:

        def become(name: str) -> None:
            registry.headers = {"Authorization": "Basic " + base64.b64encode(f"{name}:secret".encode()).decode()}

        def refused(method: str, path: str) -> bool:
            answer = registry.call(method, path)
            assert (answer.status == 403) is (answer.code == "DENIED")
            return answer.status == 403

        layer = os.urandom(100)
        become("al")
        registry.push("public/a", "1", layer)
        registry.push("secret/a", "1", layer)
        become("ci")
        digest, _ = registry.push("team/a", "1", b"other")
        assert refused("DELETE", f"/v2/team/a/manifests/{digest}")
        assert refused("POST", "/v2/public/a/blobs/uploads/")
        assert refused("GET", "/v2/secret/a/manifests/1")
        mount = f"/v2/team/a/blobs/uploads/?mount={digest_of(layer)}"
        assert registry.call("POST", f"{mount}&from=secret/a").status == 202
        assert registry.call("POST", mount).status == 202
        assert registry.call("POST", f"{mount}&from=public/a").status == 201
        assert registry.call("GET", "/v2/_catalog").json == {"repositories": ["public/a", "team/a"]}
        become("eve")
        assert registry.call("GET", "/v2/").status == 200
        assert registry.call("GET", "/v2/public/a/manifests/1").status == 200
        for path in (
            "/v2/team/a/manifests/1",
            "/v2/team/a/tags/list",
            f"/v2/team/a/referrers/{digest}",
            f"/v2/team/a/blobs/{digest_of(layer)}",
        ):
            assert refused("GET", path)
        become("al")
        assert registry.call("DELETE", f"/v2/team/a/manifests/{digest}").status == 202
