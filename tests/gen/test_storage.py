"""Storage: an S3 server that fails one request in five, Cloud Storage, missing credentials and buckets, killed writers, stale files."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from faulty_s3 import faulty_s3
from fsspec.registry import _registry as fsspec_registry
from support import make_samples

from synthclone.engines import files
from synthclone.gen import reading, retry, shards, storage


@pytest.fixture
def s3(monkeypatch):
    with faulty_s3(0.2) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        yield server
        s3fs.S3FileSystem.clear_instance_cache()


def test_shards_through_a_faulty_server_are_identical(s3, tmp_path):
    local, remote = storage.at(tmp_path / "set"), storage.at(f"{s3.bucket}/set")
    assert remote.sizes() == {}
    for target in (local, remote):
        shards.write_manifest(target, {"num_images": 40, "classes": [{"key": "k0"}, {"key": "k1"}]})
        for number in range(8):
            shards.write_shard(target, number, make_samples(5, number * 5), {"made_by": "test"})
    assert remote.sizes() == local.sizes() and shards.finished(remote) == set(range(8))
    assert all(remote.read(name) == local.read(name) for name in local.sizes())
    dataset = shards.read_dataset(f"{s3.bucket}/set", tmp_path / "cache")
    dataset.fetch(dataset.shards[:3])
    assert len(list((tmp_path / "cache").iterdir())) == 6  # the others are not copied
    assert dataset.shards[2].tar.read_bytes() == local.read("000002.tar")
    before = s3.requests
    dataset.fetch(dataset.shards[:3])
    assert s3.requests == before
    remote.remove("000000.json")
    remote.remove("000000.json")
    assert 0 not in shards.finished(remote)
    assert s3.requests > 60 and s3.faults >= s3.requests // 5 - 1


@pytest.fixture
def gs(monkeypatch):
    """A Cloud Storage server on loopback with one empty bucket; gives the bucket's URL."""
    from gcp_storage_emulator.server import create_server

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{port}")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it would look for Google's own servers
    server = create_server("localhost", port, in_memory=True, default_bucket="clones")
    server.start()
    yield "gs://clones"
    server.stop()


def test_shards_on_cloud_storage_are_identical(gs, tmp_path):
    local, remote = storage.at(tmp_path / "set"), storage.at(f"{gs}/set")
    assert remote.sizes() == {}
    for target in (local, remote):
        shards.write_manifest(target, {"num_images": 10, "classes": [{"key": "k0"}, {"key": "k1"}]})
        for number in range(2):
            shards.write_shard(target, number, make_samples(5, number * 5), {"made_by": "test"})
    assert remote.sizes() == local.sizes() and shards.finished(remote) == {0, 1}
    assert all(remote.read(name) == local.read(name) for name in local.sizes())
    dataset = shards.read_dataset(remote.url, tmp_path / "cache")
    dataset.fetch(dataset.shards)
    assert dataset.shards[1].tar.read_bytes() == local.read("000001.tar")
    assert reading.first_sample(remote, 1) == reading.first_sample(local, 1)
    remote.remove("000000.json")
    remote.remove("000000.json")
    assert shards.finished(remote) == {1}
    with pytest.raises(ValueError, match="cannot write gs://nowhere/set/a: there is no such bucket; create it"):
        storage.at("gs://nowhere/set").write("a", b"1")


