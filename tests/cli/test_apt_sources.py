"""Package sources of the host, in both of their forms."""

from __future__ import annotations

from pathlib import Path

from wherry.cli import apt_sources

STANZAS = """\
Types: deb deb-src
# a comment
URIs: http://m/debian
Suites: bookworm bookworm-updates other
Components: main contrib
Signed-By: /usr/share/keyrings/k.gpg

Types: deb
URIs: http://user:secret@m/private
Suites: bookworm
Enabled: no

Types: deb-src
URIs: http://m/src
Suites: bookworm
"""


def test_stanzas_keep_what_matters() -> None:
    (source,) = apt_sources.parse_stanzas(STANZAS)
    assert (source.uris, source.suites, source.components) == (
        ["http://m/debian"],
        ["bookworm", "bookworm-updates", "other"],
        ["main", "contrib"],
    )
    assert source.keyring == "/usr/share/keyrings/k.gpg"


def test_lines_are_read_with_their_options() -> None:
    (source,) = apt_sources.parse_lines(
        "# x\ndeb [arch=amd64 signed-by=/k.gpg] http://m/d bookworm main # y\ndeb-src http://m/d bookworm main\n"
    )
    assert source.text() == ("Types: deb\nURIs: http://m/d\nSuites: bookworm\nComponents: main\nArchitectures: amd64\nSigned-By: /k.gpg\n")


def test_other_suite_takes_the_place_of_the_hosts_own() -> None:
    (source,) = apt_sources.for_suite(list(apt_sources.parse_stanzas(STANZAS)), "bookworm", "trixie")
    assert source.suites == ["trixie", "trixie-updates"]


def test_passwords_and_local_directories_are_left_out() -> None:
    sources = list(apt_sources.parse_lines("deb http://u:p@m/d bookworm main\ndeb file:/x bookworm main\n"))
    assert apt_sources.for_suite(sources, "bookworm", "bookworm") == []


def test_all_files_of_a_directory_are_read(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://a/ bookworm main\n")
    (tmp_path / "sources.list.d" / "x.sources").write_text(STANZAS)
    (tmp_path / "sources.list.d" / "x.sources.disabled").write_text(STANZAS)
    assert [source.uris[0] for source in apt_sources.read(str(tmp_path))] == ["http://a/", "http://m/debian"]
