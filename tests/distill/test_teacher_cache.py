"""Teachers' outputs kept between runs: the same numbers by every way, whole or absent, within a budget."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from worker.distill import teacher_cache, teacher_table
from worker.distill.errors import StopRequested
from worker.distill.teacher_cache import BLOCK, TeacherCache, cache_key
from worker.distill.teacher_table import file_sha256

N = 3 * BLOCK + 40
PLENTY = 2**30
INDEX = torch.tensor([5, 0, N - 1, 300, 5])


class Teacher:
    """Outputs that are a function of the sample, and a count of the samples it was asked about."""

    def __init__(self, spread=1.0):
        self.spread, self.asked = spread, []

    def __call__(self, index):
        self.asked += index.tolist()
        generator = torch.Generator().manual_seed(int(index[0]))
        shapes = {"logits": (10,), "vector:layer3": (64,), "feature:layer1.0/x": (2, 3, 4)}
        return {
            name: torch.randn(len(index), *shape, generator=generator) * self.spread
            for name, shape in shapes.items()
        }


def cache(folder, budget=PLENTY, key="k", said=None):
    return TeacherCache(folder, budget, key, [].append if said is None else said.append)


def everything(table, n=N):
    return table.rows(torch.arange(n))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def full_disk(monkeypatch, after=0):
    """The disk takes `after` more writes."""
    real, done = teacher_table.write_all, []

    def write(file, data):
        if len(done) >= after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done.append(1)
        real(file, data)

    monkeypatch.setattr(teacher_table, "write_all", write)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- what is stored


def test_rows_are_the_outputs_rounded_to_half_precision(tmp_path):
    rows = everything(cache(tmp_path).table("plain", N, Teacher()))
    for start in range(0, N, BLOCK):
        stop = min(start + BLOCK, N)
        for name, value in Teacher()(torch.arange(start, stop)).items():
            found = rows[name][start:stop]
            assert found.dtype == torch.float32
            assert found.shape == value.shape
            normal = value.abs() > 2**-14  # below, half precision itself has fewer digits than we keep
            assert torch.equal(found[normal], value.half().float()[normal])
            torch.testing.assert_close(found, value, rtol=2**-11, atol=1e-7)


def test_rows_come_in_the_order_of_the_index_with_repetitions(tmp_path):
    table = cache(tmp_path).table("plain", N, Teacher())
    whole = everything(table)
    assert all(torch.equal(value, whole[name][INDEX]) for name, value in table.rows(INDEX).items())


@pytest.mark.parametrize("spread", [60.0, 1e6, 1e30, 1e-8, 0.0])
def test_no_size_of_the_values_is_beyond_what_is_stored(tmp_path, spread):
    said = everything(cache(tmp_path).table("plain", 7, Teacher(spread)), 7)
    for name, value in Teacher(spread)(torch.arange(7)).items():
        torch.testing.assert_close(said[name], value, rtol=2**-11, atol=spread * 1e-6)


def test_masked_logits_stay_masked_and_leave_the_others_alone(tmp_path):
    value = torch.tensor([[1.5, -float("inf"), 3.0], [float("nan"), 2.0, float("inf")]])
    rows = cache(tmp_path).table("plain", 2, lambda index: {"logits": value}).rows(torch.arange(2))
    torch.testing.assert_close(rows["logits"], value, equal_nan=True, rtol=0, atol=0)


def test_outputs_under_autocast_and_inference_mode_are_taken_as_they_are(tmp_path):
    with torch.inference_mode():
        value = torch.randn(4, 6).bfloat16()
    rows = cache(tmp_path).table("plain", 4, lambda index: {"logits": value}).rows(torch.arange(4))
    assert torch.equal(rows["logits"], value.float())
    assert not rows["logits"].is_inference()


def test_one_pass_in_ascending_blocks_of_one_size(tmp_path):
    sizes = []

    def compute(index):
        sizes.append((int(index[0]), len(index)))
        return Teacher()(index)

    cache(tmp_path).table("plain", N, compute)
    assert sizes == [(0, BLOCK), (BLOCK, BLOCK), (2 * BLOCK, BLOCK), (3 * BLOCK, 40)]


# ---- reuse


def test_a_later_run_finds_the_view_and_does_not_ask_the_teacher(tmp_path):
    first = everything(cache(tmp_path).table("s0.v3", N, Teacher()))
    later, teacher = cache(tmp_path), Teacher()
    assert same(everything(later.table("s0.v3", N, teacher)), first)
    assert teacher.asked == []


def test_views_and_keys_are_kept_apart(tmp_path):
    teacher = Teacher()
    for key, view in (("a", "s0.v0"), ("a", "s0.v1"), ("a", "strong.s0.v1"), ("b", "s0.v0")):
        cache(tmp_path, key=key).table(view, 5, teacher)
    assert teacher.asked == [0, 1, 2, 3, 4] * 4


def test_a_view_asked_for_again_in_the_same_run_is_the_same_table(tmp_path):
    run = cache(tmp_path)
    assert run.table("plain", N, Teacher()) is run.table("plain", N, Teacher())


def test_the_summary_says_what_was_computed_reused_and_saved(tmp_path):
    def slow(index):
        time.sleep(0.01)
        return Teacher()(index)

    first = cache(tmp_path)
    table = first.table("s0.v0", N, slow)
    everything(table)
    once = first.summary()
    assert (once["views_computed"], once["views_reused"], once["rows_served"]) == (1, 0, N)
    assert once["seconds_computing"] >= 0.04
    assert once["seconds_saved_estimate"] == 0  # each row was paid for
    assert once["bytes_on_disk"] == sum((tmp_path / name).stat().st_size for name in files(tmp_path))
    assert once["why_not"] == ""

    everything(table)
    assert first.summary()["seconds_saved_estimate"] == once["seconds_computing"]

    second = cache(tmp_path)
    everything(second.table("s0.v0", N, slow))
    again = second.summary()
    assert (again["views_computed"], again["views_reused"], again["seconds_computing"]) == (0, 1, 0)
    assert again["seconds_saved_estimate"] == once["seconds_computing"]
    assert json.loads(json.dumps(again)) == again


def test_a_view_computed_and_opened_again_later_is_not_called_reused(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "KEPT_OPEN", 1)
    run, teacher = cache(tmp_path), Teacher()
    for view in ("s0.v0", "s0.v1", "s0.v0"):
        run.table(view, 5, teacher)
    assert teacher.asked == [0, 1, 2, 3, 4] * 2
    assert (run.summary()["views_computed"], run.summary()["views_reused"]) == (2, 0)


def test_a_view_must_not_lead_out_of_the_folder(tmp_path):
    with pytest.raises(ValueError, match="names a folder"):
        cache(tmp_path).table("../plain", N, Teacher())


def test_the_key_is_a_function_of_the_parts_not_of_their_order():
    assert cache_key({"a": 1, "b": [2.5, "x"]}) == cache_key({"b": [2.5, "x"], "a": 1})
    assert cache_key({"a": 1}) != cache_key({"a": 2})


# ---- integrity


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda view: flip(view / "0.npy"),
        lambda view: flip(view / "scales.npy"),
        lambda view: (view / "1.npy").write_bytes((view / "1.npy").read_bytes()[:-10]),
        lambda view: (view / "2.npy").unlink(),
        lambda view: (view / "manifest.json").write_text('{"format": 1'),
        lambda view: (view / "manifest.json").unlink(),
    ],
    ids=["a bit", "a scale", "cut short", "a file missing", "half a manifest", "no manifest"],
)
def test_a_damaged_view_is_said_dropped_and_computed_again(tmp_path, damage):
    first = everything(cache(tmp_path).table("plain", N, Teacher()))
    whole = files(tmp_path)
    damage(tmp_path / "k" / "plain")
    said, teacher = [], Teacher()
    assert same(everything(cache(tmp_path, said=said).table("plain", N, teacher)), first)
    assert teacher.asked == list(range(N))
    assert [(event.level, "damaged" in event.text) for event in said] == [("warning", True)]
    assert files(tmp_path) == whole
    untouched = Teacher()
    cache(tmp_path).table("plain", N, untouched)
    assert untouched.asked == []


def test_a_view_of_another_number_of_samples_is_not_taken_for_this_one(tmp_path):
    cache(tmp_path).table("plain", 8, Teacher())
    rows = everything(cache(tmp_path).table("plain", 4, Teacher()), 4)
    assert rows["logits"].shape == (4, 10)


def test_the_manifest_holds_the_hash_of_each_file(tmp_path):
    cache(tmp_path).table("plain", N, Teacher())
    view = tmp_path / "k" / "plain"
    manifest = json.loads((view / "manifest.json").read_text())
    assert list(manifest["outputs"]) == ["logits", "vector:layer3", "feature:layer1.0/x"]
    for stored in [*manifest["outputs"].values(), manifest["scales"]]:
        assert file_sha256(view / stored["file"]) == stored["sha256"]
    assert manifest["outputs"]["feature:layer1.0/x"]["shape"] == [N, 2, 3, 4]


# ---- stopping


def test_a_stop_in_the_middle_leaves_nothing(tmp_path):
    teacher = Teacher()
    with pytest.raises(StopRequested):
        cache(tmp_path).table("plain", N, teacher, lambda: len(teacher.asked) >= 2 * BLOCK)
    assert len(teacher.asked) == 2 * BLOCK
    assert files(tmp_path) == []


def test_a_teacher_that_fails_in_the_middle_leaves_nothing(tmp_path):
    def fails(index):
        if index[0] >= 2 * BLOCK:
            raise RuntimeError("out of memory")
        return Teacher()(index)

    with pytest.raises(RuntimeError, match="out of memory"):
        cache(tmp_path).table("plain", N, fails)
    assert files(tmp_path) == []


def test_what_a_killed_process_was_computing_is_swept_later(tmp_path):
    old, young = tmp_path / "x" / ".computing-1", tmp_path / "k" / ".computing-2"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "0.npy").write_bytes(b"half")
    for path in (old / "0.npy", old):
        os.utime(path, (1, 1))
    cache(tmp_path).table("plain", 5, Teacher())
    assert not old.exists()
    assert young.exists()


# ---- budget and eviction


def size_of_one(tmp_path):
    folder = tmp_path / "measure"
    cache(folder).table("plain", N, Teacher())
    return sum((folder / name).stat().st_size for name in files(folder))


def age(view, seconds):
    os.utime(view / "manifest.json", (time.time() - seconds,) * 2)


def test_what_exceeds_the_budget_is_computed_at_each_step_and_said_once(tmp_path):
    said, teacher = [], Teacher()
    run = cache(tmp_path / "c", budget=10_000, said=said)
    assert run.table("s0.v0", N, teacher) is None
    assert run.table("s0.v1", N, teacher) is None
    assert teacher.asked == [*range(BLOCK)] * 2  # one block shows that it does not fit
    assert [event.text for event in said] == [
        "The teacher is computed at each step: "
        "keeping vector:layer3 (with 2 smaller) needs 92.3 kB of a budget of 10 kB."
    ]
    assert run.summary()["why_not"] in said[0].text
    assert files(tmp_path) == []


def test_other_keys_views_make_room_the_least_recently_used_first(tmp_path):
    one = size_of_one(tmp_path)
    folder = tmp_path / "c"
    for key, seconds in (("a", 300), ("b", 500), ("c", 100)):
        cache(folder, key=key).table("plain", N, Teacher())
        age(folder / key / "plain", seconds)
    assert cache(folder, budget=int(3.5 * one)).table("plain", N, Teacher()) is not None
    assert sorted(path.parent.parent.name for path in folder.glob("*/*/manifest.json")) == ["a", "c", "k"]


def test_using_a_view_makes_it_recent(tmp_path):
    one = size_of_one(tmp_path)
    folder = tmp_path / "c"
    for key, seconds in (("a", 500), ("b", 300)):
        cache(folder, key=key).table("plain", N, Teacher())
        age(folder / key / "plain", seconds)
    cache(folder, key="a").table("plain", N, Teacher())
    cache(folder, budget=int(2.5 * one)).table("plain", N, Teacher())
    assert sorted(path.parent.parent.name for path in folder.glob("*/*/manifest.json")) == ["a", "k"]


def test_a_view_in_use_is_never_evicted(tmp_path):
    one = size_of_one(tmp_path)
    folder = tmp_path / "c"
    used = cache(folder, key="a")
    table = used.table("plain", N, Teacher())
    age(folder / "a" / "plain", 500)
    run = cache(folder, budget=int(1.5 * one))
    assert run.table("plain", N, Teacher()) is None
    assert (folder / "a" / "plain").exists()
    del table, used
    assert run.table("plain", N, Teacher()) is not None
    assert not (folder / "a" / "plain").exists()


def test_a_run_does_not_evict_what_it_has_used_itself(tmp_path, monkeypatch):
    """Views used in turn would push each other out for ever."""
    one = size_of_one(tmp_path)
    monkeypatch.setattr(teacher_cache, "KEPT_OPEN", 1)
    run = cache(tmp_path / "c", budget=int(2.5 * one))
    assert [run.table(f"s0.v{k}", N, Teacher()) is None for k in range(3)] == [False, False, True]


def test_nothing_is_evicted_for_a_view_that_does_not_fit_even_then(tmp_path):
    folder = tmp_path / "c"
    cache(folder, key="a").table("plain", 150, Teacher())
    before = files(folder)
    assert cache(folder, budget=50_000).table("plain", N, Teacher()) is None
    assert files(folder) == before


def test_a_table_outlives_its_eviction_by_another_process(tmp_path):
    run = cache(tmp_path)
    table = run.table("plain", N, Teacher())
    before = everything(table)
    teacher_cache._drop(tmp_path / "k" / "plain")
    assert same(everything(table), before)
    assert files(tmp_path) == []


# ---- a full disk


@pytest.mark.parametrize("writes", [0, 3, 7, 11, 15, 16, 17])
def test_with_a_full_disk_the_same_numbers_come_from_memory(tmp_path, monkeypatch, writes):
    """3 headers, 4 blocks of 3 outputs, the scales' header and content, the manifest."""
    expected = everything(cache(tmp_path / "good").table("plain", N, Teacher()))
    full_disk(monkeypatch, writes)
    said, teacher = [], Teacher()
    run = cache(tmp_path / "full", said=said)
    table = run.table("plain", N, teacher)
    assert same(everything(table), expected)
    assert teacher.asked == list(range(N))  # one pass, whenever the disk was full
    assert files(tmp_path / "full") == []
    assert [event.level for event in said] == ["warning"]
    assert "No space left on device" in said[0].text
    assert "in memory" in said[0].text
    assert run.table("plain", N, teacher) is table
    assert run.table("s0.v1", N, teacher) is not table
    assert len(said) == 1


