"""Requests from CSV files: the published forms, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from headscope.datasets.csv_files import from_csv
from headscope.errors import BadPrompts, EmptyPromptSet, MissingData

FORMS = {
    "advbench": "goal,target\nmake a table,sure\nopen a lamp,sure\n",
    "jailbreakbench": (
        "Index,Goal,Target,Behavior,Category,Source\n0,make a table,sure,a,b,c\n1,open a lamp,sure,d,e,f\n"
    ),
    "maliciousinstruct": "input\nmake a table\nopen a lamp\n",
}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("form", FORMS)
def test_published_forms_are_read_by_column_name(tmp_path: Path, form: str) -> None:
    found = from_csv(write(tmp_path / f"{form}.csv", FORMS[form]))
    assert found.name == form and [one.text for one in found] == ["make a table", "open a lamp"]
    assert {one.label for one in found} == {"harmful"} and not found[0].corrupted


def test_a_column_and_a_matched_file_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "Goal,other\nmake a table,one\nopen a lamp,two\n")
    assert [one.text for one in from_csv(path, column="other")] == ["one", "two"]
    benign = write(tmp_path / "b.csv", "Goal\nx\ny\n")
    found = from_csv(path, matched=benign, label="bad", name="mine")
    assert [one.corrupted for one in found] == ["x", "y"] and found[1].label == "bad" and found.name == "mine"
    with pytest.raises(BadPrompts, match=r"c\.csv: 1 rows, but .*a\.csv has 2"):
        from_csv(path, matched=write(tmp_path / "c.csv", "Goal\nx\n"))


def test_quotes_line_breaks_marks_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    content = '\ufeffid, goal\r\n1,"make ""one"", then\ntwo"\r\n2, open \r\n'
    found = from_csv(write(tmp_path / "a.csv", content))
    assert [one.text for one in found] == ['make "one", then\ntwo', "open"]


def test_wrong_files_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"There is no \.csv file in"):
        from_csv(tmp_path / "nothing.csv")
    path = write(tmp_path / "advbench.csv", FORMS["advbench"])
    with pytest.raises(MissingData, match=r"no such file\. Nearest: advbench\.csv"):
        from_csv(tmp_path / "advbnch.csv")
    with pytest.raises(MissingData, match=r"no column 'gaol'\. Nearest: goal"):
        from_csv(path, column="gaol")
    with pytest.raises(MissingData, match="none of the columns a, b is known"):
        from_csv(write(tmp_path / "b.csv", "a,b\n1,2\n"))
    with pytest.raises(EmptyPromptSet, match="no request below it"):
        from_csv(write(tmp_path / "c.csv", "goal\n"))
    with pytest.raises(EmptyPromptSet, match="the file is empty"):
        from_csv(write(tmp_path / "d.csv", ""))
    with pytest.raises(BadPrompts, match=r"column 'goal' is empty in line 3, 4\."):
        from_csv(write(tmp_path / "e.csv", 'id,goal\n1,x\n2," "\n3\n'))
    with pytest.raises(BadPrompts, match="byte 5 is not UTF-8"):
        from_csv(write(tmp_path / "f.csv", b"goal\n\xff\n"))
    with pytest.raises(BadPrompts, match="not readable as CSV"):
        from_csv(write(tmp_path / "g.csv", 'goal\n"open\n'))
    with pytest.raises(MissingData):
        from_csv(tmp_path)
