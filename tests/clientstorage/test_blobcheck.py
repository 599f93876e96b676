"""Keeping a cache directory of blobs at its size."""

import contextlib
import fcntl
import os
import threading

import pytest

from tests.support.blocking import Gate
from tests.support.waiting import wait_until
from zeolite.clientstorage.blobcheck import SizeCheck, is_at, try_lock


def blob(tmp_path, name, size, used):
    """Make a file that was last used at a time (seconds)."""
    bucket = tmp_path / str(len(name))
    bucket.mkdir(exist_ok=True)
    path = bucket / name
    path.write_bytes(b"x" * size)
    os.utime(path, (used, 0))
    return path


@pytest.fixture
def watch(tmp_path):
    """Call it with size and share to get a `SizeCheck` that has looked once."""
    checks = []

    def watch(size, share, path=tmp_path):
        check = SizeCheck(str(path), size, share)
        checks.append(check)
        wait_until(lambda: check._thread is None)
        return check

    yield watch
    for check in checks:
        check.close()


def total(tmp_path):
    size = 0
    for path in tmp_path.glob("*/*.blob"):
        with contextlib.suppress(FileNotFoundError):  # It is removed just now.
            size += path.stat().st_size
    return size


def stop_after_removing(check):
    """Stop the next removal of old blobs when it is done; return the gate."""
    gate, remove = Gate(), check._remove

    def stopped(target):
        check._remove = remove
        remove(target)
        gate.stop_here()

    check._remove = stopped
    return gate


class TestWhatIsRemoved:
    def test_what_was_not_used_for_longest(self, watch, tmp_path):
        paths = {used: blob(tmp_path, f"{used}.blob", 100, used) for used in (3, 1, 2)}
        watch(220, 10)
        assert [used for used in (1, 2, 3) if paths[used].exists()] == [3]

    def test_nothing_as_long_as_there_is_room(self, watch, tmp_path):
        for used in range(9):
            blob(tmp_path, f"{used}.blob", 100, used)
        watch(1000, 10)
        assert total(tmp_path) == 900

    def test_never_what_is_open(self, watch, tmp_path):
        old, new = (blob(tmp_path, f"{n}.blob", 100, n) for n in (1, 2))
        with open(old) as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            watch(110, 10)
            assert old.exists() and not new.exists()

    def test_downloads_whose_process_is_gone(self, watch, tmp_path):
        left, running = (blob(tmp_path, f"{n}.blob.dl", 100, n) for n in (1, 2))
        with open(running) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            watch(1000, 10)
            assert running.exists() and not left.exists()

    def test_other_files_stay(self, watch, tmp_path):
        others = [blob(tmp_path, name, 100, 1) for name in ("a", "README.txt")]
        (tmp_path / "tmp").mkdir()
        others.append(tmp_path / "tmp" / "x.blob")
        others[-1].write_bytes(b"x" * 100)
        watch(10, 10)
        assert all(path.exists() for path in others)

    def test_no_limit(self, watch, tmp_path):
        path = blob(tmp_path, "1.blob", 10**6, 1)
        watch(None, 10).added(10**9)
        assert path.exists()
        assert os.listdir(tmp_path) == [path.parent.name]


