"""The commit lock by itself."""

import threading

from zeolite.storageserver.commitlock import CommitLock


class TestCommitLock:
    def test_hand_over_in_order(self):
        lock = CommitLock()
        assert lock.acquire("a") is True
        assert lock.acquire("b") is False
        assert lock.acquire("c") is False
        lock.release("a")
        assert lock.next() == "b"
        assert lock.withdraw("b") is False
        assert lock.withdraw("c") is True
        lock.release("b")
        assert lock.acquire("d") is True

    def test_nobody_overtakes(self):
        lock = CommitLock()
        lock.acquire("a")
        lock.acquire("b")
        lock.release("a")
        assert lock.acquire("c") is False

    def test_look_tells_who_has_it_and_for_how_long(self):
        lock = CommitLock()
        assert lock.look()[:2] == (None, [])
        lock.acquire("a", 10.0)
        lock.acquire("b", 11.0)
        lock.acquire("c", 12.0)
        assert lock.look()[:2] == (("a", 10.0), [("b", 11.0), ("c", 12.0)])
        lock.withdraw("c")
        lock.release("a", 14.0)
        holder, queue, waits, holds = lock.look()
        assert (holder, queue) == (("b", 14.0), [])
        assert (waits.sum, sum(waits.counts)) == (3.0, 2)
        assert (holds.sum, sum(holds.counts)) == (4.0, 1)
        lock.release("b", 14.5)
        assert lock.look()[0] is None
        assert (holds.sum, lock.look()[3].sum) == (4.0, 4.5)

    def test_close_ends_the_waits(self):
        lock = CommitLock()
        ended = []
        threads = [
            threading.Thread(target=lambda: ended.append(lock.next())),
            threading.Thread(target=lambda: ended.append(lock.expired(1000))),
        ]
        for thread in threads:
            thread.start()
        lock.close()
        for thread in threads:
            thread.join()
        assert ended == [None, None]
