"""A store of an earlier schema is brought to this one with what it holds."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from alembic import command
from sqlalchemy import create_engine

from tunefleet.job.v1.job_service_pb2 import JobEvents
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_coordinator.store import Store
from tunefleet_coordinator.store.schema import migration_config
from tunefleet_core.lifecycle import World


def _schema(path: Path, revision: str = "0001") -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = migration_config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def test_a_job_of_the_first_schema_keeps_its_labels_and_its_history(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    _schema(path)
    payload = JobEvents().SerializeToString() + b"\x0a\x02\x08\x01"
    job = {
        **dict.fromkeys(("uid", "name", "project", "job_id", "backend", "creator", "service"), "one"),
        **dict.fromkeys(("version", "queue_number", "devices_needed", "max_attempts", "last_sequence"), 1),
        **dict.fromkeys(("priority", "attempt", "fencing_number", "failures", "cancel_requested"), 0),
        **dict.fromkeys(("result", "error", "progress"), b""),
        **dict.fromkeys(("create_time", "update_time"), 1.0),
        "state": 1,
        "required_labels": "[]",
        "resolved_spec_digest": "",
        "output_digest": "",
    }
    with sqlite3.connect(path) as connection:
        names = ", ".join(job)
        marks = ", ".join("?" for _ in job)
        connection.execute(f"INSERT INTO jobs ({names}) VALUES ({marks})", list(job.values()))
        spec = JobSpec(labels={"team": "search", "a": "b"}).SerializeToString()
        connection.execute("INSERT INTO specs VALUES ('one', ?, '')", (spec,))
        connection.execute("INSERT INTO event_segments VALUES ('one', 1, 1, ?)", (payload,))
    connection.close()

    store = Store.open(path)
    row = store.get_job("one")
    store.close()

    assert row is not None
    assert row.labels == (("a", "b"), ("team", "search"))
    assert (row.oldest_sequence, row.history_bytes) == (1, len(payload))
    assert (row.next_try_time, row.resume_requested) == (None, False)


def test_deployments_from_before_replicas_have_one_where_they_were(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    _schema(path, "0006")
    shared = {
        **dict.fromkeys(("project", "engine", "adapter_manifest_digest", "engine_model"), "one"),
        **dict.fromkeys(("version", "create_time", "update_time"), 1),
        **dict.fromkeys(("spec", "base_facts", "error"), b""),
        "service": "services/s",
        "host_id": "host",
        "device_ids": '["gpu-1"]',
        "engine_address": "http://here",
        "contract": b"contract",
    }
    states = {"ready": 3, "draining": 7, "gone": 6}
    with sqlite3.connect(path) as connection:
        for uid, state in states.items():
            row = shared | {"uid": uid, "name": uid, "deployment_id": uid, "state": state}
            marks = ", ".join("?" for _ in row)
            statement = f"INSERT INTO deployments ({', '.join(row)}) VALUES ({marks})"
            connection.execute(statement, list(row.values()))
    connection.close()

    store = Store.open(path)
    world = World(store.load().rows)
    store.close()

    version, replica = world.deployment("ready"), world.replica("ready")
    assert version is not None
    assert replica is not None
    assert (version.replicas, version.last_replica, version.state) == (1, 1, 3)
    assert (version.service, version.contract) == ("services/s", b"contract")
    place = (replica.service, replica.host_id, replica.device_ids, replica.engine_address)
    assert place == ("services/s", "host", ("gpu-1",), "http://here")
    assert (replica.version_uid, replica.number, replica.state) == ("ready", 1, 3)
    assert set(world.ledger.booked()) == {("host", "gpu-1")}
    draining = world.deployment("draining")
    assert draining is not None
    assert draining.replicas == 0
    assert [row.uid for row in world.replicas_in(7)] == ["draining"]
    assert world.deployment("gone") is None
    assert world.replica("gone") is None
