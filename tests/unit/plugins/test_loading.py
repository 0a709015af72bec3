"""Loading plugins from real distributions on a path: each in isolation, none by crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tunefleet_core
from tunefleet_core.plugins import PluginRecord, PluginSet, PluginStatus, load_plugins
from tunefleet_core.plugins.conformance_report import Report

IMPORTS = """
from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet_core.catalog import Family, Format
from tunefleet_core.catalog.format import Variant
from tunefleet_core.plugins import hookimpl
"""
FAMILY = """
@hookimpl
def tunefleet_families():
    return [Family(name="{name}", model_types=("{type}",), chat_template="", template_origin="",
                   stop_tokens=(), target_suffixes=())]
"""
BACKEND = """
@hookimpl
def tunefleet_backends():
    return [BackendManifest(name="{name}", contract_version={version})]
"""
FORMAT = """
@hookimpl
def tunefleet_formats():
    return [Format(name="{name}", summary="", variants=(Variant(name="", bits_per_weight=4.0),))]
"""


def distribution(folder: Path, name: str, code: str, *, version: str = "1.2", point: str = "") -> None:
    """Write an installed distribution with one plugin module."""
    module = f"plugin_of_{name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(IMPORTS + code)
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[tunefleet]\n{point or name} = {module}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TUNEFLEET_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("plugin_of_")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def record_of(plugins: PluginSet, name: str, dist: str = "") -> PluginRecord:
    return next(item for item in plugins.records if item.name == name and dist in item.dist)


def family(name: str, model_type: str) -> str:
    return FAMILY.format(name=name, type=model_type)


def format_(name: str) -> str:
    return FORMAT.format(name=name)


def backend(name: str, version: int = tunefleet_core.CONTRACT_VERSION) -> str:
    return BACKEND.format(name=name, version=version)


def test_the_built_in_plugin_is_always_there(site: Path) -> None:
    record = record_of(load_plugins(""), "builtin")
    assert (record.dist, record.status, record.error) == ("tunefleet", PluginStatus.ACTIVE, "")
    assert [item.name for item in load_plugins(None).records].count("builtin") == 1


def test_what_a_plugin_brings_is_there_and_recorded(site: Path) -> None:
    distribution(site, "mine", family("f", "mine-1") + backend("b") + format_("q"))
    plugins = load_plugins("mine")
    assert [item.name for item in plugins.families()] == ["f"]
    assert [item.name for item in plugins.backends()] == ["b"]
    record = record_of(plugins, "mine")
    assert (record.distribution, record.status) == ("mine==1.2", PluginStatus.ACTIVE)
    assert [item.name for item in plugins.formats()] == ["q"]
    assert (record.families, record.backends, record.formats) == (("f",), ("b",), ("q",))
    assert plugins.failed() == ()


def test_plugins_are_chosen_by_entry_point_or_distribution(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(site, "one-dist", family("one", "one"), point="one")
    distribution(site, "two-dist", family("two", "two"), point="two")
    distribution(site, "three-dist", "raise RuntimeError('must not be imported')", point="three")
    plugins = load_plugins(" one, two-dist ,")
    assert [item.name for item in plugins.families()] == ["one", "two"]
    left_out = record_of(plugins, "three")
    assert left_out.status is PluginStatus.DISABLED
    assert left_out.error == "Plugin 'three' is left out by TUNEFLEET_PLUGINS."
    monkeypatch.setenv("TUNEFLEET_PLUGINS", "two")
    assert [item.name for item in load_plugins().families()] == ["two"]
    monkeypatch.setenv("TUNEFLEET_PLUGINS", "")
    assert load_plugins().families() == ()
    monkeypatch.delenv("TUNEFLEET_PLUGINS")
    assert {"one", "two"} <= {item.name for item in load_plugins().families()}


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import there_is_no_such_module", "cannot be imported: ModuleNotFoundError: No module named 'there"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("1 +", "cannot be imported: SyntaxError: invalid syntax"),
        ("@hookimpl\ndef tunefleet_unheard_of(): ...", "does not fit the hooks: PluginValidationError: unkn"),
        ("@hookimpl\ndef tunefleet_families(extra): ...", "does not fit the hooks: PluginValidationError: P"),
        ("@hookimpl\ndef tunefleet_families(): 1 / 0", "failed in tunefleet_families: ZeroDivisionError: di"),
        (
            "@hookimpl\ndef tunefleet_families(): return 3",
            "failed in tunefleet_families: TypeError: tunefleet_families must return a sequence of Family",
        ),
        (
            "@hookimpl\ndef tunefleet_formats(): return ['q']",
            "failed in tunefleet_formats: TypeError: tunefleet_formats returned a str, not a Format",
        ),
        (
            "@hookimpl\ndef tunefleet_backends(): return ['b']",
            "failed in tunefleet_backends: TypeError: tunefleet_backends returned a str, not a Back",
        ),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_a_record_and_harms_no_other(site: Path, code: str, error: str) -> None:
    distribution(site, "a-broken", family("broken", "broken") + code)
    distribution(site, "b-sound", family("sound", "sound"))
    plugins = load_plugins("a-broken,b-sound")
    assert [item.name for item in plugins.families()] == ["sound"]
    record = record_of(plugins, "a-broken")
    assert record.status is PluginStatus.FAILED
    assert record.error.startswith(f"Plugin 'a-broken' of a-broken 1.2 {error}")
    assert record.hint
    assert plugins.failed() == (record,)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (family("x", "same"), family("y", "same"), "model type 'same'"),
        (backend("same"), backend("same"), "backend 'same'"),
        (format_("same"), format_("same"), "format 'same'"),
    ],
)  # fmt: skip
def test_a_conflict_names_both_distributions(site: Path, first: str, second: str, expected: str) -> None:
    distribution(site, "a-first", first)
    distribution(site, "b-second", second, version="3.4")
    plugins = load_plugins("a-first,b-second")
    record = record_of(plugins, "b-second")
    assert (
        record.error
        == f"Plugin 'b-second' of b-second 3.4 brings the {expected}, which a-first 1.2 brings already."
    )
    assert len(plugins.families()) + len(plugins.backends()) + len(plugins.formats()) == 1


def test_two_plugins_of_one_name_and_a_plugin_that_repeats_itself_are_told(site: Path) -> None:
    distribution(site, "a-first", family("x", "x"), point="same")
    distribution(site, "b-second", family("y", "y"), point="same")
    both = backend("twice").replace("]", ", BackendManifest(name='twice')]")
    distribution(site, "c-third", both)
    plugins = load_plugins("same,c-third")
    assert "has the same name as a plugin of a-first 1.2." in record_of(plugins, "same", "b-second").error
    assert record_of(plugins, "same", "a-first").status is PluginStatus.ACTIVE
    assert "brings the backend 'twice', which it brings twice." in record_of(plugins, "c-third").error


def test_another_contract_version_is_listed_as_incompatible(site: Path) -> None:
    distribution(site, "old", backend("old", version=99))
    plugins = load_plugins("old")
    record = record_of(plugins, "old")
    assert record.status is PluginStatus.INCOMPATIBLE
    assert record.error == "Backend 'old' of old 1.2 speaks contract 99, this tunefleet speaks 1."
    assert [item.name for item in plugins.backends()] == ["old"], "its manifest says the version itself"


def describe(site: Path, allow: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "TUNEFLEET_PLUGINS": allow}
    command = [sys.executable, "-m", "tunefleet_core.plugins.describe"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)


def test_describe_prints_one_line_of_json_whatever_plugins_print(site: Path) -> None:
    noise = "import atexit, os, subprocess, sys\nprint('noise 1', flush=True)\nos.write(1, b'noise 2')\n"
    noise += "subprocess.run([sys.executable, '-c', 'print(3)'], check=True)\n"
    noise += "sys.__stdout__.write('noise 4')\natexit.register(print, 'noise 5')\n"
    distribution(site, "noisy", noise + backend("loud"))
    distribution(site, "rotten", "import there_is_no_such_module")
    done = describe(site, "noisy,rotten")
    assert done.stdout.count("\n") == 1
    content = json.loads(done.stdout)
    assert content["backends"] == []
    assert [(item["name"], item["dist"], item["version"]) for item in content["failed"]] == [
        ("noisy", "noisy", "1.2"),
        ("rotten", "rotten", "1.2"),
    ]
    assert "prints to standard output while it is loaded: 'noise 1'" in content["failed"][0]["error"]
    assert "there_is_no_such_module" in content["failed"][1]["error"]
    assert all(item["hint"] for item in content["failed"])
    assert all(f"noise {index}" in done.stderr for index in (1, 2, 4, 5))


def test_describing_is_light(site: Path) -> None:
    heavy = ["torch", "transformers", "numpy", "yaml", "grpc", "jsonschema"]
    code = f"import sys, tunefleet_core.plugins.describe; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_conformance_report_in_the_distribution_is_described(site: Path) -> None:
    distribution(site, "proven", backend("proven"))
    report = Report(backend="proven", passed=["test_a[worker]"], skipped={"test_b[worker]": "why"})
    (site / "plugin_data").mkdir()
    (site / "plugin_data" / "conformance.json").write_text(report.to_json())
    (site / "proven-1.2.dist-info" / "RECORD").write_text("plugin_data/conformance.json,,\n")
    content = json.loads(describe(site, "proven").stdout)
    assert content["conformance"] == {"proven": "1 passed, 1 skipped (kit 1, contract 1)"}


def test_damaged_reports_are_no_reports(site: Path) -> None:
    distribution(site, "sloppy", backend("sloppy"))
    (site / "conformance.json").write_text("{}")
    (site / "sloppy-1.2.dist-info" / "RECORD").write_text("conformance.json,,\n")
    content = json.loads(describe(site, "sloppy").stdout)
    assert content["conformance"] == {}
    assert [item["name"] for item in content["backends"]] == ["sloppy"]
