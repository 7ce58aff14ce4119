"""The demo finds what was planted, writes one report, and leaves nothing when it is stopped."""

import pytest

from headscope.analysis import demo as room
from headscope.analysis.report import ALONE
from headscope.analysis.run import load_run
from headscope.errors import CannotWrite
from headscope.hooks.load import available

SHIPPED = {name: getattr(room, name) for name in ("TEXT", "N_SCORED", "N_CHECKED", "K", "DRAWS")}


@pytest.fixture(scope="module")
def small():
    """Run the demo on the planted model alone, with few prompts: the planted induction head also retrieves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "TEXT", room.PLANTED)
        patch.setattr(room, "N_SCORED", 8)
        patch.setattr(room, "N_CHECKED", 16)
        patch.setattr(room, "K", (1,))
        patch.setattr(room, "DRAWS", 2)
        yield


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    """Return the report of one demo, and the lines that it printed."""
    lines: list[str] = []
    report = room.demo(tmp_path_factory.mktemp("demo") / "demo", seed=0, progress=lines.append)
    return report, "\n".join(lines)


def test_the_demo_reports_what_it_prints(made):
    report, said = made
    page = report.read_text(encoding="utf-8")
    checked = load_run(report.parent / "retrieval")
    assert checked.verification is not None and checked.verification.judgement == "causal"
    assert checked.verification.verdict in said and checked.scores.causal
    assert checked.verification.data.digest != checked.scores.data.digest, "checked on other prompts"
    for method, head in (("induction", "L2H1"), ("previous-token", "L0H2")):
        run = load_run(report.parent / method)
        first, second = run.scores.table()["score"].iloc[:2]
        assert str(run.scores.top(1)[0]) == head and first > 0.9 > 0.3 > second
        assert f"{head}, the {method} head by construction, is number 1." in said
        assert f"{head}, the {method} head by construction, is number 1." in page
    assert said.count(ALONE) == 2 and page.count(ALONE) == 2
    assert "headscope demo" in page


def test_a_second_demo_replaces_the_first_and_keeps_what_others_put_there(made):
    folder = made[0].parent
    names = {"report.html", "manifest.json", "retrieval", "induction", "previous-token"}
    assert {path.name for path in folder.iterdir()} == names
    (folder / "notes").write_text("mine")
    room.demo(folder, progress=lambda line: None)
    assert {path.name for path in folder.iterdir()} == {*names, "notes"}


def test_a_foreign_folder_is_refused_before_any_work(tmp_path, small, monkeypatch):
    (tmp_path / "letter").write_text("dear")
    monkeypatch.setattr(room, "load", lambda name: pytest.fail("no model may be loaded yet"))
    with pytest.raises(CannotWrite, match="no run of Headscope"):
        room.demo(tmp_path, progress=lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["letter"]


def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path, small, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "verify", stop)
    with pytest.raises(KeyboardInterrupt):
        room.demo(tmp_path / "demo", progress=lambda line: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_shipped_model_loses_its_needles_with_its_retrieval_heads(tmp_path, monkeypatch):
    for name, value in SHIPPED.items():
        monkeypatch.setattr(room, name, value)
    if room.TEXT not in {card.name for card in available()}:
        pytest.skip(f"{room.TEXT} is not in this checkout")
    report = room.demo(tmp_path / "demo", progress=lambda line: None)
    check = load_run(report.parent / "retrieval").verification
    assert check is not None and check.judgement in ("causal", "redundant"), check
    summary = check.summary()
    top = summary[summary["arm"] == "top"]
    lost = top.loc[top["effect"].idxmin()]
    controls = summary[(summary["arm"] != "top") & (summary["k"] == lost["k"])]
    assert lost["effect"] <= -0.5, check.verdict
    assert (controls["effect"] > -0.1).all(), check.verdict
