"""Small files that become large, long lines, tags and formulas: refused soon, or harmless."""

from __future__ import annotations

import io
import json
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_input import TOKENS
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner

from headscope.analysis import files
from headscope.analysis.csv_text import csv_text
from headscope.analysis.files import read_table
from headscope.analysis.uploads import uploaded_image, uploaded_prompts
from headscope.cli import app
from headscope.datasets.images import open_image
from headscope.datasets.prompts import PromptSet
from headscope.errors import BadImage, BadJob, BadPrompts, BadRun, HeadscopeError
from headscope.hooks.directions import Directions
from headscope.jobs.spec import read_job


@contextmanager
def soon(seconds: float = 5.0) -> Iterator[None]:
    """Hold that something takes little time of a core, however busy the machine is."""
    begun = time.process_time()
    yield
    assert time.process_time() - begun < seconds


def png(width: int, height: int, *extra: bytes) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body + chunk(b"IEND", b"")


def text_chunk(size: int) -> bytes:
    """A comment of a PNG that unpacks to `size` bytes."""
    data = b"Comment\0\0" + zlib.compress(b"\0" * size, 9)
    return struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))


def whole_png(width: int, height: int) -> bytes:
    """A real picture of one colour: a few kilobytes, and `width` x `height` pixels once it is read."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


PICTURES = {
    "claims 4 gigapixels": lambda: png(65_000, 65_000),
    "claims the most": lambda: png(2**31 - 1, 2**31 - 1),
    "claims a line": lambda: png(2**31 - 1, 1),
    "claims nothing": lambda: png(0, 0),
    "is 100 megapixels": lambda: whole_png(10_000, 10_000),
    "a comment of 300 MB": lambda: png(8, 8, text_chunk(300_000_000)),
    "many comments": lambda: png(8, 8, *[text_chunk(900_000)] * 200),
    "a pickle": lambda: b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.",
    "a page": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%true) (w) file",
    "empty": lambda: b"",
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_is_none_or_far_too_large_is_refused_soon(name, tmp_path):
    data = PICTURES[name]()
    (tmp_path / "picture.png").write_bytes(data)
    with soon(), pytest.raises(BadImage) as refused:
        open_image(str(tmp_path / "picture.png"))
    assert len(str(refused.value)) < 600
    with soon(), pytest.raises(BadImage):
        uploaded_image("../../picture.png", data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


@pytest.mark.parametrize(
    "place", ["/dev/zero", "/dev/stdin", "/proc/self/mem", "/", "\0", "http://example.org/x.png"]
)
def test_an_image_is_a_file_on_a_disk(place):
    with soon(), pytest.raises(BadImage):
        open_image(place)


LINES = {
    "a line of 30 MB": lambda: json.dumps({"text": "a" * 10_000_000, "no such": 1}),
    "nested": lambda: '{"text": ' + "[" * 1_000_000,
    "nested and closed": lambda: '{"text": "a", "spans": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "a number of a million digits": lambda: '{"text": "a", "spans": {"x": [[0, ' + "9" * 1_000_000 + "]]}}",
    "fifty thousand keys": lambda: "{" + ",".join(f'"k{i}": 1' for i in range(50_000)) + "}",
    "many names of spans": lambda: json.dumps(
        {"text": "a", "spans": {f"s{i}": [[0, 9]] for i in range(20_000)}}
    ),
    "no line end": lambda: "x" * 5_000_000,
    "fifty thousand bad lines": lambda: "{}\n" * 50_000,
}


@pytest.mark.parametrize("name", LINES)
def test_lines_of_prompts_made_to_be_large_are_refused_soon_and_shortly(name, tmp_path):
    data = LINES[name]().encode()
    (tmp_path / "prompts.jsonl").write_bytes(data)
    with soon(), pytest.raises(BadPrompts) as refused:
        PromptSet.from_jsonl(tmp_path / "prompts.jsonl")
    assert len(str(refused.value)) < 60_000
    with soon(), pytest.raises(BadPrompts):
        uploaded_prompts("../prompts.jsonl", data)


JOBS = {
    "an alias bomb": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nname: *c\nsteps: []\n",
    "a tag that runs": "name: !!python/object/apply:os.mkdir [{place}]\nsteps: []\n",
    "a tag of an object": "name: !!python/object/new:os.mkdir [{place}]\nsteps: []\n",
    "a tag of a module": "name: !!python/name:os.mkdir\nsteps: []\n",
    "a tag of ours": "name: !Head L0H0\nsteps: []\n",
    "binary": "name: !!binary gIKVAgAA\nsteps: []\n",
    "a merge": "name: x\nsteps: [{{<<: {{kind: score}}}}]\n",
    "a sweep of all": "name: x\nsweep: {{seed: {many}, dtype: {many}, model: {many}}}\nsteps: [{{kind: score}}]\n",
    "nested": "name: " + "[" * 50_000,
    "a number of a million digits": "name: x\nseed: "
    + "9" * 1_000_000
    + "\nsteps: [{{kind: score, method: induction}}]\n",
    "a number by sixties": "name: x\nseed: " + ":".join(["59"] * 20_000) + "\nsteps: [{{kind: score}}]\n",
    "six megabytes": "name: x\n#" + "x" * 6_000_000,
    "two documents": "name: x\n---\nname: y\n",
    "a directive": "%TAG ! tag:yaml.org,2002:python/\n--- !name:os.mkdir\n",
}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_file_constructs_nothing_and_cannot_become_large(name, tmp_path):
    place = tmp_path / "it-ran"
    text = (
        JOBS[name].format(place=place, many=[str(i) for i in range(1000)])
        if "{" in JOBS[name]
        else JOBS[name]
    )
    (tmp_path / "job.yaml").write_text(text)
    with soon(), pytest.raises(BadJob) as refused:
        read_job(tmp_path / "job.yaml")
    assert len(str(refused.value)) < 60_000
    assert not place.exists()


def bomb(path: Path, rows: int) -> None:
    """A table in which one value stands `rows` times."""
    part = pa.table({"layer": pa.array(np.zeros(1_000_000, dtype=np.int64))})
    with pq.ParquetWriter(path, part.schema, compression="zstd") as writer:
        for _ in range(rows // len(part)):
            writer.write_table(part)


def test_a_table_that_unpacks_to_far_more_than_it_is_is_refused_unread(tmp_path, monkeypatch):
    bomb(tmp_path / "scores.parquet", 30_000_000)
    assert (tmp_path / "scores.parquet").stat().st_size < 200_000
    monkeypatch.setattr(files, "MAX_CELLS", 20_000_000)
    with soon(), pytest.raises(BadRun, match=r"30,000,000 rows of 1 columns; at most 20,000,000"):
        read_table(tmp_path / "scores.parquet")


@pytest.mark.parametrize("length", [2**63 - 1, 2**40, 100_000_000, 8, 0])
def test_the_length_that_a_safetensors_header_claims_is_not_believed(length, tmp_path):
    path = tmp_path / "directions.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{" + b" " * 100)
    with soon(), pytest.raises(HeadscopeError):
        Directions.load(path)


def test_a_safetensors_file_that_claims_more_than_it_holds_is_refused(tmp_path):
    save_file({"x": np.zeros(4, dtype=np.float32)}, tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(data.replace(b'"shape":[4]', b'"shape":[9]'))
    with soon(), pytest.raises(BadRun):
        Directions.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "cell", ["=1+1", "=HYPERLINK(1)", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1"]
)
def test_a_spreadsheet_computes_no_cell_and_no_heading(cell):
    table = pd.DataFrame({"token": [cell, "a"], cell: [1.5, -2.0]})
    written = csv_text(table)
    read = pd.read_csv(io.StringIO(written), keep_default_na=False)
    assert read.shape == (2, 2)
    assert read["token"][0] == read.columns[1] == f"'{cell}".replace("\r", "\n")


def test_csv_keeps_numbers_signs_and_missing_values():
    table = pd.DataFrame(
        {"score": [-0.1, np.nan, 1e-300], "token": ["-", "+", "-5"], "note": ["a'b", None, "'=x"]}
    )
    read = pd.read_csv(io.StringIO(csv_text(table)))
    np.testing.assert_array_equal(read["score"], table["score"])
    assert list(read["token"]) == ["-", "+", "-5"]
    assert read["note"][0] == "a'b" and pd.isna(read["note"][1])
    assert csv_text(table) == table.to_csv(index=False)


def test_the_pattern_command_writes_tokens_that_are_formulas_as_text(hostile_model, tmp_path):
    text = f"{TOKENS[16]} {TOKENS[9]} {TOKENS[16]}"
    call = [
        "pattern",
        "-m",
        str(hostile_model),
        "--prompt",
        text,
        "--head",
        "L0H0",
        "--out",
        str(tmp_path / "x.csv"),
    ]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    tokens = set(pd.read_csv(tmp_path / "x.csv")["key_token"].astype(str).str.strip())
    assert "'=HYPERLINK(1)" in tokens and "=HYPERLINK(1)" not in tokens