class TestWhenItLooks:
    def test_when_the_share_has_come_in(self, watch, tmp_path):
        check = watch(1000, 10)
        for used in range(20):
            blob(tmp_path, f"{used:02}.blob", 100, used)
        check.added(99)
        assert check._thread is None
        assert total(tmp_path) == 2000
        check.added(1)
        wait_until(lambda: check._thread is None)
        assert total(tmp_path) == 900

    def test_share_of_nothing_means_always(self, watch, tmp_path):
        check = watch(1000, 0)
        for used in range(11):
            blob(tmp_path, f"{used:02}.blob", 100, used)
        check.added(1)
        wait_until(lambda: total(tmp_path) == 900)

    def test_later_where_there_can_be_no_thread_now(self, watch, tmp_path, monkeypatch):
        check = watch(1000, 10)
        for used in range(20):
            blob(tmp_path, f"{used:02}.blob", 100, used)
        with monkeypatch.context() as patched:

            def too_many(thread):
                raise RuntimeError("can't start new thread")

            patched.setattr(threading.Thread, "start", too_many)
            check.added(100)
        check.added(1)
        wait_until(lambda: total(tmp_path) == 900)

    def test_storages_count_together(self, watch, tmp_path):
        first, second = watch(1000, 10), watch(1000, 10)
        for used in range(20):
            blob(tmp_path, f"{used:02}.blob", 100, used)
        first.added(50)
        second.added(50)
        wait_until(lambda: total(tmp_path) == 900)

    def test_what_comes_in_during_a_check_is_not_forgotten(self, watch, tmp_path):
        check = watch(1000, 10)
        gate = stop_after_removing(check)
        check.added(100)
        gate.wait_until_reached()
        for used in range(20):
            blob(tmp_path, f"{used:02}.blob", 100, used)
        check.added(2000)
        gate.open()
        wait_until(lambda: total(tmp_path) == 900)

    def test_what_another_process_could_not_check_meanwhile(self, watch, tmp_path):
        # The other one finds the lock taken; who has it counts again.
        check, other = watch(1000, 10), watch(1000, 10)
        gate = stop_after_removing(check)
        check.added(100)
        gate.wait_until_reached()
        for used in range(20):
            blob(tmp_path, f"{used:02}.blob", 100, used)
        other.added(2000)
        wait_until(lambda: other._thread is None)
        assert total(tmp_path) == 2000
        gate.open()
        wait_until(lambda: total(tmp_path) == 900)

    def test_after_it_was_closed(self, watch, tmp_path):
        check = watch(1000, 10)
        check.close()
        check.added(10**6)
        assert check._thread is None

    def test_closing_waits_for_the_thread(self, watch, tmp_path):
        check, gate = watch(1000, 10), Gate()
        check._remove = lambda target: gate.stop_here()
        check.added(100)
        gate.wait_until_reached()
        closing = threading.Thread(target=check.close)
        closing.start()
        wait_until(lambda: check._closed)
        assert closing.is_alive()
        gate.open()
        closing.join(20)
        assert check._thread is None

    def test_failure_is_logged_and_the_next_one_works(self, watch, tmp_path, caplog):
        check = watch(1000, 10)
        remove = check._remove

        def fail(target):
            check._remove = remove
            raise OSError("no such luck")

        check._remove = fail
        for used in range(20):
            blob(tmp_path, f"{used:02}.blob", 100, used)
        check.added(100)
        wait_until(lambda: check._thread is None)
        assert "removing old blobs failed" in caplog.text
        check.added(100)
        wait_until(lambda: total(tmp_path) == 900)


class TestTheCount:
    @pytest.mark.parametrize("content", [b"", b"abc", b"-5", b"9" * 19 + b"x"])
    def test_nonsense(self, watch, tmp_path, content):
        (tmp_path / "check_size.added").write_bytes(content)
        watch(1000, 10).added(5)
        assert int((tmp_path / "check_size.added").read_bytes()[:20]) == 5

    def test_needs_no_more_room_as_it_grows(self, watch, tmp_path):
        check = watch(10**12, 10)
        path = tmp_path / "check_size.added"
        sizes = set()
        for size in (1, 10**3, 10**9):
            check.added(size)
            sizes.add(path.stat().st_size)
        assert len(sizes) == 1

    def test_processes_count_one_after_the_other(self, watch, tmp_path, monkeypatch):
        """What is added is added to what another process has written meanwhile."""
        check = watch(1000, 90)
        path = tmp_path / "check_size.added"
        locking, flock = threading.Event(), fcntl.flock
        with open(path, "r+b", buffering=0) as other:
            flock(other, fcntl.LOCK_EX)

            def announced(*args):
                locking.set()
                flock(*args)

            monkeypatch.setattr(fcntl, "flock", announced)
            adding = threading.Thread(target=check.added, args=(5,))
            adding.start()
            assert locking.wait(20)
            other.write(b"%020d" % 100)
            flock(other, fcntl.LOCK_UN)
        adding.join()
        assert int(path.read_text()) == 105


class TestLocks:
    def test_no_descriptor_is_kept(self, watch, tmp_path):
        path = tmp_path / "lock"
        check = watch(100, 10)
        held = try_lock(path, create=True)
        before = len(os.listdir("/dev/fd"))
        for number in range(20):
            assert try_lock(path) is None
            blob(tmp_path, f"{number}.blob", 1000, number)
            check.check()
        assert len(os.listdir("/dev/fd")) == before
        os.close(held)

    def test_one_at_a_time(self, tmp_path):
        path = tmp_path / "lock"
        handle = try_lock(path, create=True)
        assert try_lock(path) is None
        os.close(handle)
        os.close(try_lock(path))
        with pytest.raises(FileNotFoundError):
            try_lock(tmp_path / "none")

    def test_file_that_was_replaced(self, tmp_path):
        path = tmp_path / "file"
        path.write_text("")
        with open(path) as file:
            assert is_at(file.fileno(), path)
            (tmp_path / "other").write_text("")
            os.replace(tmp_path / "other", path)
            assert not is_at(file.fileno(), path)
            path.unlink()
            assert not is_at(file.fileno(), path)