def test_parts_of_a_large_tar(s3, monkeypatch):
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "default_block_size", 5 * 2**20)
    data = os.urandom(1000) * 16_000
    real = s3fs.S3FileSystem._pipe_file

    async def in_parts(self, path, value, **options):
        return await real(self, path, value, chunksize=5 * 2**20, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", in_parts)
    target = storage.at(f"{s3.bucket}/big")
    target.write("000000.tar", data)
    assert any("partNumber" in path for _, path in s3.log)
    assert target.read("000000.tar") == data and target.sizes() == {"000000.tar": 16_000_000}


def test_nothing_gets_through(s3, monkeypatch):
    s3.rate = 1.0
    monkeypatch.setattr(retry, "BASE_S", 0.001)
    monkeypatch.setattr(retry, "TRIES", 2)
    with pytest.raises(OSError, match=r"cannot write s3://clones/x/a: failed 2 times, last with .*; run again"):
        storage.at(f"{s3.bucket}/x").write("a", b"1")


def test_missing_bucket_and_credentials(s3, monkeypatch, tmp_path):
    import s3fs

    s3.rate = 0.0
    for action in (lambda there: there.sizes(), lambda there: there.write("a", b"1")):
        with pytest.raises(ValueError, match=r"cannot \w+ s3://nowhere/set.*: there is no such bucket; create it"):
            action(storage.at("s3://nowhere/set"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ValueError, match=r"cannot write s3://clones/set/a: no credentials; set AWS_ACCESS_KEY_ID"):
        storage.at(f"{s3.bucket}/set").write("a", b"1")


def test_denied_is_said_at_once(monkeypatch):
    calls = []

    def denied():
        calls.append(1)
        raise PermissionError(errno.EACCES, "Forbidden")

    with pytest.raises(ValueError, match=r"access denied .*Forbidden.*check the credentials"):
        retry.persist(denied, "read s3://b/a")
    assert len(calls) == 1


def test_only_what_passes_is_tried_again(monkeypatch):
    monkeypatch.setattr(retry, "BASE_S", 0.0)
    for error, expected in ((FileNotFoundError("a"), 1), (KeyError("bug"), 1), (ConnectionResetError(), retry.TRIES)):
        calls = []

        def action(error=error, calls=calls):
            calls.append(1)
            raise error

        with pytest.raises((OSError, KeyError)):
            retry.persist(action, "read x")
        assert len(calls) == expected


def test_a_writer_killed_in_mid_upload_leaves_no_shard(s3):
    """The proxy holds the tar back; the process dies while it waits."""
    s3.rate = 0.0
    code = (
        "import sys; from synthclone.gen import storage; from synthclone.gen.shards import Sample, write_shard\n"
        "sample = Sample(key='0', jpeg=bytes(30_000_000), fields={'label': 0, 'class': 'a'})\n"
        "import s3fs; real = s3fs.S3FileSystem._pipe_file\n"
        "async def parts(self, path, value, **o): return await real(self, path, value, chunksize=5 * 2**20, max_concurrency=1, **o)\n"
        "s3fs.S3FileSystem._pipe_file = parts\n"
        f"write_shard(storage.at('{s3.bucket}/set'), 0, [sample], {{}})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | s3.environment)
    while not any("partNumber=2" in path for _, path in list(s3.log)):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    target = storage.at(f"{s3.bucket}/set")
    assert target.sizes() == {} and shards.finished(target) == set()
    shards.write_shard(target, 0, make_samples(3), {})
    assert shards.finished(target) == {0}


@pytest.mark.parametrize(
    ("location", "message"),
    [("ftpx://a/b", "give a folder, or a URL"), ("gs://bucket/a", r"pip install 'synthclone\[gs\]'")],
)
def test_what_cannot_be_opened(location, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(fsspec_registry, "gs", raising=False)  # opened by another test
    with pytest.raises(ValueError, match=message):
        storage.at(location)


def test_a_child_process_opens_its_own(s3):
    """After a fork, the parent's connections and threads are of no use."""
    s3.rate = 0.0
    target = storage.at(f"{s3.bucket}/fork")
    target.write("a", b"parent")
    child = os.fork()
    if child == 0:
        try:
            target.write("b", target.read("a"))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert target.read("b") == b"parent"


def test_only_stale_files_are_swept(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        "dead": f".000001.tar.{files.host()}-{dead.pid}-0.part",
        "alive": f".000002.tar.{files.host()}-{os.getpid()}-7.part",
        "elsewhere": f".000003.tar.other_host-{dead.pid}-0.part",
        "old": ".000004.tar.other_host-1-0.part",
    }
    for name in names.values():
        (tmp_path / name).write_bytes(b"x")
    os.utime(tmp_path / names["old"], (time.time() - 2 * storage.STALE_S,) * 2)
    storage.sweep(storage.at(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {names["alive"], names["elsewhere"]}
    storage.sweep(storage.at("memory://nothing"))


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with files.atomic(tmp_path / "a") as first, files.atomic(tmp_path / "a") as second:
        first.write(b"one")
        second.write(b"two")
    assert (tmp_path / "a").read_bytes() in {b"one", b"two"} and len(list(tmp_path.iterdir())) == 1
