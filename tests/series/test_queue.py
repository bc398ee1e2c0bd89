"""The queue of a series: what begins with another run waits for it, and is not begun where that failed."""

from robustdeploy.series.series import Job, Queue


class Runs:
    """A series of which some runs fail."""

    def __init__(self, *failing):
        self.failing = failing

    def missing(self, job):
        return "it failed" if job.name in self.failing else ""


JOBS = (Job("pretrain"), Job("tuned", ("pretrain",)), Job("alone"), Job("more", ("pretrain", "tuned")))


def test_a_run_waits_for_what_it_begins_with():
    queue = Queue(Runs(), JOBS)
    first, second = queue.ready(), queue.ready()
    assert (first.name, second.name, queue.ready()) == ("pretrain", "alone", None)
    queue.ended(second)
    assert queue.ready() is None
    queue.ended(first)
    assert queue.ready().name == "tuned"
    assert queue.ready() is None
    assert len(queue) == 1


def test_what_is_done_already_is_not_waited_for():
    queue = Queue(Runs(), JOBS[1:2])
    assert queue.ready().name == "tuned"


def test_what_begins_with_a_run_that_failed_is_taken_out_and_so_is_what_follows_it():
    queue = Queue(Runs("pretrain"), JOBS)
    queue.ended(queue.ready())
    assert [(job.name, need) for job, need in queue.hopeless()] == [("tuned", "pretrain"), ("more", "pretrain")]
    assert queue.ready().name == "alone"
    assert not len(queue)
