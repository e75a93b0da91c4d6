"""The page of samples side by side: what stands where, and which folders are refused."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from toy_runs import PROMPTS, drawn

from minoritybench.cli.gallery import command
from minoritybench.errors import BadInputError
from minoritybench.report.pictures import png_bytes
from minoritybench.report.sample_gallery import write_sample_gallery


def shades(page: str) -> list[list[bytes]]:
    """The PNG of every cell, by row."""
    rows = page.partition("<tbody>")[2].split("<tr>")[1:]
    return [[base64.b64decode(uri) for uri in re.findall(r"base64,([^\"]+)", row)] for row in rows]


def test_a_row_a_prompt_and_a_column_a_method(tmp_path: Path) -> None:
    runs = [drawn(tmp_path / "a"), drawn(tmp_path / "b", "jepa", shade=100)]
    out = tmp_path / "page.html"
    assert write_sample_gallery(runs, out, 5, 2) == 2
    page = out.read_text()
    cells = [[png_bytes(np.full((8, 8, 3), shade, dtype=np.uint8)) for shade in row] for row in ((50, 150), (51, 151))]
    assert shades(page) == cells
    assert re.findall(r'scope="(?:col|row)">([^<]+)<', page) == [
        "ddim",
        "jepa",
        "a &lt;b&gt;bold&lt;/b&gt; seven &amp; more",
        "a thin zero",
    ]
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "seed 5" in page


def test_runs_of_one_method_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    runs = [drawn(tmp_path / str(eta), "jepa", eta=eta, k=3) for eta in (1.0, 2.0)]
    out = tmp_path / "page.html"
    write_sample_gallery([*runs, drawn(tmp_path / "c")], out, None, 1)
    assert re.findall(r'scope="col">([^<]+)<', out.read_text()) == ["jepa (eta=1.0)", "jepa (eta=2.0)", "ddim"]
    write_sample_gallery([runs[0], drawn(tmp_path / "again", "jepa", eta=1.0, k=3)], out, None, 1)
    assert re.findall(r'scope="col">([^<]+)<', out.read_text()) == ["jepa (1.0)", "jepa (again)"]


def test_chains_that_ran_differently_are_told_of_every_method(tmp_path: Path) -> None:
    runs = [drawn(tmp_path / "a"), drawn(tmp_path / "b", "jepa")]
    for run, scale in zip(runs, (2.0, 7.5), strict=True):
        plan = json.loads((run / "plan.json").read_text())
        plan["text"] = {"guidance_scale": scale, "ending": "x0"}
        (run / "plan.json").write_text(json.dumps(plan))
    write_sample_gallery(runs, tmp_path / "page.html", None, 1)
    heads = re.findall(r'scope="col">([^<]+)<', (tmp_path / "page.html").read_text())
    assert heads == ["ddim (guidance_scale=2.0)", "jepa (guidance_scale=7.5)"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"seeds": (4,)}, r"has the seeds \[4\], .* \[4, 5\]"),
        ({"prompts": PROMPTS[:2]}, "not drawn for the same prompts"),
        ({"prompts": ("a", "b", "c")}, "not drawn for the same prompts"),
        ({"generator": "tiny"}, "another generator"),
    ],
)
def test_runs_that_make_no_rows_are_refused(tmp_path: Path, other: dict[str, Any], said: str) -> None:
    runs = [drawn(tmp_path / "a"), drawn(tmp_path / "b", **other)]
    with pytest.raises(BadInputError, match=said):
        write_sample_gallery(runs, tmp_path / "page.html", None, 3)
    assert not (tmp_path / "page.html").exists()


def test_faults_are_one_line(tmp_path: Path) -> None:
    run, out = drawn(tmp_path / "a"), tmp_path / "page.html"
    with pytest.raises(BadInputError, match="the runs have the seeds 4, 5"):
        write_sample_gallery([run], out, 6, 3)
    with pytest.raises(BadInputError, match="holds no finished output"):
        write_sample_gallery([run, tmp_path], out, None, 3)
    (run / "seed-4" / "00001.png").write_bytes(b"")
    with pytest.raises(BadInputError, match=r"is not the image that samples\.json lists"):
        write_sample_gallery([run], out, None, 3)
    (run / "samples.json").write_text('[{"seed": 4, "index": 0}]')
    with pytest.raises(BadInputError, match="is not one that minoritybench wrote"):
        write_sample_gallery([run], out, None, 3)
    (run / "plan.json").write_text('{"kind": "rank"}')
    with pytest.raises(BadInputError, match="is not one that minoritybench wrote"):
        write_sample_gallery([run], out, None, 3)


def test_command_writes_its_own_page_again_and_no_other_file(tmp_path: Path) -> None:
    run, out = drawn(tmp_path / "a"), tmp_path / "page.html"
    for _ in range(2):
        assert CliRunner().invoke(command, [str(run), "--out", str(out), "--rows", "1"]).exit_code == 0
    out.write_text("mine")
    done = CliRunner().invoke(command, [str(run), "--out", str(out)])
    assert isinstance(done.exception, BadInputError)
    assert out.read_text() == "mine"