def test_with_a_full_disk_and_little_memory_the_teacher_is_computed_at_each_step(tmp_path, monkeypatch):
    full_disk(monkeypatch, 5)
    monkeypatch.setattr(teacher_cache, "_available", lambda: 200_000)
    said = []
    run = cache(tmp_path, said=said)
    assert run.table("plain", N, Teacher()) is None
    assert files(tmp_path) == []
    assert [event.level for event in said] == ["warning"]
    assert said[0].text.startswith("The teacher is computed at each step: the cache in ")
    assert run.summary()["why_not"]


def test_views_in_memory_take_a_quarter_of_it_the_oldest_go_first(tmp_path, monkeypatch):
    full_disk(monkeypatch)
    monkeypatch.setattr(teacher_cache, "_available", lambda: 600_000)
    run, teacher = cache(tmp_path), Teacher()
    for view in ("a", "b", "c", "d"):
        run.table(view, N, teacher)
    held = sum(table.nbytes for table in run._memory.values())
    assert list(run._memory)[-1] == "d"
    assert "a" not in run._memory
    assert held <= (600_000 + held) / 4


def test_a_folder_that_cannot_be_made_is_like_a_full_disk(tmp_path):
    (tmp_path / "file").write_text("in the way")
    said = []
    table = cache(tmp_path / "file", said=said).table("plain", N, Teacher())
    assert len(everything(table)["logits"]) == N
    assert "cannot be written" in said[0].text


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from tests.distill.test_teacher_cache import N, Teacher, cache, everything
folder, said = Path(sys.argv[1]), []
no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (25_000, no_limit[1]))
rows = everything(cache(folder / "limited", said=said).table("plain", N, Teacher()))
resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
torch.save(rows, folder / "rows.pt")
print(said[0].text)
"""


def run_python(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size")
def test_a_block_of_which_the_system_takes_only_a_part_is_not_lost(tmp_path):
    """A block of vectors has 16,384 bytes; a file may have 25,000."""
    process = run_python(LIMITED, tmp_path)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    assert b"in memory" in said
    rows = torch.load(tmp_path / "rows.pt", weights_only=True)
    assert same(rows, everything(cache(tmp_path / "good").table("plain", N, Teacher())))
    assert files(tmp_path / "limited") == []


# ---- several processes

BUILD = """
import sys, time
from pathlib import Path
import torch
from tests.distill.test_teacher_cache import N, PLENTY, Teacher, everything
from worker.distill.teacher_cache import TeacherCache
folder = Path(sys.argv[1])
teacher = Teacher()
def compute(index):
    if not teacher.asked:  # neither goes on before the other has begun to compute
        (folder / f"began-{sys.argv[2]}").touch()
        while len(list(folder.glob("began-*"))) < 2:
            time.sleep(0.01)
    return teacher(index)
