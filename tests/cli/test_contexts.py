"""The store of contexts."""

from __future__ import annotations

from pathlib import Path

import pytest

from wherry.cli.contexts import Context, ContextFault, Contexts, check_name


def test_saved_context_is_read_back(tmp_path: Path) -> None:
    kept = Contexts(str(tmp_path))
    kept.save(Context("t1", "tcp://1.2.3.4:5", "hello", skip_tls_verify=True), {"ca.pem": b"CA"})
    found = kept.get("t1")
    assert (found.host, found.description, found.skip_tls_verify, found.tls_files()) == ("tcp://1.2.3.4:5", "hello", True, ["ca.pem"])
    assert kept.tls_content(found) == {"ca.pem": b"CA"}
    assert (Path(kept.tls_dir("t1")) / "docker" / "ca.pem").stat().st_mode & 0o777 == 0o600


def test_all_are_listed_by_name_and_removed(tmp_path: Path) -> None:
    kept = Contexts(str(tmp_path))
    for name in ("b1", "a1"):
        kept.save(Context(name, "unix:///x"), {})
    assert [context.name for context in kept.all()] == ["a1", "b1"]
    kept.remove("a1")
    kept.remove("never")
    assert [context.name for context in kept.all()] == ["b1"]


def test_missing_context_is_told_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(ContextFault, match=r'context "nosuch": context not found: open .*meta\.json: no such file'):
        Contexts(str(tmp_path)).get("nosuch")


@pytest.mark.parametrize("name", ["", "default", "a/b", "-a", "a", "é1"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ContextFault):
        check_name(name)
