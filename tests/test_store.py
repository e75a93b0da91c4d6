"""Atomic files, receipts, plans and the folder lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from minoritybench.errors import BadInputError
from minoritybench.store import (
    Receipts,
    atomic_path,
    canonical_json,
    folder_lock,
    open_output,
    read_json,
    refuse_overlap,
    write_text,
)


def test_failed_write_leaves_the_old_file_and_no_trace(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def fail() -> None:
        with atomic_path(target) as part:
            part.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_receipt_holds_only_while_its_files_are_whole(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path, "score", "a plan")
    file = tmp_path / "shards" / "0.bin"
    write_text(file, "content")
    assert receipts.read(0) is None
    receipts.write(0, [file], {"rows": 3})
    assert receipts.read(0) == {"rows": 3}
    write_text(file, "contenT")
    assert receipts.read(0) is None
    write_text(file, "content")
    whole = receipts.path(0).read_text()
    for edited in (whole[:-20], whole.replace('"rows": 3', '"rows": 4'), "[]", "null"):
        receipts.path(0).write_text(edited)
        assert receipts.read(0) is None
    receipts.path(0).write_text(whole)
    assert receipts.read(0) == {"rows": 3}
    assert Receipts(tmp_path, "score", "another plan").read(0) is None
    assert Receipts(tmp_path, "score", "a plan", frozenset({"seconds"})).read(0) is None


def test_output_folder_resumes_same_work_and_refuses_other(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with folder_lock(out):
        open_output(out, {"kind": "sample", "n": 1}, force=False)
        write_text(out / "record.json", "1")
        open_output(out, {"kind": "sample", "n": 1}, force=False)
        with pytest.raises(BadInputError, match="n: 1 there, 2 asked for"):
            open_output(out, {"kind": "sample", "n": 2}, force=False)
        open_output(out, {"kind": "sample", "data": {"a": 1, "limit": None}}, force=True)
        with pytest.raises(BadInputError, match=r"data\.limit: null there, 30 asked for"):
            open_output(out, {"kind": "sample", "data": {"a": 1, "limit": 30}}, force=False)
        open_output(out, {"kind": "sample", "n": 1}, force=True)
        write_text(out / "record.json", "1")
        assert (out / "record.json").exists()
        open_output(out, {"kind": "sample", "n": 2}, force=True)
        assert not (out / "record.json").exists()
        assert read_json(out / "plan.json") == {"kind": "sample", "n": 2}


def test_foreign_folder_is_never_touched_even_by_force(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(BadInputError, match="not made by minoritybench"), folder_lock(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_second_holder_is_told(tmp_path: Path) -> None:
    with folder_lock(tmp_path), pytest.raises(BadInputError, match="another process"), folder_lock(tmp_path):
        pass


def test_lock_sweeps_partial_files_of_a_killed_writer(tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        open_output(tmp_path, {"kind": "sample"}, force=False)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / ".0.bin.abc.part").write_text("half")
    with folder_lock(tmp_path):
        assert not list((tmp_path / "shards").iterdir())


def test_out_that_is_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(BadInputError, match="is a file"), folder_lock(file):
        pass


def test_canonical_json_refuses_nan() -> None:
    assert canonical_json({"b": 0.1, "a": "σ"}) == '{"a":"σ","b":0.1}'
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json(float("nan"))


def test_force_spares_a_folder_whose_plan_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"my": "own plan"}')
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(BadInputError, match="did not write"), folder_lock(tmp_path):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_force_removes_our_files_and_leaves_what_was_put_beside_them(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with folder_lock(out):
        open_output(out, {"kind": "sample", "n": 1}, force=False)
        write_text(out / "seed-3" / "0.png", "ours")
        write_text(out / "notes.txt", "the user's")
        open_output(out, {"kind": "sample", "n": 2}, force=True)
    assert not (out / "seed-3").exists()
    assert (out / "notes.txt").read_text() == "the user's"


def test_a_foreign_lock_file_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("my own lock data")
    with pytest.raises(BadInputError, match="not ours"), folder_lock(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text() == "my own lock data"


def test_a_kill_while_the_plan_was_written_does_not_block(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".plan.json.x1y2.part").write_text('{"ki')
    with folder_lock(tmp_path):
        open_output(tmp_path, {"kind": "sample", "n": 1}, force=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "plan.json"]


@pytest.mark.parametrize(("out", "inputs"), [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a/../c", "c")])
def test_overlap_of_output_and_input_is_refused(out: str, inputs: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="overlaps"):
        refuse_overlap(tmp_path / out, tmp_path / inputs)
    refuse_overlap(tmp_path / "ab", tmp_path / "a")


def test_output_inside_the_input_may_be_allowed(tmp_path: Path) -> None:
    refuse_overlap(tmp_path / "a" / "runs", tmp_path / "a", inside=True)
    for out in ("a", "."):
        with pytest.raises(BadInputError, match="overlaps"):
            refuse_overlap(tmp_path / out, tmp_path / "a", inside=True)


def test_force_removes_the_plan_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed half-way, the folder is still known as ours."""
    with folder_lock(tmp_path):
        open_output(tmp_path, {"kind": "sample", "n": 1}, force=False)
        write_text(tmp_path / "samples.json", "[]")
        write_text(tmp_path / "receipts" / "sample-000000.json", "{}")

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("minoritybench.store.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            open_output(tmp_path, {"kind": "sample", "n": 2}, force=True)
        monkeypatch.undo()
    with folder_lock(tmp_path):
        open_output(tmp_path, {"kind": "sample", "n": 2}, force=True)


def test_a_lone_surrogate_is_not_readable_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(r'{"a": "\ud800"}')
    with pytest.raises(BadInputError, match="not readable JSON"):
        read_json(tmp_path / "a.json")
