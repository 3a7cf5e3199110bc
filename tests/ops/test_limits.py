"""Files are raised as far as they may be, and connections leave room for everything else."""

import json
import subprocess
import sys

import pytest

from ops.processes.limits import connection_limit
from tests.ops.children import REPOSITORY

PROGRAM = """
import json, resource, sys
soft, hard = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from ops.processes.limits import raise_file_limit
print(json.dumps([raise_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE)]))
"""


@pytest.mark.parametrize(("soft", "hard"), [(256, 1024), (1024, 1024), (300, 300)])
def test_the_soft_limit_becomes_the_hard_one(soft: int, hard: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(soft), str(hard)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [hard, hard, hard]


@pytest.mark.parametrize(
    ("files", "teacher_calls", "connections"),
    [(65_536, 16, 4096), (1024, 16, 848), (256, 16, 80), (128, 16, 16), (1024, 2000, 16)],
)
def test_connections_leave_files_for_redis_the_teacher_and_the_admin_port(
    files: int, teacher_calls: int, connections: int
) -> None:
    assert connection_limit(files, teacher_calls) == connections
