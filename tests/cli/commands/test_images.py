"""Which rows an image has in the list."""

from __future__ import annotations

from typing import Any

from wherry.cli.commands import images


def rows(*, digests: bool = False, **fields: Any) -> list[tuple[str, str, str]]:
    image = {"Id": "sha256:" + "ab" * 32, "Created": 1, "Size": 1982263, **fields}
    return [(row["Repository"], row["Tag"], row["Digest"]) for row in images.image_rows(image, trunc=True, digests=digests)]


def test_every_tag_has_a_row() -> None:
    assert rows(RepoTags=["localhost:5000/a:1", "b:latest"]) == [("localhost:5000/a", "1", "<none>"), ("b", "latest", "<none>")]


def test_image_without_names_has_one_row() -> None:
    assert rows(RepoTags=None, RepoDigests=None) == [("<none>", "<none>", "<none>")]
    assert rows(RepoTags=["<none>:<none>"], RepoDigests=["<none>@<none>"]) == [("<none>", "<none>", "<none>")]


def test_digests_are_shown_beside_their_tags() -> None:
    assert rows(digests=True, RepoTags=["a:1"], RepoDigests=["a@sha256:x", "b@sha256:y"]) == [
        ("a", "1", "sha256:x"),
        ("b", "<none>", "sha256:y"),
    ]


def test_image_pulled_by_digest_has_no_tag() -> None:
    assert rows(RepoTags=[], RepoDigests=["a@sha256:x"]) == [("a", "<none>", "<none>")]