cache = TeacherCache(folder / "cache", PLENTY, "k", print)
rows = everything(cache.table("plain", N, compute))
torch.save(rows, folder / f"rows-{sys.argv[2]}.pt")
"""


def test_two_processes_that_compute_a_view_at_once_end_with_one_whole_view(tmp_path):
    pair = [run_python(BUILD, tmp_path, k) for k in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert outputs == [b"", b""]  # nothing damaged, nothing said
    first, second = (torch.load(tmp_path / f"rows-{k}.pt", weights_only=True) for k in range(2))
    assert same(first, second)
    assert files(tmp_path / "cache") == [f"k/plain/{k}.npy" for k in range(3)] + [
        "k/plain/manifest.json",
        "k/plain/scales.npy",
    ]
    teacher = Teacher()
    assert same(everything(cache(tmp_path / "cache").table("plain", N, teacher)), first)
    assert teacher.asked == []


def test_the_slower_of_two_uses_what_the_faster_has_put_there(tmp_path):
    """The other process finishes while this one computes."""
    teacher = Teacher()

    def overtaken(index):
        if index[0] == BLOCK:
            cache(tmp_path).table("plain", N, Teacher())
        return teacher(index)

    run = cache(tmp_path)
    table = run.table("plain", N, overtaken)
    assert table is run.table("plain", N, teacher)
    assert same(everything(table), everything(cache(tmp_path).table("plain", N, Teacher())))
    assert not list(tmp_path.glob("*/.*"))


def test_a_damaged_view_in_the_way_gives_way(tmp_path):
    teacher = Teacher()

    def overtaken(index):
        if index[0] == BLOCK:
            cache(tmp_path).table("plain", N, Teacher())
            flip(tmp_path / "k" / "plain" / "1.npy")
        return teacher(index)

    cache(tmp_path).table("plain", N, overtaken)
    untouched = Teacher()
    cache(tmp_path).table("plain", N, untouched)
    assert untouched.asked == []


# ---- devices


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("limit", [teacher_table.ON_DEVICE, 0])
def test_rows_on_a_gpu_are_those_on_the_cpu(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(teacher_table, "ON_DEVICE", limit)
    table = cache(tmp_path).table("plain", N, Teacher())
    there = table.rows(INDEX.cuda())
    assert all(value.is_cuda for value in there.values())
    assert same({name: value.cpu() for name, value in there.items()}, table.rows(INDEX))
