"""Prompt files: what counts as a prompt, and what is said of files that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from minoritybench.assets import CACHE_VARIABLE
from minoritybench.data.prompts import COCO_FILE, load_prompts
from minoritybench.errors import BadInputError, MissingAssetError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "prompts" / "coco_captions.txt"


def test_lines_are_stripped_and_blank_ones_left_out(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(b"\xef\xbb\xbf a thin zero \r\n\r\n  \na bold seven")
    prompts = load_prompts(str(file))
    assert (prompts.name, prompts.texts, prompts.blank) == ("mine.txt", ("a thin zero", "a bold seven"), 2)


def test_blank_lines_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "gaps.txt"
    file.write_text("one\n\ntwo\n \nthree\n")
    for _ in range(2):
        load_prompts(str(file)).first(2).warn_of_blank_lines()
    file.write_text("one\ntwo\n")
    load_prompts(str(file)).warn_of_blank_lines()
    assert caplog.messages == ["--prompts gaps.txt: 2 blank lines left out; what comes after moves up"]


def test_digest_is_of_the_prompts_used(tmp_path: Path) -> None:
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("a\nb\nc\n")
    other.write_text("a\n\nb\n")
    assert load_prompts(str(one)).first(2).sha256 == load_prompts(str(other)).sha256
    assert load_prompts(str(one)).sha256 != load_prompts(str(other)).sha256


def test_too_few_prompts_are_told(tmp_path: Path) -> None:
    file = tmp_path / "few.txt"
    file.write_text("a\n")
    with pytest.raises(BadInputError, match=r"3 prompts wanted, but few\.txt has 1 prompt: --n"):
        load_prompts(str(file)).first(3)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00"])
def test_files_without_text_are_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "odd.txt"
    file.write_bytes(content)
    with pytest.raises(BadInputError, match=r"--prompts odd\.txt"):
        load_prompts(str(file))


@pytest.mark.parametrize(
    ("name", "error"), [("absent.txt", BadInputError), ("hf:someone/captions:val.txt", MissingAssetError)]
)
def test_a_wrong_path_is_a_mistake_and_an_absent_hub_file_is_to_be_fetched(
    name: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=f"--prompts {name}"):
        load_prompts(name)


@pytest.mark.parametrize("name", ["hf:captions", "hf:someone/captions", "hf:a b/c:d"])
def test_odd_hub_names_are_refused(name: str) -> None:
    with pytest.raises(BadInputError, match="hf:OWNER/NAME:FILE"):
        load_prompts(name)


def test_coco_is_the_papers_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(MissingAssetError, match=COCO_FILE):
        load_prompts("coco")
    place = tmp_path / "prompts" / COCO_FILE
    place.parent.mkdir()
    place.write_text("a shoe rack with some shoes and a dog sleeping on them\n")
    with pytest.raises(BadInputError, match="sha256 differs"):
        load_prompts("coco")


@pytest.mark.skipif(not SHARED.is_file(), reason=f"{SHARED.name} is not here")
def test_coco_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / COCO_FILE).write_bytes(SHARED.read_bytes())
    prompts = load_prompts("coco")
    assert len(prompts.texts) == 40_507
    assert prompts.blank == 0  # none of the user's making
    assert prompts.texts[0] == "a shoe rack with some shoes and a dog sleeping on them"
    assert len(set(prompts.first(5000).texts)) == 4_991
