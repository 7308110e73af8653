"""Images over the network are those of the same files on a disk, whatever the network does."""

import fcntl
import random
import threading

import numpy as np
import pytest

from nepa_keras import data
from nepa_keras.data.network import DiskCache, NetworkFiles, files, servers
from nepa_keras.data.order import epoch_order
from tests.helpers import source_files
from tests.helpers.file_server import serving
from tests.helpers.source_files import COUNT

pytestmark = pytest.mark.once
KINDS = ("tfrecord", "webdataset", "parquet")
SHARDS = {
    "tfrecord": "records/train-{00000..00001}-of-00002.tfrecord",
    "webdataset": "tars/train-{000..001}.tar",
    "parquet": "parquet/data/train-{00000..00001}-of-00002.parquet",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path_factory):
    """Short waits, small blocks so that these small files have several, and an empty cache."""
    monkeypatch.setattr(servers, "WAITS", (0.01,) * 5)
    monkeypatch.setattr(files, "BLOCK", 1000)
    monkeypatch.setattr(files, "_files", None)
    data.use_cache(tmp_path_factory.mktemp("cache"))


def write(kind: str, root) -> str:
    """Two files of a kind; those of TFRecord by ourselves, with a manifest beside them."""
    if kind != "tfrecord":
        return source_files.WRITERS[kind](root)
    (root / "from").mkdir()
    tars = data.open_source(source_files.webdataset(root / "from"), with_labels=True)
    data.copy_to_records(tars, root / "records", images_per_shard=COUNT // 2)
    return f"tfrecord:{root / 'records'}"


def read(text: str, first: int = 0) -> list[np.ndarray]:
    """Images and labels of two shuffled epochs, from some place in them on."""
    source = data.open_source(text, with_labels=True)
    chunks = getattr(source, "chunks", None)
    order = np.concatenate([epoch_order(5, epoch, len(source), chunks) for epoch in range(2)])
    batches = data.OrderedBatches(source, 4, 16, indices=order[first:])
    return [*(array for images, _ in batches for array in images), source.labels[order[first:]]]


def assert_equal(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_connection_changes_no_batch(kind, tmp_path):
    local = write(kind, tmp_path)
    expected = read(local)
    with serving(tmp_path) as server:
        server.busy_every, server.cut_every = 5, 3
        text = f"{kind}:{server.address}/{SHARDS[kind]}"
        assert_equal(read(text), expected)
        size = sum(file.stat().st_size for file in tmp_path.rglob("train-*"))
        assert server.sent < 1.5 * size
        server.sent = 0
        resumed = read(text, first=8)
        assert_equal(resumed[:-1], expected[8:-1])
    assert server.sent < 10  # a resumed run finds the rest in the cache


@pytest.mark.parametrize("kind", KINDS)
def test_stores_of_fsspec(kind, tmp_path):
    import fsspec

    local = write(kind, tmp_path)
    store = fsspec.filesystem("memory")
    folder = {"tfrecord": "records", "webdataset": "tars", "parquet": "parquet"}[kind]
    store.put(str(tmp_path / folder), f"/{kind}", recursive=True)
    for place in (f"memory://{kind}", f"memory://{kind}/{SHARDS[kind].partition('/')[2]}"):
        assert_equal(read(f"{kind}:{place}"), read(local))
    with pytest.raises(ValueError, match=r"folder memory://\w+ holds no file like|no file memory"):
        data.open_source(f"{kind}:memory://nothing")
    with pytest.raises(ValueError, match=r"no file memory://.*none"):
        data.open_source(f"{kind}:memory://{kind}/none*")


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_cache_needs_no_server(kind, tmp_path, monkeypatch):
    """Once read, the same command works offline, and says that it does; what it lacks is one sentence."""
    write(kind, tmp_path)
    with serving(tmp_path) as server:
        expected = read(f"{kind}:{server.address}/{SHARDS[kind]}")
    cache = files.network_files().cache
    monkeypatch.setattr(files, "_files", NetworkFiles(cache))
    with pytest.warns(UserWarning) as said:
        assert_equal(read(f"{kind}:{server.address}/{SHARDS[kind]}"), expected)
    assert sum("are read from the cache alone" in str(each.message) for each in said) == 1
    for entry in cache.folder.glob("*/[0-9]*"):
        entry.unlink()
    monkeypatch.setattr(files, "_files", NetworkFiles(cache))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="tries within"):
        read(f"{kind}:{server.address}/{SHARDS[kind]}")


def test_a_changed_file_is_noticed(tmp_path):
    source_files.webdataset(tmp_path)
    with serving(tmp_path) as server:
        text = f"webdataset:{server.address}/{SHARDS['webdataset']}"
        source = data.open_source(text)
        before = data.fingerprint(source)
        assert data.fingerprint(data.open_source(text)) == before
        file = tmp_path / "tars" / "train-001.tar"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        files.network_files().cache = DiskCache(tmp_path / "empty", 10**6)
        with pytest.raises(data.NetworkError, match=r"train-001.tar changed while it was read"):
            source.read(COUNT - 1)
        assert data.fingerprint(data.open_source(text)) != before


def test_a_server_that_goes_away_ends_with_one_sentence(tmp_path):
    source_files.parquet(tmp_path)
    random.seed(3)
    with serving(tmp_path) as server:
        source = data.open_source(f"parquet:{server.address}/{SHARDS['parquet']}")
        source.most_rows = 0  # keeps one row group in memory
    files.network_files().cache = DiskCache(tmp_path / "empty", 10**6)
    batches = data.OrderedBatches(source, 4, 16)
    with pytest.warns(UserWarning, match="does not answer"), pytest.raises(data.NetworkError) as e:
        next(iter(batches))
    words = r"http://127\S+ cannot be read: 6 tries within \d s ended with ConnectionRefusedError: .* again"
    assert e.match(words) and not batches.bad_images.reasons
    random_after = random.random()
    random.seed(3)
    assert random.random() == random_after  # waits are no part of a run's random numbers


def test_servers_that_are_no_use(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(10240))
    with serving(tmp_path) as server:
        for text, words in {
            f"webdataset:{server.address}/b.tar": r"There is no file http.*b\.tar",
            f"webdataset:{server.address}/x-{{00..03}}.tar": r"no file http.*x-00\.tar",
            f"webdataset:{server.address}/": "does not list its files: write out the numbers",
            f"webdataset:{server.address}/*.tar": "does not list its files: write out the numbers",
            f"folder:{server.address}/a": "folder reads no files over the network",
            "webdataset:nothing://a.tar": "Protocol not known: nothing",
            f"webdataset:{server.address}/a.tar": "holds no file ending in",
        }.items():
            with pytest.raises(ValueError, match=words):
                data.open_source(text)
        server.ranges = False
        with pytest.raises(data.NetworkError, match=r"sends no parts of files .*download"):
            data.open_source(f"webdataset:{server.address}/a.tar")
    with pytest.raises(ImportError, match="pip install gcsfs"):
        data.open_source("tfrecord:gs://bucket/a.tfrecord")


def size_of(folder) -> int:
    """Bytes of all entries, between two writes."""
    with open(folder / "nepa_keras_network" / "lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return sum(entry.stat().st_size for entry in folder.glob("*/*/*"))


def test_the_cache_keeps_to_its_bound_and_what_was_used_last(tmp_path):
    cache, other = (DiskCache(tmp_path, 20 * 4096) for _ in range(2))  # as of two processes

    def use(cache, key):
        for n in range(30):
            cache.put(key, {str(n): bytes([n]) * 4000})
            cache.get("kept", "index-of-all")
            assert cache.get("often", "0") == b"often"

    cache.put("kept", {"index-of-all": b"index"})
    cache.put("often", {"0": b"often"})
    threads = [threading.Thread(target=use, args=each) for each in ((cache, "a"), (other, "b"))]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert size_of(tmp_path) <= 20 * 4096
    for thread in threads:
        thread.join()
    assert cache.get("kept", "index-of-all") == b"index"
    assert cache.get("a", "29") == bytes([29]) * 4000 and cache.get("a", "0") is None
    assert (tmp_path / "nepa_keras_network" / "a" / "29").stat().st_blocks * 512 <= 4096


def test_half_a_block_is_never_read(tmp_path):
    cache = DiskCache(tmp_path, 10**6)
    cache.put("key", {"0": b"content"})
    file = tmp_path / "nepa_keras_network" / "key" / "0"
    whole = file.read_bytes()
    for damaged in (b"", whole[:3], whole[:-1], b"x" + whole[1:]):
        file.write_bytes(damaged)
        assert cache.get("key", "0") is None
    (file.parent / "unfinished-1").write_bytes(b"of a process that was killed")
    cache.put("key", {"0": b"content"})
    assert cache.get("key", "0") == b"content"
    cache.most = 4096
    cache.put("key", {"2": b"other"})
    assert [path.name for path in file.parent.iterdir()] == ["2"]


def test_settings_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NEPA_KERAS_CACHE_DIR", str(tmp_path / "given"))
    monkeypatch.setenv("NEPA_KERAS_CACHE_SIZE", "2.5")
    data.use_cache()
    cache = files.network_files().cache
    assert cache.folder.parent == tmp_path / "given" and cache.most == 2_500_000_000
    with pytest.raises(ValueError, match=r"limited to 0 GB; it needs at least 0.1 GB"):
        data.use_cache(size=0)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"stored in .*file .*name a folder by --cache_dir"):
        data.use_cache(tmp_path / "file")
    monkeypatch.setenv("NEPA_KERAS_CACHE_SIZE", "much")
    with pytest.raises(ValueError, match="NEPA_KERAS_CACHE_SIZE=much is no number"):
        data.use_cache()


def test_reading_on_and_on_asks_for_more_at_once(tmp_path, monkeypatch):
    content = np.random.default_rng(0).bytes(100_000)
    (tmp_path / "a").write_bytes(content)
    with serving(tmp_path) as server:
        network = NetworkFiles(DiskCache(tmp_path / "cache", 10**6))
        address = f"{server.address}/a"
        held = b"".join(network.read(address, start, 100) for start in range(0, 100_000, 100))
        assert held == content and server.requests < 12
        server.sent = 0
        network.cache = DiskCache(tmp_path / "other", 10**6)
        for start in (50_000, 3_000, 90_000):
            assert network.read(address, start, 500) == content[start : start + 500]
        assert server.sent == 3000  # a block for each: nothing is read ahead of scattered reads
        assert network.read(address, 99_990, 500) == content[99_990:]
        assert network.read(address, 200_000, 5) == b""
