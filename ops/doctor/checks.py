"""All checks, in the order in which they are told."""

from typing import Final

from ops.doctor.finding import Check
from ops.doctor.keys import keys, settings
from ops.doctor.log import kafka, lag
from ops.doctor.machine import disk, ports, processes
from ops.doctor.models import device, encoder
from ops.doctor.store import clock, store
from ops.doctor.teacher import teacher
from ops.doctor.versions import answers, versions

_LONG_S: Final = 120.0  # every file of every version is hashed; a teacher has its own time-out

CHECKS: Final[tuple[Check, ...]] = (
    Check(name="settings", look=settings),
    Check(name="keys", look=keys),
    Check(name="teacher", look=teacher, limit_s=_LONG_S),
    Check(name="redis", look=store, limit_s=60.0),
    Check(name="kafka", look=kafka, limit_s=60.0),
    Check(name="lag", look=lag, limit_s=60.0, mend="understudy lag"),
    Check(name="encoder", look=encoder, limit_s=60.0),
    Check(name="device", look=device, limit_s=60.0),
    Check(name="disk", look=disk, mend="df -h"),
    Check(name="clock", look=clock),
    Check(name="ports", look=ports),
    Check(name="processes", look=processes),
    Check(name="versions", look=versions, limit_s=_LONG_S, mend="understudy verify"),
    Check(name="answers", look=answers, limit_s=60.0, mend="understudy buffer stats"),
)
