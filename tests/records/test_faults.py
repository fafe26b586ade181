"""Records under fire: killed processes, two at a time, a folder that cannot be written, a full disk."""

import json
import os
import random
import subprocess
import sys
import time

import pytest

from lib import store
from tests.processes import warm_up

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("COMPANION_KILLS", 6))  # the release check takes 100


def test_runs_killed_at_random_moments_leave_nothing_damaged(house):
    """`kill -9` while cards, tables and chunks are written; then a whole run is right and says nothing of damage."""
    draw, whole = random.Random(0), {"model": "RN101,ViT-B-32", "limit": 4}
    warm_up()
    began = time.perf_counter()
    reference = house.measure(**whole)
    length, finished, killed = time.perf_counter() - began, True, 0
    for _ in range(KILLS):
        if finished:  # so that there is something to write
            house.empty()
        running = house.start(**whole)
        time.sleep(draw.uniform(0, 1.1) * length)
        running.kill()
        finished, killed = not running.was_killed, killed + running.was_killed
        assert all(store.read_record(card) for card in house.cards())
    assert killed
    last = house.measure(**whole)
    assert last["mean"] == reference["mean"] and last["models"] == ["RN101", "ViT-B-32"]
    assert "damaged" not in last["said"]


def test_two_processes_on_one_row_give_one_result_and_both_are_right(house):
    running = [house.start(limit=6) for _ in range(2)]
    found = [json.loads(r.finish().stdout.splitlines()[-1]) for r in running]
    assert found[0]["mean"] == found[1]["mean"] and len(house.cards()) == 1
    assert found[0]["written"] == found[1]["written"]  # the second waited and found the first one's


def test_a_folder_that_cannot_be_written_costs_the_record_and_not_the_result(house):
    house.results.write_text("a file where the folder should be")
    found = house.measure()
    assert "is not kept" in found["said"] and found["models"] == ["RN101"]
    assert found["said"].count("The record of RN101 is not kept") == 1


def test_a_full_disk_costs_the_record_and_not_the_result(house):
    """A file size limit stands in for the full disk: writing fails with an OSError in the middle."""
    script = f"ulimit -f 2; exec {sys.executable} measure.py '{{}}'"
    environment = house.environment() | {"COMPANION_CACHE": str(house.root / "cache")}
    prologue = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    (house.root / "measure.py").write_text(prologue + (house.root / "measure.py").read_text())
    done = subprocess.run(
        ["bash", "-c", script], cwd=house.root, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "is not kept" in done.stderr and json.loads(done.stdout.splitlines()[-1])["models"] == ["RN101"]
    assert not [p for p in house.results.rglob("*") if p.is_file() and p.name.startswith(".")]
