"""The frame: what stands in the address, the model in memory, and how the app is started."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import headscope.app
from headscope.analysis.figures import DARK, LIGHT
from headscope.app import launch, models
from headscope.errors import BadOption, MissingData, UnknownModel

MAIN = Path(headscope.app.__file__).with_name("main.py")


def test_the_app_opens_on_its_home_page_with_a_prompt():
    at = AppTest.from_file(str(MAIN), default_timeout=300).run()
    assert not at.exception and not at.error and not at.warning
    assert at.text_area(key="prompt").value


def test_only_one_model_is_in_memory_and_the_old_one_is_freed_first(monkeypatch):
    events = []

    class Fake:
        def __init__(self, name):
            self.name = name
            events.append(f"load {name}")

    monkeypatch.setattr(models, "_loaded", [])
    models._load.clear()
    monkeypatch.setattr("headscope.hooks.load.load", lambda name, **_: Fake(name))
    original = models._load.clear
    monkeypatch.setattr(models._load, "clear", lambda *key: (events.append(f"free {key[0]}"), original(*key)))
    for name in ("a", "a", "b", "a"):
        with models.using(models.Choice(name)) as model:
            assert model.name == name
    assert events == ["load a", "free a", "load b", "free b", "load a"]
    models._load.clear("a", "float32", "")


def test_a_second_tab_waits_until_the_first_has_left_the_model():
    order, inside, leave = [], threading.Event(), threading.Event()

    def first():
        with models.using(models.Choice("organism/planted")):
            order.append("first in")
            inside.set()
            leave.wait(60)
            order.append("first out")

    def second():
        inside.wait(60)
        with models.using(models.Choice("organism/planted")):
            order.append("second in")

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    assert inside.wait(120)
    threads[1].join(0.3)
    assert order == ["first in"]
    leave.set()
    for thread in threads:
        thread.join(60)
    assert order == ["first in", "first out", "second in"]


def test_a_model_that_cannot_be_loaded_leaves_the_next_one_loadable():
    with pytest.raises(UnknownModel), models.using(models.Choice("organism/none")):
        pass
    with models.using(models.Choice("organism/planted")) as model:
        assert model.cfg.n_layers == 3


def test_the_server_is_told_to_stay_on_this_machine_and_quiet():
    options = launch.command(port=1234, address="127.0.0.1")
    assert "--server.address=127.0.0.1" in options and "--server.port=1234" in options
    assert "--browser.gatherUsageStats=false" in options and "--server.fileWatcherType=none" in options
    assert "--runner.postScriptGC=false" in options
    assert f"--server.maxUploadSize={launch.UPLOAD_MB}" in options
    assert f"--theme.dark.backgroundColor={DARK.background}" in options, "figures would stand in boxes"
    assert f"--theme.light.primaryColor={LIGHT.accent}" in options
    assert launch.environment(Path("some"), models=2)["HEADSCOPE_APP_RUNS"] == str(Path("some").resolve())


def test_the_process_becomes_the_server_and_prints_its_address(monkeypatch, tmp_path, capsys):
    started = []
    monkeypatch.setattr("os.execve", lambda *given: started.append(given))
    launch.launch(tmp_path / "runs", port=0, models=3)
    ((program, arguments, environment),) = started
    port = next(one for one in arguments if one.startswith("--server.port=")).rpartition("=")[2]
    assert f"http://127.0.0.1:{port} " in capsys.readouterr().out
    assert program == arguments[0] and environment["HEADSCOPE_APP_MODELS"] == "3"


def test_a_taken_port_is_refused_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadOption, match=f"cannot listen on 127.0.0.1 port {port}"):
            launch.launch(tmp_path, port=port)
    assert launch.free_port("127.0.0.1", 0) > 0


def test_a_file_is_no_folder_of_runs(tmp_path):
    file = tmp_path / "runs"
    file.write_text("")
    with pytest.raises(MissingData, match="is not a folder"):
        launch.launch(file)
