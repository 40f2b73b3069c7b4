"""Who hides whom among the layers of an image."""

from __future__ import annotations

from pathlib import Path

from tests.images.inside_cases import Layer, shelf, stored

from wherry.images import inside


def test_the_first_layer_that_changes_a_path_hides_it_and_a_later_one_does_not(tmp_path: Path) -> None:
    base = Layer().directory("d").add("d/f", b"1").directory("o").add("o/f", b"1").done()
    changed = Layer().directory("d").add("d/f", b"22").directory("o").add("o/.wh..wh..opq").done()
    gone = Layer().add(".wh.d").directory("o").add("o/.wh..wh..opq").add("o/g", b"").done()
    with shelf("overlay", tmp_path / "store") as snapshotter:
        image = stored(snapshotter, [base, changed, gone])
        layers = [snapshotter.contents(str(name)) for name in image.chain_ids]
        places = {place.path: place for place in inside.walk(layers)}
    assert [(one.layer, one.hidden_by, one.is_listed) for one in places[b"d/f"].versions] == [(1, 2, True), (2, 3, False)]
    assert [(one.layer, one.hidden_by, one.is_listed) for one in places[b"o/f"].versions] == [(1, 2, True)]
    assert [places[b"d"].change(layer) for layer in (1, 2, 3)] == ["A", "C", "D"]
    assert [places[b"d/f"].change(layer) for layer in (1, 2, 3)] == ["A", "C", ""]
    assert [places[b"o/f"].change(layer) for layer in (1, 2, 3)] == ["A", "D", ""]
    assert [place.path for place in places.values() if place.shown] == [b"", b"o", b"o/g"]


def test_a_directory_made_again_above_a_deleted_one_begins_empty(tmp_path: Path) -> None:
    base = Layer().directory("d").add("d/f", b"1").done()
    again = Layer().directory("d").add("d/g", b"1").done()
    with shelf("overlay", tmp_path / "store") as snapshotter:
        image = stored(snapshotter, [base, Layer().add(".wh.d").done(), again])
        layers = [snapshotter.contents(str(name)) for name in image.chain_ids]
        assert [path for path, _ in inside.shown(layers)] == [b"", b"d", b"d/g"]
        assert {place.path: place.change(3) for place in inside.walk(layers)}[b"d"] == "A"
