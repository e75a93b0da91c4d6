"""Samples made elsewhere: a folder, a zip and an .npz of the same images measure the same; what is odd is told."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minoritybench
from minoritybench.embedded.data import load_split
from minoritybench.errors import BadInputError
from minoritybench.given_samples import colour_warning, open_samples, read_samples
from minoritybench.measure_shard import is_grey
from minoritybench.records import RunRecord

COUNT = 24


def pixels() -> np.ndarray:  # type: ignore[type-arg]
    return np.repeat(load_split("test").images[:COUNT, :, :, None], 3, axis=3)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("given")
    (root / "folder").mkdir()
    for index, image in enumerate(pixels()):
        Image.fromarray(image).save(root / "folder" / f"{index:03d}.png")
    with zipfile.ZipFile(root / "samples.zip", "w") as archive:
        for path in sorted((root / "folder").iterdir()):
            archive.write(path, path.name)
    np.savez(root / "samples.npz", pixels())
    return root


@pytest.fixture(scope="module")
def folder_record(given: Path) -> RunRecord:
    return minoritybench.evaluate(samples=given / "folder", out=given / "out-folder")


@pytest.mark.parametrize("kind", ["samples.zip", "samples.npz"])
def test_archives_measure_as_the_folder_does(kind: str, given: Path, folder_record: RunRecord) -> None:
    record = minoritybench.evaluate(samples=given / kind, out=given / f"out-{kind}")
    assert [m.value for m in record.metrics] == [m.value for m in folder_record.metrics]
    assert record.sampling.n == COUNT
    digests = [a.sha256 for r in (record, folder_record) for a in r.artifacts if a.path == "sheet.png"]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (3, 2), (64, 1)])
def test_batch_size_and_workers_change_no_value(
    batch_size: int, workers: int, given: Path, folder_record: RunRecord, tmp_path: Path
) -> None:
    record = minoritybench.evaluate(samples=given / "folder", out=tmp_path, batch_size=batch_size, workers=workers)
    assert [(m.id, m.value, m.ci_low) for m in record.metrics] == [
        (m.id, m.value, m.ci_low) for m in folder_record.metrics
    ]


def test_one_set_has_intervals_that_name_their_method(folder_record: RunRecord) -> None:
    ways = {metric.name: metric.interval for metric in folder_record.metrics}
    for name in ("FD (digits-classifier)", "precision", "recall", "density", "coverage"):
        assert ways[name] == "delete-group jackknife over samples, 10 groups"
    for name in ("AvgkNN", "JEPA-SCORE", "JEPA-SCORE (deflated)", "minority share"):
        assert ways[name] == "t over images"
    score = folder_record.metric("JEPA-SCORE")
    assert score is not None
    assert score.ci_low is not None
    assert score.ci_low < score.value


@pytest.mark.parametrize("kind", ["zip", "npz"])
@pytest.mark.parametrize("member", ["../victim.png", "a/../../victim.png", "..\\victim.png", "/victim.png", "C:/v.png"])
def test_an_archive_that_leads_out_of_itself_is_one_line(member: str, kind: str, given: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim.png"
    victim.write_bytes(b"mine")
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / f"samples.{kind}"
    shutil.copy(given / f"samples.{kind}", path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, (given / "folder" / "000.png").read_bytes())
    with pytest.raises(BadInputError, match="leads out of the archive") as refused:
        minoritybench.evaluate(samples=path, out=tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert victim.read_bytes() == b"mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "victim.png"]


def test_mixed_sizes_are_refused(given: Path, tmp_path: Path) -> None:
    for index in range(8):
        side = 8 if index < 6 else 9
        Image.new("RGB", (side, 8), (index, 0, 0)).save(tmp_path / f"{index}.png")
    with pytest.raises(BadInputError, match="6 images have 8 x 8 px and 2 another size, the first of them 9 x 8"):
        minoritybench.evaluate(samples=tmp_path, out=given / "never")


def test_jpeg_is_told_whatever_the_file_is_called_and_png_is_not(given: Path, tmp_path: Path) -> None:
    for index in range(4):
        image = Image.fromarray(pixels()[index])
        image.save(tmp_path / f"{index}.png", format="JPEG" if index else "PNG")
    warnings = read_samples(open_samples(tmp_path, None)).warnings
    assert [warning.partition(":")[0] for warning in warnings] == ["3 of 4 given samples are JPEG or lossy WebP"]
    assert read_samples(open_samples(given / "folder", None)).warnings == []


def test_colour_against_grey_is_told_either_way() -> None:
    grey, colour = np.ones(4, dtype=bool), np.zeros(4, dtype=bool)
    mixed = np.array([True, True, True, False])
    assert "all samples are greyscale" in colour_warning(grey, colour)[0]
    assert "all reference images are greyscale" in colour_warning(colour, grey)[0]
    for fake, real in ((grey, grey), (colour, colour), (mixed, colour), (mixed, grey), (grey, mixed)):
        assert colour_warning(fake, real) == []


@pytest.mark.parametrize(("tint", "grey"), [(0, True), (16, True), (17, False)])
def test_a_decoders_tint_passes_as_grey(tint: int, grey: bool) -> None:
    pixels = np.full((4, 4, 3), 100, dtype=np.uint8)
    pixels[2, 1, 0] += tint
    assert is_grey(pixels) is grey


def test_coloured_samples_on_digits_are_told(tmp_path: Path) -> None:
    for index in range(8):
        Image.new("RGB", (8, 8), (index, 100, 0)).save(tmp_path / f"{index}.png")
    record = minoritybench.evaluate(samples=tmp_path, out=tmp_path.parent / "coloured")
    assert any("all reference images are greyscale, 100% of the samples" in warning for warning in record.warnings)


def test_a_file_that_is_no_archive_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "samples.tar"
    path.write_bytes(b"")
    with pytest.raises(BadInputError, match=r"a \.zip of them or an \.npz"):
        open_samples(path, None)
